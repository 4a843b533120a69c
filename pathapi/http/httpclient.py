"""See `pathapi.clouds.http`."""

from pathapi.clouds.http import HttpClient, HttpsClient

__all__ = ["HttpClient", "HttpsClient"]
