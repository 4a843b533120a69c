"""See `pathapi.clouds.azure`."""

from pathapi.clouds.azure import AzureBlobPath

__all__ = ["AzureBlobPath"]
