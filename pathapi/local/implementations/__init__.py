"""The local doubles of S3, Google Cloud Storage and Azure, and what to put into `implementation_registry`."""

from pathapi.local.implementations.azure import (
    LocalAzureBlobClient,
    LocalAzureBlobPath,
    local_azure_blob_implementation,
)
from pathapi.local.implementations.gs import LocalGSClient, LocalGSPath, local_gs_implementation
from pathapi.local.implementations.s3 import LocalS3Client, LocalS3Path, local_s3_implementation

# fmt: off
__all__ = [
    "LocalAzureBlobClient", "LocalAzureBlobPath", "LocalGSClient", "LocalGSPath", "LocalS3Client", "LocalS3Path",
    "local_azure_blob_implementation", "local_gs_implementation", "local_s3_implementation",
]
