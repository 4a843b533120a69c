"""The command ``casstore`` for the tests of what needs a cloud."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness.warm_command import RunCasstore, command_runner


@pytest.fixture(scope="session")
def run_casstore() -> Iterator[RunCasstore]:
    """Runs ``casstore`` as a process."""
    with command_runner() as run:
        yield run
