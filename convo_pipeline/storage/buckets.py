"""Open the bucket of a URL: `s3://`, `gs://` or `az://`. The libraries are imported when needed."""

from convo_pipeline.base.extras import needs_extra
from convo_pipeline.storage.objects import ObjectStore


def open_bucket(url: str, endpoint_url: str = "") -> ObjectStore:
    """Return the objects below a URL, without a request.

    Raises SettingsError, which names the extra, if the library of the provider is missing.
    """
    if url.startswith("gs://"):
        with needs_extra("gcs"):
            from convo_pipeline.storage.gcs import GoogleBucket

        return GoogleBucket(url, endpoint_url)
    if url.startswith("az://"):
        with needs_extra("azure"):
            from convo_pipeline.storage.azure import AzureContainer

        return AzureContainer(url, endpoint_url)
    with needs_extra("s3"):
        from convo_pipeline.storage.s3 import S3Bucket  # importing boto3 is slow

    return S3Bucket(url, endpoint_url)
