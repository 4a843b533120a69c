"""Uploads in blocks: the blocks of two uploads of one object have different names."""

from __future__ import annotations

import io
from typing import Any

import pytest

from pathapi.backends.azure import multipart


def test_no_two_uploads_give_a_block_the_same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """All uncommitted blocks of an object share one namespace: one writer would commit the other's."""
    monkeypatch.setattr(multipart, "BLOCK_SIZE", 4)
    uploads = []
    for _ in range(2):
        staged: list[str] = []
        committed: list[str] = []

        def call(operation: str, method: str, *arguments: Any, **options: Any) -> None:
            (staged.append(arguments[0]) if method == "stage_block" else committed.extend(arguments[0]))  # noqa: B023

        multipart.upload_in_blocks(call, io.BytesIO(bytes(10)), 10, "az://c/k", content_type=None, conditions={})
        assert sorted(staged) == committed and len(committed) == 3
        uploads.append(set(committed))
    assert uploads[0].isdisjoint(uploads[1])
