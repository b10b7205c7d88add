"""Where the files lie: a local folder or a bucket, and the locks."""
