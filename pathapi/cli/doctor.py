"""``casstore doctor URI``: check that a server can be reached, and that it supports conditional writes."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any, Final

import click

from pathapi.backend import ABSENT, Backend
from pathapi.cli.cloud_options import Clients, Shell, cloud_command, describe
from pathapi.exceptions import (
    CloudPathException,
    CloudPathNotImplementedError,
    MissingCredentialsError,
    MissingDependenciesError,
    VersionMismatchError,
)
from pathapi.parallel.part_threads import undone_on_error
from pathapi.path.cloud_path import CloudPath

_PROBE_NAME: Final = "casstore-doctor-"
_BYTES: Final = b"made by casstore doctor --write; may be deleted\n"
_IGNORED: Final = (
    "the server ignores conditions, so concurrent writers can lose a write: "
    'conditional_writes="require" makes such writes fail'
)
_UNSUPPORTED: Final = (
    "a HEAD request just before each write replaces the condition, with a warning: "
    'conditional_writes="require" makes such writes fail'
)

_ADVICE: Final = {
    MissingDependenciesError: "install the extra named in the message",
    MissingCredentialsError: "log in, or use --no-sign-request for a public bucket",
    PermissionError: "request the permission, or use another profile (--profile)",
    FileNotFoundError: "check the bucket's name and the endpoint (--endpoint-url)",
    Exception: "check the network and the endpoint (--endpoint-url)",
}


@click.command("doctor")
@click.argument("uris", nargs=-1, metavar="[URI]...")
@click.option("--write", is_flag=True, help="Also test conditional writes below each URI, with a temporary object.")
@cloud_command
def doctor_extension(shell: Shell, /, uris: tuple[str, ...], write: bool, **options: Any) -> list[dict[str, str]]:
    """Check the servers of these URIs; return checks in the shape of the command's own."""
    if not uris:
        if write or any(options.values()):
            raise click.UsageError("--write and the connection options need a URI: casstore doctor s3://bucket/prefix/")
        return []
    clients = Clients(shell, options)
    checks: list[dict[str, str]] = []
    for uri in uris:
        path = clients.path(uri)
        for name, state, found, advice in _examine(shell, path, write=write):
            checks.append({"name": f"{name} {path.uri.shown}", "state": state, "found": found, "advice": advice})
    return checks


Found = tuple[str, str, str, str]
"""Name, state, what was found, and advice."""


def _examine(shell: Shell, path: CloudPath, *, write: bool) -> Iterator[Found]:
    backend = path.client.backend(path.uri.bucket)
    try:
        first = next(iter(backend.list(path.uri.key, limit=1)), None)
    except (CloudPathException, OSError) as error:
        yield "reach", "wrong", describe(shell, error), _advice(error)
        return
    yield "reach", "good", "can be listed" + ("" if first else ", but is empty"), ""
    if not write:
        yield "conditional writes", "note", "not tested", "--write tests them with a temporary object"
        return
    key = f"{path.uri.key}{_PROBE_NAME}{os.urandom(8).hex()}"
    with undone_on_error(lambda: backend.delete([key])):
        yield from _try_writes(shell, backend, key)
    with contextlib.suppress(CloudPathException, OSError):
        backend.delete([key])
    yield _check_deleted(backend, key)


def _try_writes(shell: Shell, backend: Backend, key: str) -> Iterator[Found]:
    name = "conditional writes"
    try:
        info = backend.write(key, io.BytesIO(_BYTES), len(_BYTES), expect=ABSENT)
    except CloudPathNotImplementedError as error:
        yield name, "note", describe(shell, error), _UNSUPPORTED
        return
    except (CloudPathException, OSError) as error:
        yield name, "wrong", describe(shell, error), _advice(error)
        return
    for what, expect, overwritten in (
        ("create only", ABSENT, "an object"),
        ("replace a version", info.validator, ""),
        ("replace a version", info.validator, "another version"),  # the first version was replaced
    ):
        try:
            backend.write(key, io.BytesIO(_BYTES[::-1]), len(_BYTES), expect=expect)
        except VersionMismatchError:
            if not overwritten:
                found = f"{what}: the server refused the version that was just written"
                yield name, "wrong", found, "ask the server's operator"
                return
        except (CloudPathException, OSError) as error:
            yield name, "wrong", f"{what}: {describe(shell, error)}", _UNSUPPORTED
            return
        else:
            if overwritten:
                yield name, "wrong", f"{what}: the server overwrote {overwritten}", _IGNORED
                return
    yield name, "good", "work", ""


def _check_deleted(backend: Backend, key: str) -> Found:
    with contextlib.suppress(CloudPathException, OSError):
        if not list(backend.list(key, limit=1)):
            return "delete", "good", "the temporary object was deleted", ""
    return "delete", "wrong", f"{key} may still exist", "delete it, and check the permission to delete"


def _advice(error: Exception) -> str:
    return next(advice for kind, advice in _ADVICE.items() if isinstance(error, kind))
