"""Paths in clouds that behave like `pathlib.Path`, read through a content-addressed store.

    from pathapi import CloudPath

    for image in CloudPath("s3://bucket/images/").glob("*.png"):
        with image.open("rb") as file: ...

Clouds' SDKs are imported when first used, and so is everything below that a program does not name.
"""

from typing import TYPE_CHECKING, Any

from casstore import __version__
from pathapi.path import CloudPath
from pathapi.registry import implementation_registry

if TYPE_CHECKING:
    from pathapi.azure import AzureBlobClient, AzureBlobPath
    from pathapi.bars import progress_bar
    from pathapi.file import FileClient, FilePath
    from pathapi.gs import GSClient, GSPath
    from pathapi.http import HttpClient, HttpPath, HttpsClient, HttpsPath
    from pathapi.prefetching import prefetch
    from pathapi.progress import Progress
    from pathapi.s3 import S3Client, S3Path

_LAZY = {
    "AzureBlobClient": "pathapi.azure",
    "AzureBlobPath": "pathapi.azure",
    "FileClient": "pathapi.file",
    "FilePath": "pathapi.file",
    "GSClient": "pathapi.gs",
    "GSPath": "pathapi.gs",
    "HttpClient": "pathapi.http",
    "HttpPath": "pathapi.http",
    "HttpsClient": "pathapi.http",
    "HttpsPath": "pathapi.http",
    "S3Client": "pathapi.s3",
    "S3Path": "pathapi.s3",
    "Progress": "pathapi.progress",
    "prefetch": "pathapi.prefetching",
    "progress_bar": "pathapi.bars",
}

__all__ = [
    "AzureBlobClient",
    "AzureBlobPath",
    "CloudPath",
    "FileClient",
    "FilePath",
    "GSClient",
    "GSPath",
    "HttpClient",
    "HttpPath",
    "HttpsClient",
    "HttpsPath",
    "Progress",
    "S3Client",
    "S3Path",
    "__version__",
    "implementation_registry",
    "prefetch",
    "progress_bar",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        value = getattr(import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
