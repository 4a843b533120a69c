"""See `pathapi.clouds.azure`."""

from pathapi.clouds.azure import AzureBlobClient

__all__ = ["AzureBlobClient"]
