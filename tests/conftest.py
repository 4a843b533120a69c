"""Servers and buckets for every test. A server starts when the first test asks for it and serves the whole session."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from tests.harness import azure_servers, nolocks, sampling, servers
from tests.harness.azure_servers import AzureServer
from tests.harness.gcs_conditions import GCSRules
from tests.harness.proxy import Fault, Proxy
from tests.harness.servers import GCSServer, S3Server

settings.register_profile("default", deadline=None)
# The same examples each time where nobody is there to look at a new failure.
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


# Tests count boto3's requests and break its connections; what obstore does instead has tests of its own.
os.environ.setdefault("CASSTORE_FAST", "0")

# A developer's disk may be nearly full; stores of tests are not to be trimmed for that. Tests of trims set their own.
os.environ.setdefault("CASSTORE_MIN_FREE", "0")

if os.environ.get(nolocks.VARIABLE):
    nolocks.install()

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in a shell's background. Children would ignore it as well, and some are there to be interrupted.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the tests marked slow too, and every enumeration whole")
    parser.addoption("--torture", action="store_true", help="the same, and the tests marked torture: hours")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--torture"):
        config.option.full = True
    sampling.configure(is_full=config.getoption("--full"), is_torture=config.getoption("--torture"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.timeout(3_600))
            if not config.getoption("--full"):
                item.add_marker(pytest.mark.skip(reason="slow: needs --full"))
        if "torture" in item.keywords:
            item.add_marker(pytest.mark.timeout(36_000))
            if not config.getoption("--torture"):
                item.add_marker(pytest.mark.skip(reason="torture: needs --torture"))
        if "needs_locks" in item.keywords and os.environ.get(nolocks.VARIABLE):
            item.add_marker(pytest.mark.skip(reason="needs locks, and this is the run without them"))
        if "needs_root" in item.keywords and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root"))
    sampling.deselect(config, items)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if terminalreporter.stats.get("failed") and not config.getoption("--full"):
        terminalreporter.write_line(f"samples were drawn with {sampling.SEED_VARIABLE}={sampling.seed()}")


@pytest.fixture(scope="module", autouse=True)
def _old_objects_are_not_looked_at_again() -> None:
    """Many tests collect the garbage, to see what is left open; with the SDKs' models of APIs that took 0.3 s each.

    What is free goes back to the system: the tests fork thousands of times, and a fork copies the tables of all pages.
    """
    with warnings.catch_warnings():
        # What an SDK left in a cycle belongs to no test of this module: it is shown, and fails none of them.
        warnings.simplefilter("default", ResourceWarning)
        gc.collect()
    gc.freeze()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="session")
def seaweed() -> Iterator[S3Server]:
    """A real S3 server: SeaweedFS, or what CASSTORE_TEST_S3_ENDPOINT names."""
    with servers.s3_server() as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    """The fast stand-in: never the only server that a claim is tested on."""
    with servers.moto() as server:
        yield server


@pytest.fixture(scope="session")
def fake_gcs() -> Iterator[GCSServer]:
    """fake-gcs-server as it is, or what CASSTORE_TEST_GCS_ENDPOINT names."""
    with servers.fake_gcs() as server:
        yield server


@pytest.fixture(scope="session")
def gcs(fake_gcs: GCSServer) -> Iterator[GCSServer]:
    """The same behind what Google documents and it leaves out: conditions, and whether the bucket is missing."""
    with Proxy(fake_gcs.endpoint) as front:
        front.add(Fault(GCSRules(fake_gcs.endpoint), times=None))
        yield GCSServer(front.endpoint)


@pytest.fixture(scope="module")
def gcs_bucket(gcs: GCSServer) -> str:
    """One bucket on `gcs` for all tests of a module, which keep apart by their keys."""
    return gcs.new_bucket()


@pytest.fixture
def gcs_proxy(gcs: GCSServer) -> Iterator[Proxy]:
    """A counting, breakable proxy in front of `gcs`."""
    with Proxy(gcs.endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def azurite() -> Iterator[AzureServer]:
    """A real Azure Blob server: Azurite, or what CASSTORE_TEST_AZURE_CONNECTION_STRING names."""
    try:
        with azure_servers.azurite() as server:
            yield server
    except azure_servers.NoAzuriteError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def shared_container(azurite: AzureServer) -> str:
    """One container on `azurite` for all tests of a module, which keep apart by their keys."""
    return azurite.new_container()


@pytest.fixture
def azure_proxy(azurite: AzureServer) -> Iterator[Proxy]:
    """A counting, breakable proxy in front of `azurite`."""
    with Proxy(azurite.endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def make_bucket(seaweed: S3Server) -> Callable[[], str]:
    """Makes a bucket of its own on `seaweed` at each call; 0.2 s, so share one where a test can."""
    return seaweed.new_bucket


@pytest.fixture
def bucket(make_bucket: Callable[[], str]) -> str:
    """A fresh bucket on `seaweed`."""
    return make_bucket()


@pytest.fixture(scope="module")
def shared_bucket(make_bucket: Callable[[], str]) -> str:
    """One bucket on `seaweed` for all tests of a module, which keep apart by their keys."""
    return make_bucket()


@pytest.fixture
def proxy(seaweed: S3Server) -> Iterator[Proxy]:
    """A counting, breakable proxy in front of `seaweed`."""
    with Proxy(seaweed.endpoint) as proxy:
        yield proxy
