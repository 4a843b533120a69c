"""cloudpathlib's names of what is in `pathapi.path`, `pathapi.registry` and `pathapi.exceptions`."""

from typing import TypeVar

from pathapi.cloudpath_info import CloudPathInfo
from pathapi.enums import FileCacheMode
from pathapi.exceptions import (
    ClientMismatchError,
    CloudPathFileExistsError,
    CloudPathFileNotFoundError,
    CloudPathIsADirectoryError,
    CloudPathLocalPathTraversalError,
    CloudPathNotADirectoryError,
    CloudPathNotExistsError,
    CloudPathNotImplementedError,
    DirectoryNotEmptyError,
    IncompleteImplementationError,
    InvalidPrefixError,
    MissingDependenciesError,
    NoStatError,
    OverwriteDirtyFileError,
    OverwriteNewerCloudError,
    OverwriteNewerLocalError,
)
from pathapi.path.cloud_path import CloudPath
from pathapi.registry import CloudImplementation, CloudPathMeta, implementation_registry, register_path_class

# fmt: off
__all__ = [
    "ClientMismatchError", "CloudImplementation", "CloudPath", "CloudPathFileExistsError", "CloudPathFileNotFoundError",
    "CloudPathInfo", "CloudPathIsADirectoryError", "CloudPathLocalPathTraversalError", "CloudPathMeta",
    "CloudPathNotADirectoryError", "CloudPathNotExistsError", "CloudPathNotImplementedError", "CloudPathT",
    "DirectoryNotEmptyError", "FileCacheMode", "IncompleteImplementationError", "InvalidPrefixError",
    "MissingDependenciesError", "NoStatError", "OverwriteDirtyFileError", "OverwriteNewerCloudError",
    "OverwriteNewerLocalError", "implementation_registry", "register_path_class",
]
# fmt: on

CloudPathT = TypeVar("CloudPathT", bound=CloudPath)
