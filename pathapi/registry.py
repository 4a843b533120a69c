"""The path class and the client class of each scheme."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, NoReturn, TypeVar

from pathapi.common.uri import SCHEMES, Uri
from pathapi.exceptions import AnyPathTypeError, ClientMismatchError, IncompleteImplementationError

Class = TypeVar("Class", bound=type)


@dataclass(slots=True)
class CloudImplementation:
    """A scheme's path class and client class."""

    name: str
    path_class: type | None = None
    client_class: type | None = None


_BUILT_IN: Final = {
    "s3": "pathapi.clouds.s3",
    "gs": "pathapi.clouds.gs",
    "az": "pathapi.clouds.azure",
    "http": "pathapi.clouds.http",
    "https": "pathapi.clouds.http",
    "file": "pathapi.clouds.file",
}


class Registry:
    """Implementations by the name of their scheme; the first path of a built-in one imports it."""

    def __init__(self) -> None:
        self._known: dict[str, CloudImplementation] = {}

    def __getitem__(self, name: str) -> CloudImplementation:
        name = SCHEMES[name].canonical if name in SCHEMES else name
        found = self._known.setdefault(name, CloudImplementation(name))
        if name in _BUILT_IN and None in (found.path_class, found.client_class):
            # Again after an interrupt of the import; another thread's import ends first.
            import_module(_BUILT_IN[name])
        return found

    def __setitem__(self, name: str, implementation: CloudImplementation) -> None:
        self._known[name] = implementation

    def __contains__(self, name: object) -> bool:
        return name in _BUILT_IN or name in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*_BUILT_IN, *self._known)))

    def path_class(self, given: object) -> Any:
        """Return the path class for a URI. Raises InvalidPrefixError for an unregistered scheme, AnyPathTypeError."""
        if not isinstance(given, str | os.PathLike):
            raise AnyPathTypeError(f"a URI is a str such as 's3://bucket/key', not {type(given).__name__}")
        text = str(given)
        scheme = text.partition("://")[0].lower() if "://" in text else ""
        name = SCHEMES[scheme].canonical if scheme in SCHEMES else scheme
        if name in self:
            found = self[name].path_class
            if found is None:
                raise IncompleteImplementationError(
                    f"{name}://: there is no path class for its client: use register_path_class"
                )
            return found
        Uri.parse(text, schemes=tuple(self))
        raise AssertionError(text)

    def client_class(self, path_class: type) -> Any:
        """Return the client class for a path class. Raises IncompleteImplementationError."""
        by_path = {implementation.path_class: implementation for implementation in self._known.values()}
        for kind in path_class.__mro__:  # the nearest: a path of https is one of http too
            if kind in by_path:
                implementation = by_path[kind]
                if implementation.client_class is None:
                    raise IncompleteImplementationError(
                        f"{implementation.name}://: there is no client class for its paths: use register_client_class"
                    )
                return implementation.client_class
        raise IncompleteImplementationError(
            f"{path_class.__name__}: it is registered for no scheme: use register_path_class"
        )

    def refuse_client(self, path_class: type, client: object) -> NoReturn:
        """Raise ClientMismatchError: *client* is not for such paths."""
        wanted = self.client_class(path_class).__name__
        raise ClientMismatchError(f"{path_class.__name__}: use a client of type {wanted}, not {type(client).__name__}")


implementation_registry = Registry()


def register_path_class(key: str) -> Callable[[Class], Class]:
    """Decorate a `CloudPath` subclass to make it the class of the scheme *key*."""

    def decorate(cls: Class) -> Class:
        implementation_registry[key].path_class = cls
        return cls

    return decorate


def register_client_class(key: str) -> Callable[[Class], Class]:
    """Decorate a `Client` subclass to make it the client of the scheme *key*."""

    def decorate(cls: Class) -> Class:
        implementation_registry[key].client_class = cls
        return cls

    return decorate


class CloudPathMeta(type):
    """Makes ``CloudPath("s3://...")`` an `S3Path`: a class without a scheme of its own chooses by the text."""

    def __call__(cls, cloud_path: Any = None, *parts: Any, **options: Any) -> Any:
        if hasattr(cls, "cloud_prefix"):
            return super().__call__(cloud_path, *parts, **options)
        if isinstance(type(cloud_path), CloudPathMeta):
            return type(cloud_path)(cloud_path, *parts, **options)
        return implementation_registry.path_class(cloud_path)(str(cloud_path), *parts, **options)
