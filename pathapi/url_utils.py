"""``file:`` URLs."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname


def path_from_fileurl(urlstr: str, **kwargs: Any) -> Path:
    """Return the path of this machine that a ``file:`` URL names; *kwargs* are passed to `pathlib.Path`."""
    return Path(url2pathname(urlsplit(urlstr).path), **kwargs)
