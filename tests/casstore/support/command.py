"""The command ``casstore`` as somebody at a terminal uses it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

from tests.casstore.support.fill import REPOSITORY


def at_a_terminal(answer: bytes, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it with a terminal to ask at, where *answer* is typed."""
    parent, child = pty.openpty()
    try:
        os.write(parent, answer)
        return subprocess.run(
            [sys.executable, "-m", "casstore", *arguments],
            cwd=REPOSITORY,
            stdin=child,
            capture_output=True,
            text=True,
            timeout=1_000,
        )
    finally:
        os.close(parent)
        os.close(child)
