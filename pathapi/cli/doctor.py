"""``casstore doctor URI``: the part of that command that asks a cloud, and writes there only where it was told to."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import click

from pathapi.backend import ABSENT, Backend
from pathapi.cli.cloud_options import Clients, Shell, cloud_command, in_the_shell
from pathapi.exceptions import (
    CloudPathException,
    CloudPathNotImplementedError,
    MissingCredentialsError,
    MissingDependenciesError,
    VersionMismatchError,
)
from pathapi.path import CloudPath

_NAME: Final = "casstore-doctor-"
_BYTES: Final = b"made by casstore doctor --write; may be deleted\n"
_IGNORED: Final = (
    'the server ignores conditions: two writers at one moment can lose a write; conditional_writes="require" refuses '
    "to write there at all"
)
_LACKING: Final = 'a look just before a write stands in for it, with a warning; conditional_writes="require" refuses'


@dataclass(frozen=True, slots=True)
class _Checks:
    """What was found, in the shape of the command's own checks."""

    checks: list[dict[str, str]]

    @property
    def is_wrong(self) -> bool:
        """Whether anything is."""
        return any(check["state"] == "wrong" for check in self.checks)

    @property
    def facts(self) -> Mapping[str, Any]:
        """For the command, which says them with its own."""
        return {"checks": self.checks}

    def show(self, shell: Shell) -> None:
        """The command shows them."""


@click.command("doctor")
@click.argument("uris", nargs=-1, metavar="[URI]...")
@click.option("--write", is_flag=True, help="Also try conditional writes below each URI, with an object of its own.")
@cloud_command
def doctor_part(shell: Shell, /, uris: tuple[str, ...], write: bool, **options: Any) -> _Checks | None:
    """Whether the clouds behind these URIs can be reached, and hold to conditions."""
    if not uris:
        if write or any(options.values()):
            raise click.UsageError(
                "--write and the options of a cloud are for a URI: casstore doctor s3://bucket/prefix/"
            )
        return None
    clients = Clients(shell, options)
    checks: list[dict[str, str]] = []
    for uri in uris:
        path = clients.path(uri)
        for name, state, found, advice in _examine(shell, path, write=write):
            checks.append({"name": f"{name} {path.uri.shown}", "state": state, "found": found, "advice": advice})
    return _Checks(checks)


Found = tuple[str, str, str, str]


def _examine(shell: Shell, path: CloudPath, *, write: bool) -> Iterator[Found]:
    backend = path.client.backend(path.uri.bucket)
    try:
        first = next(iter(backend.list(path.uri.key, limit=1)), None)
    except (CloudPathException, OSError) as error:
        yield "reach", "wrong", in_the_shell(shell, error), _advice(error)
        return
    yield "reach", "good", "can be listed" + ("" if first else ", and nothing is there"), ""
    if not write:
        yield "conditional writes", "note", "not tried", "--write tries, with an object of its own"
        return
    key = f"{path.uri.key}{_NAME}{os.urandom(8).hex()}"
    try:
        yield from _try_writes(shell, backend, key)
    finally:
        with contextlib.suppress(CloudPathException, OSError):
            backend.delete([key])
    yield _look_for(backend, key)


def _try_writes(shell: Shell, backend: Backend, key: str) -> Iterator[Found]:
    name = "conditional writes"
    try:
        info = backend.write(key, io.BytesIO(_BYTES), len(_BYTES), expect=ABSENT)
    except CloudPathNotImplementedError as error:
        yield name, "note", in_the_shell(shell, error), _LACKING
        return
    except (CloudPathException, OSError) as error:
        yield name, "wrong", in_the_shell(shell, error), _advice(error)
        return
    for what, expect in (("over nothing", ABSENT), ("over a version", info.validator)):
        try:
            backend.write(key, io.BytesIO(_BYTES[::-1]), len(_BYTES), expect=expect)
        except VersionMismatchError:
            if expect is not ABSENT:
                yield (
                    name,
                    "wrong",
                    f"{what}: the version that was just written was refused",
                    "ask the server's operator",
                )
                return
        except (CloudPathException, OSError) as error:
            yield name, "wrong", f"{what}: {in_the_shell(shell, error)}", _LACKING
            return
        else:
            if expect is ABSENT:
                yield name, "wrong", f"{what}: an object was overwritten", _IGNORED
                return
    try:
        # What was written first is not there any more.
        backend.write(key, io.BytesIO(_BYTES), len(_BYTES), expect=info.validator)
    except VersionMismatchError:
        yield name, "good", "hold: over nothing, and over a version", ""
    except (CloudPathException, OSError) as error:
        yield name, "wrong", in_the_shell(shell, error), _LACKING
    else:
        yield name, "wrong", "over a version: another one was overwritten", _IGNORED


def _look_for(backend: Backend, key: str) -> Found:
    with contextlib.suppress(CloudPathException, OSError):
        if not list(backend.list(key, limit=1)):
            return "delete", "good", "what was tried with is gone", ""
    return "delete", "wrong", f"{key} may still be there", "delete it yourself; deleting takes a permission of its own"


def _advice(error: Exception) -> str:
    if isinstance(error, MissingDependenciesError):
        return "install the extra that the message names"
    if isinstance(error, MissingCredentialsError):
        return "log in, or --no-sign-request for a public bucket"
    if isinstance(error, PermissionError):
        return "ask for the permission, or use another profile (--profile)"
    if isinstance(error, FileNotFoundError):
        return "see the bucket's name and the endpoint (--endpoint-url)"
    return "see the network and the endpoint (--endpoint-url)"
