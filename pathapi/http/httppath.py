"""See `pathapi.clouds.http`."""

from pathapi.clouds.http import HttpPath, HttpsPath

__all__ = ["HttpPath", "HttpsPath"]
