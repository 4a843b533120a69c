"""The dataset of the training loop: map-style, as in torch; each sample is compared with the truth."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from demos.shared.dataset import Dataset

BY_PATH: Final = 8
"""One sample in this many is read by a local path: `fspath`, then the built-in ``open``."""
_PIECE: Final = 1 << 16
"""Bytes read at a time, so that a file may be evicted while it is open."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The result of one read. *failure* is a traceback; *features* is the output of the transform."""

    number: int
    size: int = 0
    wrong_bytes: int = 0
    failure: str = ""
    features: Any = None


@dataclass
class CachedFiles:
    """All objects of a bucket, read through the store: a dataset for torch's DataLoader.

    It is passed to workers of any start method, with its client. A failed read is recorded in its sample, so that the
    epoch continues. *transform* makes features of bytes, in the worker.
    """

    client: Any
    uri: str
    truth: Dataset
    transform: Callable[[bytes], Any] | None = None
    _handed: list[tuple[Any, str, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.truth.objects)

    def __getitem__(self, number: int) -> Sample:
        try:
            return self._read(number)
        except Exception:  # noqa: BLE001 - shown in the table
            return Sample(number, failure=f"{self.truth.objects[number].key}: {traceback.format_exc()}")

    def __getitems__(self, numbers: Sequence[int]) -> list[Sample]:
        """Return a whole batch; the DataLoader prefers this method."""
        return [self[number] for number in numbers]

    def _read(self, number: int) -> Sample:
        path = self.client.CloudPath(self.uri + self.truth.objects[number].key)
        wrong = 0
        if number % BY_PATH == 0:
            local = path.fspath
            data = Path(local).read_bytes()
            # A path that was handed out names the same bytes as long as its CloudPath is alive, whatever was evicted.
            for _, earlier, of in self._handed[-1:]:
                wrong += self._count_wrong(of, Path(earlier).read_bytes())
            self._handed.append((path, local, number))
        else:
            with path.open("rb") as file:
                data = b"".join(iter(partial(file.read, _PIECE), b""))
        wrong += self._count_wrong(number, data)
        return Sample(number, len(data), wrong, features=self.transform and self.transform(data))

    def _count_wrong(self, number: int, data: bytes) -> int:
        expected = Path(self.truth.directory, self.truth.objects[number].key).read_bytes()
        if data == expected:
            return 0
        differing = sum(ours != theirs for ours, theirs in zip(data, expected, strict=False))
        return differing + abs(len(data) - len(expected))
