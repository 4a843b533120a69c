"""Public names, signatures and kinds of attributes are those of the peer's modules, except for `DIFFERENCES`."""

from __future__ import annotations

import abc
import enum
import importlib
import inspect
import pkgutil
import types
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

import pathapi

pytest.importorskip("cloudpathlib")

PEER: Final = "cloudpathlib"

DIFFERENCES: Final = {
    "CloudPath.info: property, not method": "a property, as in pathlib; its value can be called",
    "CloudPathInfo: location, not cloud_path": "made by a path; its users never call the class",
    "CloudPathMeta: name, not name": "a metaclass, which only a class statement calls",
    "HttpClient.request: data, not kwargs": "the two options of urllib's Request that change the bytes that are sent",
    "cloudpath.T: missing": "a type variable without meaning outside its module",
    "local.localclient.clean_temp_dirs: missing": "called at exit by that module alone",
}
"""What is different on purpose. A subclass inherits the row of its base."""

VARIABLE: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
UNASKED: Final = ("client", "info", "parser", "fspath", "etag", "md5", "blob_client")
"""Properties that send a request, or whose types differ on purpose (`info`), or by Python version (`parser`)."""


@cache
def _modules() -> list[tuple[str, ModuleType]]:
    peer = importlib.import_module(PEER)
    names = [found.name for found in pkgutil.walk_packages(peer.__path__, f"{PEER}.") if ".legacy" not in found.name]
    return [("", peer), *((name.removeprefix(f"{PEER}."), importlib.import_module(name)) for name in names)]


def _public(value: Any) -> list[str]:
    return [name for name in vars(value) if not name.startswith("_")]


def _ours(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"pathapi.{name}" if name else "pathapi")
    except ModuleNotFoundError:
        return None


def _kind(owner: type, name: str) -> str:
    raw = inspect.getattr_static(owner, name)
    for kind in (property, classmethod, staticmethod):
        if isinstance(raw, kind):
            return kind.__name__
    return "method" if callable(raw) and not isinstance(raw, type) else "value"


def _default(parameter: inspect.Parameter) -> str:
    return f"<{parameter.default.__name__}>" if callable(parameter.default) else repr(parameter.default)


def _signatures(where: str, theirs: Callable[..., Any], ours: Callable[..., Any]) -> Iterator[str]:
    wanted = [*inspect.signature(theirs).parameters.values()]
    try:
        found = [*inspect.signature(ours).parameters.values()]
    except ValueError:
        yield f"{where}: no signature"
        return
    for number, one in enumerate(wanted):
        other = found[number] if number < len(found) else None
        if other is None or (one.kind in VARIABLE and one.kind != other.kind):
            yield f"{where}: {other.name if other else 'nothing'}, not {one.name}"
            return
        if one.kind in VARIABLE:
            continue
        if (one.name, one.kind) != (other.name, other.kind):
            yield f"{where}: {other.name}, not {one.name}"
            return
        if one.default is not one.empty and _default(one) != _default(other):
            yield f"{where}: {one.name} is {_default(other)}, not {_default(one)}"
    required = [one.name for one in found[len(wanted) :] if one.default is one.empty and one.kind not in VARIABLE]
    if required:
        yield f"{where}: {', '.join(required)} without a default"


def _classes(where: str, theirs: type, ours: Any) -> Iterator[str]:
    if issubclass(theirs, enum.Enum):
        if [(one.name, one.value) for one in theirs] != [(one.name, one.value) for one in ours]:
            yield f"{where}: other members"
        return
    if issubclass(theirs, BaseException):
        known = {base.__name__ for base in ours.__mro__}
        yield from (f"{where}: not a {base.__name__}" for base in theirs.__mro__ if base.__name__ not in known)
        return
    yield from _signatures(where, theirs, ours)
    for name in dir(theirs):
        if name.startswith("_"):
            continue
        member = f"{next(base for base in theirs.__mro__ if name in vars(base)).__name__}.{name}"
        if name not in dir(ours):
            yield f"{member}: missing"
        elif (kind := _kind(ours, name)) != _kind(theirs, name):
            yield f"{member}: {kind}, not {_kind(theirs, name)}"
        elif kind not in ("property", "value"):
            yield from _signatures(member, getattr(theirs, name), getattr(ours, name))


def _found() -> Iterator[str]:
    for module, peer in _modules():
        ours = _ours(module)
        if ours is None:
            yield f"{module}: missing"
            continue
        for name in _public(peer):
            value = getattr(peer, name)
            home = getattr(value, "__module__", None) or ""
            if not home.startswith(PEER) or (home != peer.__name__ and name not in getattr(peer, "__all__", ())):
                continue
            if not hasattr(ours, name):
                yield f"{module}.{name}: missing"
            elif inspect.isclass(value):
                yield from _classes(name, value, getattr(ours, name))
            elif inspect.isfunction(value):
                yield from _signatures(name, value, getattr(ours, name))


def test_names_signatures_and_kinds_are_the_peers() -> None:
    assert sorted(set(_found())) == sorted(DIFFERENCES)


AZURE: Final = "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=a2V5;EndpointSuffix=core.windows.net"
PATHS: Final = {
    "S3Client": ("S3Path", "s3://b/d/a.tar.gz"),
    "GSClient": ("GSPath", "gs://b/d/a.tar.gz"),
    "AzureBlobClient": ("AzureBlobPath", "az://b/d/a.tar.gz"),
    "HttpClient": ("HttpPath", "http://h/d/a.tar.gz"),
}
CLASSES: Final = [*PATHS, *(path for path, _ in PATHS.values()), "HttpsClient", "HttpsPath", "CloudPath"]


def _arguments(client: str) -> dict[str, Any]:
    """Return arguments with which a client of either package can be made without a login."""
    if client == "S3Client":
        return {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
    if client == "GSClient":
        from google.cloud.storage import Client

        return {"storage_client": Client.create_anonymous_client(), "timeout": 1.0, "retry": object()}
    if client == "AzureBlobClient":
        from azure.storage.blob import BlobServiceClient

        service = BlobServiceClient.from_connection_string(AZURE)
        return {"blob_service_client": service, "data_lake_client": object()}
    return {}


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], list[Any]]:
    """Return the peer's client of a name, and ours."""
    peer = importlib.import_module(PEER)
    monkeypatch.setattr(peer.implementation_registry["azure"], "dependencies_loaded", True)  # it wants one more SDK
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

    def make(name: str) -> list[Any]:
        options = {**_arguments(name), "local_cache_dir": tmp_path / "cache"}
        return [getattr(package, name)(**options) for package in (peer, pathapi)]

    return make


def _type(value: Any) -> str:
    return "callable" if inspect.isroutine(value) else type(value).__name__


def _types(value: Any, attributes: Iterable[str]) -> dict[str, str]:
    return {one: _type(getattr(value, one, "missing")) for one in attributes}


@pytest.mark.parametrize("name", [*PATHS, "HttpsClient"])
def test_a_client_has_the_attributes_of_the_peers(name: str, make: Callable[[str], list[Any]]) -> None:
    theirs, ours = make(name)
    public = [attribute for attribute in vars(theirs) if not attribute.startswith("_")]
    assert public
    assert _types(ours, public) == _types(theirs, public)


@pytest.mark.parametrize("name", [*PATHS])
def test_the_properties_of_a_path_have_the_types_of_the_peers(name: str, make: Callable[[str], list[Any]]) -> None:
    theirs, ours = (client.CloudPath(PATHS[name][1]) for client in make(name))
    asked = [
        attribute
        for attribute in dir(theirs)
        if not attribute.startswith("_") and attribute not in UNASKED and _kind(type(theirs), attribute) == "property"
    ]
    assert len(asked) > 8
    assert _types(ours, asked) == _types(theirs, asked)


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_can_have_an_abstract_base_class_beside_it(name: str) -> None:
    class Mixin(abc.ABC):  # noqa: B024 (its metaclass is all that matters)
        pass

    for package in (PEER, "pathapi"):
        base = getattr(importlib.import_module(package), name)
        assert issubclass(types.new_class("Mine", (Mixin, base)), base)
