"""An independent parser of pending writes, which takes no lock and changes nothing.

`casstore.pending.records` describes the format; it is implemented here a second time on purpose.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import xxhash

_STEM: Final = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}")
_STATES: Final = ("uploading", "failed", "edit", "incomplete")


@dataclass(frozen=True, slots=True)
class Waiting:
    """One complete record and its bytes. *condition* and *base* (an ETag) are what its upload depends on; *source* is
    the local file that the bytes were in, where they were in one.
    """

    name: str
    origin: str
    uri: str
    state: str
    condition: str
    base: str | None
    why: str
    source: str | None
    data: bytes

    @property
    def key(self) -> str:
        """The object's key in its bucket."""
        return self.uri.split("/", 3)[3]

    @property
    def blocks(self) -> bool:
        """Whether the URI must not be read or written until the write is resolved."""
        return self.state in ("failed", "edit")


def directory_of(uri: str, origin: str) -> str:
    """Return the name of an object's directory of records."""
    return xxhash.xxh3_128_hexdigest(f"{uri}\0{origin}".encode())


def all_waiting(root: str, problems: list[str] | None = None) -> list[Waiting]:
    """Yield every complete record; append the problems of others to *problems*."""
    names = sorted(os.listdir(f"{root}/pending")) if os.path.isdir(f"{root}/pending") else []
    return [found for name in names for found in _in(root, name, [] if problems is None else problems)]


def waiting_of(root: str, uri: str, origin: str) -> list[Waiting]:
    """Yield the complete records of one object."""
    return list(_in(root, directory_of(uri, origin), []))


def _in(root: str, directory: str, problems: list[str]) -> Iterator[Waiting]:
    path = f"{root}/pending/{directory}"
    names: list[str] = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        names = os.listdir(path)
    for name in sorted(names):
        stem, suffix = os.path.splitext(name)
        # One without the other was never reported, or is resolved.
        if suffix != ".json" or not _STEM.fullmatch(stem) or f"{stem}.data" not in names:
            continue
        try:
            with open(f"{path}/{name}", "rb") as file:
                record: dict[str, Any] = json.loads(file.read())
            with open(f"{path}/{stem}.data", "rb") as file:
                data = file.read()
            found = Waiting(
                stem,
                record["origin"],
                record["uri"],
                record["state"],
                record["condition"],
                None if record["base"] is None else record["base"]["etag"],
                record["why"],
                record["source"],
                data,
            )
        except FileNotFoundError:
            continue  # dealt with meanwhile
        except (ValueError, KeyError, TypeError) as error:
            problems.append(f"pending/{directory}/{name} is no record: {error!r}")
            continue
        digest = f"xxh3-128:{xxhash.xxh3_128_hexdigest(data)}"
        if (record["digest"], record["size"]) != (digest, len(data)):
            problems.append(f"pending/{directory}/{stem}.data does not have its digest: {len(data)} bytes, {digest}")
        elif directory_of(found.uri, found.origin) != directory:
            problems.append(f"pending/{directory}/{name} is of {found.uri} at {found.origin}, and lies elsewhere")
        elif found.state not in _STATES:
            problems.append(f"pending/{directory}/{name} is in no known state: {found.state}")
        else:
            yield found
