"""cloudpathlib's names of what is in `pathapi.clouds.azure`."""

from pathapi.clouds.azure import AzureBlobClient, AzureBlobPath

__all__ = ["AzureBlobClient", "AzureBlobPath"]
