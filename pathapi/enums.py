"""Choices that users make by name."""

from __future__ import annotations

import os
from enum import Enum

from pathapi.exceptions import InvalidConfigurationException


class FileCacheMode(str, Enum):  # noqa: UP042 (as cloudpathlib has it: str() of a member names the class)
    """How long entries are kept.

    ``persistent`` (the default): until they are evicted. ``tmp_dir``, ``cloudpath_object`` and ``close_file`` drop what
    this client filled when the client, the path or the file goes; the names come from cloudpathlib.
    """

    persistent = "persistent"
    tmp_dir = "tmp_dir"
    cloudpath_object = "cloudpath_object"
    close_file = "close_file"

    @classmethod
    def from_environment(cls) -> FileCacheMode | None:
        """``CLOUDPATHLIB_FILE_CACHE_MODE``; None where it is unset. Raises InvalidConfigurationException."""
        value = os.environ.get("CLOUDPATHLIB_FILE_CACHE_MODE", "").lower()
        if not value:
            return None
        try:
            return cls(value)
        except ValueError as error:
            names = ", ".join(mode.value for mode in cls)
            raise InvalidConfigurationException(
                f"CLOUDPATHLIB_FILE_CACHE_MODE is one of {names}, not {value!r}"
            ) from error
