"""cloudpathlib's names of what is in `pathapi.clouds.s3`."""

from pathapi.clouds.s3 import S3Client, S3Path

__all__ = ["S3Client", "S3Path"]
