"""See `pathapi.clouds.s3`."""

from pathapi.clouds.s3 import S3Client

__all__ = ["S3Client"]
