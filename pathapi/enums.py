"""Named choices of users."""

from __future__ import annotations

import os
from enum import Enum

from pathapi.exceptions import InvalidConfigurationException


class FileCacheMode(str, Enum):  # noqa: UP042 (as cloudpathlib has it: str() of a member names the class)
    """How long objects stay cached.

    ``persistent`` (the default): until they are evicted. ``tmp_dir``, ``cloudpath_object`` and ``close_file`` drop what
    this client cached when the client or the path is deleted, or the file is closed. The names are cloudpathlib's.
    """

    persistent = "persistent"
    tmp_dir = "tmp_dir"
    cloudpath_object = "cloudpath_object"
    close_file = "close_file"

    @classmethod
    def from_environment(cls) -> FileCacheMode | None:
        """Return ``CLOUDPATHLIB_FILE_CACHE_MODE``; None if it is unset. Raises InvalidConfigurationException."""
        value = os.environ.get("CLOUDPATHLIB_FILE_CACHE_MODE", "").lower()
        if not value:
            return None
        try:
            return cls(value)
        except ValueError as error:
            names = ", ".join(mode.value for mode in cls)
            raise InvalidConfigurationException(
                f"CLOUDPATHLIB_FILE_CACHE_MODE: use one of {names}, not {value!r}"
            ) from error
