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
    def parse(cls, value: str, name: str = "file_cache_mode") -> FileCacheMode:
        """Return the mode *value*, given as *name*. Raises InvalidConfigurationException."""
        try:
            return cls(value)
        except ValueError as error:
            modes = ", ".join(repr(mode.value) for mode in cls)
            raise InvalidConfigurationException(f"{name}: use one of {modes}, not {value!r}") from error

    @classmethod
    def from_environment(cls) -> FileCacheMode:
        """Return the mode of ``CLOUDPATHLIB_FILE_CACHE_MODE``, by default ``persistent``."""
        value = os.environ.get("CLOUDPATHLIB_FILE_CACHE_MODE", "").lower()
        return cls.parse(value, "CLOUDPATHLIB_FILE_CACHE_MODE") if value else cls.persistent
