"""See `pathapi.clouds.s3`."""

from pathapi.clouds.s3 import S3Path

__all__ = ["S3Path"]
