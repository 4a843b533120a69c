"""Paths in clouds that behave like `pathlib.Path`, read through a content-addressed store.

    from pathapi import CloudPath

    for image in CloudPath("s3://bucket/images/").glob("*.png"):
        with image.open("rb") as file: ...

Clouds' SDKs are imported when first used, and so is everything below that a program does not name.
"""

import os
from typing import TYPE_CHECKING, Any

from casstore import __version__
from pathapi.client import set_default_client
from pathapi.path.cloud_path import CloudPath
from pathapi.registry import implementation_registry

if TYPE_CHECKING:
    from pathapi.anypath import AnyPath
    from pathapi.clouds.azure import AzureBlobClient, AzureBlobPath
    from pathapi.clouds.file import FileClient, FilePath
    from pathapi.clouds.gs import GSClient, GSPath
    from pathapi.clouds.http import HttpClient, HttpPath, HttpsClient, HttpsPath
    from pathapi.clouds.s3 import S3Client, S3Path
    from pathapi.common.alias import install_as_cloudpathlib
    from pathapi.parallel.progress import Progress, progress_bar
    from pathapi.patches import patch_all_builtins, patch_glob, patch_open, patch_os_functions
    from pathapi.prefetching import prefetch

_LAZY = {
    "pathapi.anypath": ("AnyPath",),
    "pathapi.common.alias": ("install_as_cloudpathlib",),
    "pathapi.clouds.azure": ("AzureBlobClient", "AzureBlobPath"),
    "pathapi.clouds.file": ("FileClient", "FilePath"),
    "pathapi.clouds.gs": ("GSClient", "GSPath"),
    "pathapi.clouds.http": ("HttpClient", "HttpPath", "HttpsClient", "HttpsPath"),
    "pathapi.clouds.s3": ("S3Client", "S3Path"),
    "pathapi.patches": ("patch_all_builtins", "patch_glob", "patch_open", "patch_os_functions"),
    "pathapi.parallel.progress": ("Progress", "progress_bar"),
    "pathapi.prefetching": ("prefetch",),
}

# fmt: off
__all__ = [
    "AnyPath", "AzureBlobClient", "AzureBlobPath", "CloudPath", "FileClient", "FilePath", "GSClient", "GSPath",
    "HttpClient", "HttpPath", "HttpsClient", "HttpsPath", "Progress", "S3Client", "S3Path", "__version__",
    "implementation_registry", "install_as_cloudpathlib", "patch_all_builtins", "patch_glob", "patch_open",
    "patch_os_functions", "prefetch", "progress_bar", "set_default_client",
]
# fmt: on


def __getattr__(name: str) -> Any:
    for module, names in _LAZY.items():
        if name in names:
            from importlib import import_module

            globals()[name] = value = getattr(import_module(module), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if any(name.startswith("CLOUDPATHLIB_PATCH_") for name in os.environ):
    from pathapi.patches import patch_by_environment

    patch_by_environment()
