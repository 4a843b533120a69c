"""What the suites of paths have in common: the fixtures that a backend's tests give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pathapi.exceptions import OverwriteNewerCloudError
from pathapi.testing.raw_bucket import RawBucket


class PathSuite:
    """Inherit and give three fixtures: `ground`, `make` (makes clients of one store from `Client`'s own arguments) and
    `at` (the URI of the ground's root, with its slash).
    """

    @pytest.fixture
    def ground(self) -> RawBucket:
        raise NotImplementedError(f"{type(self).__name__} has to give the fixture `ground`")

    @pytest.fixture
    def make(self) -> Callable[..., Any]:
        raise NotImplementedError(f"{type(self).__name__} has to give the fixture `make`")

    @pytest.fixture
    def at(self) -> str:
        raise NotImplementedError(f"{type(self).__name__} has to give the fixture `at`")


class WritingSuite(PathSuite):
    """One path, and somebody else who writes to it as well."""

    @pytest.fixture
    def path(self, make: Any, at: str) -> Any:
        """Nothing is there yet."""
        return make().CloudPath(at + "d/a.txt")

    def put(self, ground: RawBucket, data: bytes) -> None:
        """Somebody else writes the object; its version tells that from every other."""
        ground.settle()
        ground.plant("d/a.txt", data)
        ground.settle()

    def now(self, ground: RawBucket) -> bytes | None:
        """What the cloud has."""
        return ground.content("d/a.txt")

    def fail_at_close(self, path: Any, ground: RawBucket, theirs: bytes = b"theirs") -> None:
        """A write of b"mine" that somebody else was faster than."""
        file = path.open("wb")
        file.write(b"mine")
        self.put(ground, theirs)
        with pytest.raises(OverwriteNewerCloudError, match=r"a\.txt: another writer has changed the object"):
            file.close()
