"""Two passes of the suite at a time, for `scripts/test`: one in the background, whose output is shown in its turn.

Standard library only. Processes of their own, not threads of one: many tests fork, and count what their process has.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from types import TracebackType
from typing import Final, Self

from devtools.environment import ROOT

_LOOK_SECONDS: Final = 0.2


class Background:
    """A command that runs from the start of the ``with`` block and is killed, with its group, at the end of it."""

    def __init__(self, command: list[str]) -> None:
        self._command = command

    def __enter__(self) -> Self:
        self._log = tempfile.NamedTemporaryFile(prefix="casstore-suite-", suffix=".log")
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
        )
        return self

    def show(self) -> int:
        """Print what it has said, and what it goes on to say until it ends; its status."""
        print(f"== {' '.join(self._command[2:])}\n   beside what came before", flush=True)
        with open(self._log.name, "rb") as said:
            while True:
                is_over = self._process.poll() is not None
                shutil.copyfileobj(said, sys.stdout.buffer)
                sys.stdout.flush()
                if is_over:
                    return self._process.returncode
                time.sleep(_LOOK_SECONDS)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            # Not killed outright: the servers of its tests are to go with it.
            os.killpg(self._process.pid, signal.SIGINT)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._log.close()
