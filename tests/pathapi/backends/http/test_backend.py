"""The backend `http` on a real HTTP server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pathapi.backend import ABSENT
from pathapi.backends.http.backend import HttpBackend, HttpConnection
from pathapi.exceptions import VersionMismatchError
from pathapi.testing import BackendSuite, write
from pathapi.testing.raw_bucket import ODD_NAMES
from tests.harness.http_server import Habits, HttpOrigin, canonical

_ONE_HOST = "plain HTTP knows no buckets: a host that does not answer may be down"
_AS_WRITTEN = "a URL writes this name in another way, and a page lists it so"


@pytest.fixture(scope="module")
def server() -> Iterator[HttpOrigin]:
    with HttpOrigin() as server:
        yield server


class TestPlainServer(BackendSuite):
    defects = {  # noqa: RUF012 (the suite declares it a ClassVar)
        "test_a_missing_bucket_differs_from_a_missing_object": _ONE_HOST,
        "test_a_write_to_a_missing_bucket_says_so": _ONE_HOST,
        "test_a_listing_is_in_the_order_of_the_keys_bytes": f"{_AS_WRITTEN}; see test_http_listing.py",
    }
    unusable_names = {name: _AS_WRITTEN for name in ODD_NAMES if canonical(name) != name}  # noqa: RUF012 (as above)

    @pytest.fixture
    def ground(self, server: HttpOrigin) -> HttpOrigin:
        return server

    @pytest.fixture
    def backend(self, server: HttpOrigin) -> HttpBackend:
        return HttpBackend(HttpConnection(), "http", server.host)


def test_a_server_that_ignores_conditions_is_asked_for_the_version_before_each_change() -> None:
    with HttpOrigin(Habits(conditions=False)) as server:
        backend = HttpBackend(HttpConnection(), "http", server.host)
        server.plant("a", b"first")
        stale = backend.head("a").validator
        server.plant("a", b"theirs")
        for change in (
            lambda: write(backend, "a", b"mine", stale),
            lambda: write(backend, "a", b"mine", ABSENT),
            lambda: write(backend, "gone", b"mine", stale),
            lambda: backend.delete(["a"], expect=stale),
        ):
            with pytest.raises(VersionMismatchError):
                change()
        assert (server.content("a"), server.content("gone")) == (b"theirs", None)
        write(backend, "a", b"mine", backend.head("a").validator)
        assert server.content("a") == b"mine"
