"""Where the files lie: a local folder or an S3 bucket, and the locks."""
