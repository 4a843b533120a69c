"""A server of the bench in a process of its own, where it does not compete with this one for the interpreter."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def own_process(module: str, *arguments: str) -> Iterator[str]:
    """The endpoint of ``python -m MODULE ARGUMENTS --owner PID``, which calls `serve`; ends with this process."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments, "--owner", str(os.getpid())],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        endpoint = process.stdout.readline().strip()
        if not endpoint:
            raise RuntimeError(f"{module} did not start; its error is above")
        yield endpoint
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def serve(endpoint: str, owner: int | None) -> None:
    """Say where this process listens, and wait until *owner* is no longer its parent; for ever where that is None."""
    print(endpoint, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        while owner is None or os.getppid() == owner:
            time.sleep(0.2)
