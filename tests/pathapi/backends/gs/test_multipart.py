"""Uploads in a session: only the last piece creates the object."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from pathapi.backends.gs import multipart
from pathapi.exceptions import CloudUnavailableError, VersionMismatchError


@pytest.mark.parametrize(("lost", "is_unknown"), [(0, False), (8, True)])
def test_a_refusal_after_a_lost_answer_is_ours_only_if_the_answer_was_to_the_last_piece(
    monkeypatch: pytest.MonkeyPatch, lost: int, is_unknown: bool
) -> None:
    monkeypatch.setattr(multipart, "PIECE", 4)
    monkeypatch.setattr(multipart, "time", SimpleNamespace(sleep=lambda _: None))

    def refuse() -> NoReturn:
        raise VersionMismatchError("the object is not the expected version")

    def send(data: bytes, stated: str, *, again: bool) -> Any:
        if again:
            refuse()
        if stated.startswith(f"bytes {lost}-"):
            error = CloudUnavailableError("the answer was lost")
            error.outcome_unknown = True
            raise error
        start = int(stated.removeprefix("bytes ").partition("-")[0])
        return SimpleNamespace(status=308, headers={"range": f"bytes=0-{start + len(data) - 1}"})

    with pytest.raises(VersionMismatchError) as caught:
        multipart._send_pieces(send, io.BytesIO(bytes(12)), 12, "gs://b/k")
    assert caught.value.outcome_unknown is is_unknown
