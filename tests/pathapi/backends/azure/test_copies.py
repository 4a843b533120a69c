"""Copies on Azure that are waited for: ours alone, and no longer than they make progress."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pathapi.backends.azure import backend as azure
from pathapi.backends.azure.backend import AzureBackend, AzureConnection
from pathapi.exceptions import CloudPathException, CloudUnavailableError, VersionMismatchError

_ENDLESS = 100


class _Copied:
    """A blob whose copy stays in one state; it is asked a bounded number of times."""

    def __init__(self, copy_id: str, progress: str) -> None:
        self._copy = SimpleNamespace(id=copy_id, status="pending", progress=progress)
        self.polls = 0

    def get_blob_properties(self, **_: object) -> Any:
        self.polls += 1
        assert self.polls < _ENDLESS, "it is asked without end"
        return SimpleNamespace(copy=self._copy)

    def abort_copy(self, copy_id: str) -> None:
        pass


@pytest.mark.parametrize(
    ("copy_id", "progress", "error"),
    [
        ("another", "1/4", VersionMismatchError),  # its progress is no news of ours
        ("ours", "0/4", CloudUnavailableError),
        ("ours", "3/4", CloudUnavailableError),
        ("ours", "9/4", CloudUnavailableError),
    ],
)
def test_a_copy_of_another_process_or_without_progress_is_given_up(
    monkeypatch: pytest.MonkeyPatch, copy_id: str, progress: str, error: type[CloudPathException]
) -> None:
    monkeypatch.setattr(azure, "time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr(azure, "_COPY_PATIENCE", 5.0)
    connection = AzureConnection(account_url="https://account.blob.core.windows.net")
    blob = _Copied(copy_id, progress)
    with pytest.raises(error):
        AzureBackend(connection, "container")._await_copy("k", blob, "ours", 4)
    assert blob.polls < _ENDLESS
