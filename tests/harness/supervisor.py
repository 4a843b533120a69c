"""Runs one server and outlives it, so that no test run, however it dies, leaves a server or its directory behind.

Started by `servers.py` as a process of its own: ``python supervisor.py OWNER_PID DIRECTORY COMMAND...``. It ends the
server with SIGKILL (the data is thrown away, and SeaweedFS takes up to 15 s to stop politely), waits for it, and only
then removes the directory. It does so when the owner is gone, when the server is, and on SIGTERM.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time

LOG_NAME = "server.log"
DOOMED_NAME = "remove-at-exit"
"""A file in the directory that lists, one per line, what the server leaves outside of it."""


def _die_with_supervisor() -> None:
    """Runs in the server before exec: if the supervisor itself is killed, the kernel kills the server (Linux only)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _run(owner: int, directory: str, command: list[str]) -> int:
    # Not PR_SET_PDEATHSIG for the supervisor itself: that follows the *thread* which started it, and a thread of the
    # owner may end long before the owner does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with open(os.path.join(directory, LOG_NAME), "wb") as log:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=directory,
            preexec_fn=_die_with_supervisor,  # noqa: PLW1509 - unsafe beside threads, and this process has none
        )
    try:
        while server.poll() is None and os.getppid() == owner:
            time.sleep(0.1)
        return server.poll() or 0
    finally:
        server.kill()
        server.wait()
        _remove(directory, keep_log=os.getppid() == owner and server.returncode != -signal.SIGKILL)


def _remove(directory: str, *, keep_log: bool) -> None:
    with contextlib.suppress(OSError), open(os.path.join(directory, DOOMED_NAME), encoding="utf-8") as doomed:
        for line in doomed:
            with contextlib.suppress(OSError):
                os.unlink(line.rstrip("\n"))
    # A server that died by itself is a finding: its owner is still there to read the log, and removes the directory.
    if not keep_log:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(_run(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
