"""The path class and the client class of each scheme."""

from __future__ import annotations

import os
from abc import ABCMeta
from collections.abc import Callable, Iterator, MutableMapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from pathapi.common.uri import SCHEMES, Uri
from pathapi.exceptions import (
    AnyPathTypeError,
    ClientMismatchError,
    IncompleteImplementationError,
    MissingDependenciesError,
)

Class = TypeVar("Class", bound=type)


class CloudImplementation:
    """A scheme's path class and client class; each class has it as ``_cloud_meta``, which a subclass inherits.

    *dependencies_loaded* is False if no path or client of it can be made, since its SDK is missing.
    """

    dependencies_loaded = True

    def __init__(self, name: str = "", path_class: Any = None, client_class: Any = None) -> None:
        self.name = name
        self._path_class = path_class
        self._client_class = client_class

    def validate_completeness(self) -> None:
        """Raise IncompleteImplementationError if a class is missing, MissingDependenciesError if its SDK is."""
        if self._client_class is None or self._path_class is None:
            missing = "client" if self._client_class is None else "path"
            raise IncompleteImplementationError(
                f"{self.name}://: there is no {missing} class for it: use register_{missing}_class"
            )
        if not self.dependencies_loaded:
            raise MissingDependenciesError(
                f"{self._client_class.__name__}: its SDK is missing: pip install 'casstore[{self.name}]'"
            )

    @property
    def path_class(self) -> Any:
        """The class of its paths; raises as `validate_completeness`."""
        self.validate_completeness()
        return self._path_class

    @property
    def client_class(self) -> Any:
        """The class of its clients; raises as `validate_completeness`."""
        self.validate_completeness()
        return self._client_class


_BUILT_IN: Final = {
    "s3": "pathapi.clouds.s3",
    "gs": "pathapi.clouds.gs",
    "azure": "pathapi.clouds.azure",
    "http": "pathapi.clouds.http",
    "https": "pathapi.clouds.http",
    "file": "pathapi.clouds.file",
}


class Registry(MutableMapping[str, CloudImplementation]):
    """Implementations by name; ``azure`` and ``az`` are one. The first look at a built-in one imports it.

    A name that is not known yet gets an implementation without classes, as in cloudpathlib.
    """

    def __init__(self) -> None:
        self._known = {name: CloudImplementation(name) for name in _BUILT_IN}

    def __getitem__(self, name: str) -> CloudImplementation:
        name = _key(name)
        found = self._known.setdefault(name, CloudImplementation(name))
        # A double of a test may have neither, and imports nothing.
        if name in _BUILT_IN and None in (getattr(found, "_path_class", 0), getattr(found, "_client_class", 0)):
            # Again after an interrupt of the import; another thread's import ends first.
            import_module(_BUILT_IN[name])
        return found

    def __setitem__(self, name: str, implementation: CloudImplementation) -> None:
        self._known[_key(name)] = implementation

    def __delitem__(self, name: str) -> None:
        del self._known[_key(name)]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _key(name) in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the implementation, or *default* for an unknown name, which stays unknown."""
        return super().get(name, default) if name in self else default

    def path_class(self, given: object) -> Any:
        """Return the path class for a URI. Raises InvalidPrefixError for an unregistered scheme, AnyPathTypeError."""
        if not isinstance(given, str | os.PathLike):
            raise AnyPathTypeError(f"a URI is a str such as 's3://bucket/key', not {type(given).__name__}")
        text = str(given)
        scheme = text.partition("://")[0].lower()
        if "://" in text and scheme in self:
            return self[scheme].path_class
        for implementation in self._known.values():  # registered by another name than its prefix
            path_class = getattr(implementation, "_path_class", None)
            if path_class is not None and path_class.is_valid_cloudpath(text):
                return implementation.path_class
        Uri.parse(text, schemes=tuple("az" if name == "azure" else name for name in self))
        raise AssertionError(text)

    def client_class(self, path_class: type) -> Any:
        """Return the client class for a path class. Raises IncompleteImplementationError."""
        implementation: CloudImplementation | None = getattr(path_class, "_cloud_meta", None)
        if implementation is None:
            raise IncompleteImplementationError(
                f"{path_class.__name__}: it is registered for no scheme: use register_path_class"
            )
        return implementation.client_class

    def refuse_client(self, path_class: type, client: object) -> NoReturn:
        """Raise ClientMismatchError: *client* is not for such paths."""
        wanted = self.client_class(path_class).__name__
        raise ClientMismatchError(f"{path_class.__name__}: use a client of type {wanted}, not {type(client).__name__}")


implementation_registry = Registry()


def register_path_class(key: str) -> Callable[[Class], Class]:
    """Decorate a `CloudPath` subclass to make it the class of the scheme *key*. Raises TypeError."""

    def decorate(cls: Class) -> Class:
        if not isinstance(cls, CloudPathMeta):
            raise TypeError(f"{cls!r}: only subclasses of CloudPath can be registered: derive it from one")
        return _register(key, "_path_class", cls)

    return decorate


def register_client_class(key: str) -> Callable[[Class], Class]:
    """Decorate a `Client` subclass to make it the client of the scheme *key*. Raises TypeError."""

    def decorate(cls: Class) -> Class:
        if not hasattr(cls, "get_default_client"):
            raise TypeError(f"{cls!r}: only subclasses of Client can be registered: derive it from one")
        return _register(key, "_client_class", cls)

    return decorate


def _register(key: str, kind: str, cls: Class) -> Class:
    implementation = implementation_registry[key]
    setattr(implementation, kind, cls)
    cls._cloud_meta = implementation  # type: ignore[attr-defined]
    return cls


def _key(name: str) -> str:
    """Return the name of a scheme or of an alias of it, as cloudpathlib has it."""
    name = SCHEMES[name].canonical if name in SCHEMES else name
    return "azure" if name == "az" else name


class CloudPathMeta(ABCMeta):
    """Makes ``CloudPath("s3://...")`` an `S3Path`: a class without a scheme of its own chooses by the text."""

    if not TYPE_CHECKING:  # to type checkers, a call gives the class that is called

        def __call__(cls, cloud_path=None, *parts, **options):
            if hasattr(cls, "cloud_prefix"):
                return super().__call__(cloud_path, *parts, **options)
            if isinstance(type(cloud_path), CloudPathMeta):
                return type(cloud_path)(cloud_path, *parts, **options)
            return implementation_registry.path_class(cloud_path)(str(cloud_path), *parts, **options)
