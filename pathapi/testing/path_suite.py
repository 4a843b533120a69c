"""The fixtures that the suites of paths share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pathapi.exceptions import OverwriteNewerCloudError
from pathapi.testing.raw_bucket import RawBucket


class PathSuite:
    """Needs three fixtures: `ground`, `make` (creates a client) and `at` (the root's URI, which ends in a slash)."""

    @pytest.fixture
    def ground(self) -> RawBucket:
        raise NotImplementedError(f"{type(self).__name__} must define the fixture `ground`")

    @pytest.fixture
    def make(self) -> Callable[..., Any]:
        raise NotImplementedError(f"{type(self).__name__} must define the fixture `make`")

    @pytest.fixture
    def at(self) -> str:
        raise NotImplementedError(f"{type(self).__name__} must define the fixture `at`")


class WritingSuite(PathSuite):
    """One path, and another client that writes to it."""

    @pytest.fixture
    def path(self, make: Any, at: str) -> Any:
        """A path without an object."""
        return make().CloudPath(at + "d/a.txt")

    def put(self, ground: RawBucket, data: bytes) -> None:
        """Write the object as another client; its version differs from every other."""
        ground.settle()
        ground.plant("d/a.txt", data)
        ground.settle()

    def now(self, ground: RawBucket) -> bytes | None:
        """Return the object's bytes on the server, or None."""
        return ground.content("d/a.txt")

    def fail_at_close(self, path: Any, ground: RawBucket, theirs: bytes = b"theirs") -> None:
        """Write b"mine", and fail since another client wrote first."""
        file = path.open("wb")
        file.write(b"mine")
        self.put(ground, theirs)
        with pytest.raises(OverwriteNewerCloudError, match=r"a\.txt: another writer has changed the object"):
            file.close()
