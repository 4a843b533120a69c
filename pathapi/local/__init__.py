"""Clients and paths for tests: a directory of this machine in place of S3, Google Cloud Storage or Azure.

    monkeypatch.setitem(implementation_registry, "s3", local_s3_implementation)

makes `CloudPath` use them for every ``s3://`` path from then on. Or put `LocalS3Client` and `LocalS3Path` in the place
of `S3Client` and `S3Path`, whose subclasses they are.
"""

from pathapi.local.implementations import (
    LocalAzureBlobClient,
    LocalAzureBlobPath,
    LocalGSClient,
    LocalGSPath,
    LocalS3Client,
    LocalS3Path,
    local_azure_blob_implementation,
    local_gs_implementation,
    local_s3_implementation,
)
from pathapi.local.localclient import LocalClient
from pathapi.local.localpath import LocalPath

# fmt: off
__all__ = [
    "LocalAzureBlobClient", "LocalAzureBlobPath", "LocalClient", "LocalGSClient", "LocalGSPath", "LocalPath",
    "LocalS3Client", "LocalS3Path", "local_azure_blob_implementation", "local_gs_implementation",
    "local_s3_implementation",
]
