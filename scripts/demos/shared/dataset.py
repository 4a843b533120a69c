"""A real dataset in two versions: plain files on this disk, and the hash of each."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

LARGE: Final = 256 * 1024
"""Bytes; reading a larger file costs more than opening it."""

_SEED: Final = "casstore demo 1"
_MOST_BYTES: Final = 64 << 20
"""Bytes of one version of the default dataset."""
_LARGEST: Final = 12 << 20
"""Bytes; above 8 MiB an object is read in parallel parts, which the default dataset must include."""
_MOST_LARGE: Final = 32
_MOST_LARGE_BYTES: Final = 40 << 20
_SHARE: Final = 0.02
"""The share of files, and at most of bytes, that v2 changes; it adds and removes as many."""


@dataclass(frozen=True, slots=True)
class Planted:
    """One object: *key* is also the path of its plain file below the dataset's directory."""

    key: str
    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Dataset:
    """The objects, and the *directory* with the same plain files."""

    directory: Path
    objects: tuple[Planted, ...]

    @property
    def logical_bytes(self) -> int:
        return sum(item.size for item in self.objects)

    @property
    def contents(self) -> dict[bytes, int]:
        """Return the size of each distinct content, by hash."""
        return {item.sha256: item.size for item in self.objects}

    @property
    def distinct_bytes(self) -> int:
        return sum(self.contents.values())


def plant(
    source: Path, directory: Path, *, most_files: int | None, is_default: bool, on_progress: Callable[[int, int], None]
) -> Dataset:
    """Copy files of *source* into *directory* as ``v1/``, and as ``v2/`` with a few changed, added and removed.

    The same files give the same dataset each time. *on_progress* is called with the files done and the files in all.

    Raises: ValueError if *source* has no readable files.
    """
    chosen = _choose(source, most_files, is_default=is_default)
    if not chosen:
        raise ValueError(f"{source} has no readable files")
    planted = []
    v1 = {}
    for number, (name, _) in enumerate(chosen):
        data = (source / name).read_bytes()
        planted.append(_plant_one(directory, f"v1/{name}", data))
        v1[name] = len(data)
        on_progress(number + 1, 2 * len(chosen))
    changes = _Changes(v1)
    for number, name in enumerate(v1):
        data = (directory / "v1" / name).read_bytes()
        for key, content in changes.of(name, data):
            planted.append(_plant_one(directory, f"v2/{key}", content))
        on_progress(len(chosen) + number + 1, 2 * len(chosen))
    return Dataset(directory, tuple(planted))


def _plant_one(directory: Path, key: str, data: bytes) -> Planted:
    path = directory / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return Planted(key, len(data), sha256(data).digest())


def _choose(source: Path, most_files: int | None, *, is_default: bool) -> list[tuple[str, int]]:
    found = sorted(_walk(source))
    most = len(found) if most_files is None else most_files
    if is_default:
        return sorted(_sample([item for item in found if item[1] <= _LARGEST], most))
    return sorted(random.Random(_SEED).sample(found, min(most, len(found))))


def _walk(source: Path) -> list[tuple[str, int]]:
    found = []
    for at, directories, names in os.walk(source):
        directories[:] = [name for name in directories if name != "__pycache__"]
        for name in names:
            path = Path(at, name)
            if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK) and path.suffix != ".pyc":
                relative = path.relative_to(source).as_posix()
                # A file name can have any bytes; a key is text. For Azure and SeaweedFS a backslash is a slash.
                if relative.isprintable() and "\\" not in relative:
                    found.append((relative, path.stat().st_size))
    return found


def _sample(found: list[tuple[str, int]], most: int) -> list[tuple[str, int]]:
    """Return a fair sample of the small files, and more of the few large ones."""
    random.Random(_SEED).shuffle(found)
    sample = _take([item for item in found if item[1] >= LARGE], min(_MOST_LARGE, most // 2), _MOST_LARGE_BYTES)
    left = _MOST_BYTES - sum(size for _, size in sample)
    return sample + _take([item for item in found if item[1] < LARGE], most - len(sample), left)


def _take(items: list[tuple[str, int]], most: int, most_bytes: int) -> list[tuple[str, int]]:
    """Return the first of *items* that fit."""
    taken: list[tuple[str, int]] = []
    for name, size in items:
        if len(taken) < most and size <= most_bytes:
            most_bytes -= size
            taken.append((name, size))
    return taken


class _Changes:
    """What differs between the versions: 2 % of the files changed, 2 % added, 2 % removed, and no more bytes."""

    def __init__(self, v1: dict[str, int]) -> None:
        names = list(v1.items())
        random.Random(_SEED + " changes").shuffle(names)
        count, most_bytes = max(1, round(len(names) * _SHARE)), int(sum(v1.values()) * _SHARE)
        kinds: list[set[str]] = []
        for _ in range(3):
            taken = _take([item for item in names if item[1]], count, most_bytes)
            kinds.append({name for name, _ in taken})
            names = [item for item in names if item[0] not in kinds[-1]]
        self._changed, self._copied, self._removed = kinds
        self._numbers = {name: number for number, name in enumerate(sorted(self._changed))}

    def of(self, name: str, data: bytes) -> list[tuple[str, bytes]]:
        """Return the files of v2 that come from a file of v1: names and contents."""
        if name in self._removed:
            return []
        if name in self._copied:
            return [(name, data), (f"added in v2/{name}", data[::-1] + b"\n")]
        if name not in self._changed:
            return [(name, data)]
        # Every other change keeps the size, so that only the ETag shows it.
        if self._numbers[name] % 2:
            return [(name, bytes([data[0] ^ 1]) + data[1:])]
        return [(name, data + b"\n# changed in v2\n")]
