"""`LocatedPath`: what a path's client adds to its text: its location, targets of copies, and pickles."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self, TypeAlias

from casstore import Key
from pathapi.client import Client
from pathapi.exceptions import AnyPathTypeError, IncompleteImplementationError
from pathapi.metadata.location import Location
from pathapi.path.pure_path import PureCloudPath
from pathapi.reading.listing_cache import ListedFact
from pathapi.registry import implementation_registry

AnyTarget: TypeAlias = "str | os.PathLike[str] | PureCloudPath"


class LocatedPath(PureCloudPath):
    """A path whose client is the one given to it, or the default one of its class."""

    __slots__ = ()

    def child(self, key: str, listed: ListedFact | None = None) -> Self:
        """Return the path of *key* in the same bucket, as a listing names it; it carries what the listing said."""
        is_directory = key.endswith("/") and (listed is None or listed.info is None)
        child = self._at_prefix(key) if is_directory else self._at_key(key)
        child._listed = listed
        return child

    @property
    def client(self) -> Client[Any]:
        """The client; the class's default one from the first use on."""
        if self._client is None:
            self._client = implementation_registry.client_class(type(self)).get_default_client()
        client: Client[Any] = self._client
        return client

    @property
    def location(self) -> Location:
        """The client, the URI, and what a listing said: what the functions that work on paths take."""
        return Location(self.client, self.uri, self._listed, self._key)

    def _store_key(self) -> Key:
        key = self._key
        if key is None:
            key = self._key = self.client.store_key(self.uri)
        return key

    def _any_path(self, target: AnyTarget) -> Any:
        """Return a cloud path, or a `pathlib.Path` for a str without a scheme."""
        if isinstance(target, LocatedPath):
            return target
        if not isinstance(target, str | os.PathLike):
            raise AnyPathTypeError(f"a source or a target is a str or a path, not {type(target).__name__}")
        if not isinstance(target, str) or "://" not in target:
            return Path(target)
        if self.is_valid_cloudpath(target):
            return type(self)(target, client=self.client)
        return implementation_registry.path_class(target)(target)

    def _below(self, directory: AnyTarget) -> Any:
        """Return what has this path's name below *directory*. Raises CloudPathLocalPathTraversalError."""
        target = self._any_path(directory)
        if isinstance(target, LocatedPath):
            return target._at_key(target.location.prefix + self.name)
        return target / self.location.file_name(self.name)

    def __reduce__(self) -> tuple[Any, ...]:
        client = self._client
        if client is None:  # as after the first use, which looks for the default client
            with contextlib.suppress(IncompleteImplementationError):
                client = implementation_registry.client_class(type(self)).chosen_default()
        return _restore_path, (type(self), self._text, None if client is None or client.is_automatic else client)

    def __dask_tokenize__(self) -> bytes:
        import pickle  # loaded by dask already

        return pickle.dumps(self, protocol=4)

    @classmethod
    def validate(cls, v: str | PureCloudPath) -> Self:
        """Return *v* if it is such a path already, else ``cls(v)``."""
        return v if isinstance(v, cls) else cls(v)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> Any:
        from pathapi.common.pydantic_schema import path_schema

        return path_schema(cls.validate, "uri")

    def _ask(self, ignore: Callable[[str, list[str]], Iterable[str]], below: str, names: list[str]) -> Iterable[str]:
        """Return which *names* of the directory *below* this one `copytree` is to skip."""
        directory = self._at_prefix(self.location.prefix + below) if below else self
        return ignore(directory._no_prefix_no_drive, names)


def _restore_path(cls: type[LocatedPath], text: str, client: Any) -> LocatedPath:
    return cls(text, client=client)
