"""The contract of `pathapi.backend.Backend` as tests. A new backend inherits them with a class of about twenty lines::

    class TestMyCloud(BackendSuite):
        defects = {"test_a_copy_takes_only_the_version_expected": "my-emulator 1.2 ignores conditions on a copy"}

        @pytest.fixture
        def ground(self, my_server): return MyRawBucket(my_server)

        @pytest.fixture
        def backend(self, my_server): return MyBackend(my_server.url, "bucket")

        @pytest.fixture
        def missing_bucket(self, my_server): return MyBackend(my_server.url, "no-such-bucket")

Tests create and inspect objects through a `RawBucket`, not through the backend under test, so that no test passes
because reads and writes share one mistake. Needs pytest.
"""

from pathapi.testing.backend_suite import BackendSuite
from pathapi.testing.edit_suite import EditSuite
from pathapi.testing.intercepting_backend import InterceptingBackend, interpose
from pathapi.testing.raw_bucket import (
    RawBucket,
    count_descriptors,
    drain,
    in_forked_child,
    keys,
    only_winner,
    opened,
    read,
    write,
)
from pathapi.testing.read_suite import ReadSuite
from pathapi.testing.write_suite import WriteSuite

# fmt: off
__all__ = [
    "BackendSuite", "EditSuite", "Ground", "Interposed", "RawBucket", "InterceptingBackend", "ReadSuite",
    "WriteSuite", "count_descriptors", "drain", "in_forked_child", "interpose", "keys", "only_winner", "opened",
    "read", "write",
]
# fmt: on

# Old names, which suites of other backends may still import.
Ground = RawBucket
Interposed = InterceptingBackend
