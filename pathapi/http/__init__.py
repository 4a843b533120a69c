"""cloudpathlib's names of what is in `pathapi.clouds.http`."""

from pathapi.clouds.http import HttpClient, HttpPath, HttpsClient, HttpsPath

__all__ = ["HttpClient", "HttpsClient", "HttpPath", "HttpsPath"]
