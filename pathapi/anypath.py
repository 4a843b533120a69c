"""`AnyPath`: a cloud path for a URI, a `pathlib.Path` for anything else."""

from __future__ import annotations

import os
from abc import ABC
from pathlib import Path
from typing import Any

from pathapi.exceptions import AnyPathTypeError, InvalidPrefixError
from pathapi.path.cloud_path import CloudPath

__all__ = ["AnyPath", "AnyPathTypeError", "InvalidPrefixError", "to_anypath"]


class AnyPath(ABC):  # noqa: B024 (for `register`: it has no methods that others must have)
    """``AnyPath(x)`` is a `CloudPath` or a `pathlib.Path`; both are instances and subclasses of it.

    A ``file:`` URL gives a `pathlib.Path`. Raises AnyPathTypeError for what is neither.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> CloudPath | Path:  # type: ignore[misc]
        given = args[0] if args else None
        if isinstance(given, str) and given.lower().startswith("file:"):
            from pathapi.url_utils import path_from_fileurl  # urllib.request costs a warm read

            return path_from_fileurl(given, **kwargs).joinpath(*args[1:])
        try:
            return CloudPath(*args, **kwargs)
        except InvalidPrefixError:
            try:
                return Path(*args, **kwargs)
            except TypeError as error:
                raise AnyPathTypeError(f"neither a URI nor an argument of pathlib.Path: {error}") from error

    @classmethod
    def validate(cls, v: Any) -> CloudPath | Path:
        """Return ``AnyPath(v)``, for pydantic. Raises ValueError."""
        try:
            return to_anypath(v)
        except AnyPathTypeError as error:
            raise ValueError(str(error)) from error

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> Any:
        from pathapi.common.pydantic_schema import path_schema

        return path_schema(to_anypath, None)


AnyPath.register(CloudPath)
AnyPath.register(Path)


def to_anypath(s: str | os.PathLike[str]) -> CloudPath | Path:
    """Return *s* itself if it is one already, else ``AnyPath(s)``."""
    return s if isinstance(s, CloudPath | Path) else AnyPath(s)
