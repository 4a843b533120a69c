"""What the demonstrations share with their surroundings: foreign settings, signals, the terminal."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_FOREIGN: Final = ("AWS_", "AZURE_", "CASSTORE_", "CLOUDPATHLIB_", "GOOGLE_", "STORAGE_EMULATOR_")
_SERVERS: Final = ("CASSTORE_TEST_S3_", "CASSTORE_TEST_GCS_", "CASSTORE_TEST_AZURE_", "CASSTORE_TEST_AZURITE")


def prepare() -> None:
    """Remove the settings of the user's real clouds and stores, and let signals end this program cleanly.

    Raises: KeyboardInterrupt, if Ctrl-C was pressed while this program started.
    """
    for name in list(os.environ):
        if name.startswith(_FOREIGN) and not name.startswith(_SERVERS):
            del os.environ[name]
    # On a slow machine a writer or a download may wait for minutes; that must not decide about a target.
    os.environ["CASSTORE_LOCK_TIMEOUT"] = "3600"
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


@contextlib.contextmanager
def children_ignore_interrupts() -> Iterator[None]:
    """Ctrl-C reaches the whole process group. Only this process is to act on it, and a child that has not yet come to
    say so would print a traceback: being ignored is inherited, even by another program.
    """
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


@contextlib.contextmanager
def stderr_into(path: Path) -> Iterator[Console]:
    """What this process and those that it starts say on standard error goes into *path* while the body runs; what it
    is to show meanwhile goes to the console that this gives.
    """
    shown_on = os.dup(2)
    with open(shown_on, "w", encoding="utf-8") as terminal:
        with path.open("ab") as file:
            os.dup2(file.fileno(), 2)
        try:
            yield Console(file=terminal)
        finally:
            sys.stderr.flush()
            os.dup2(shown_on, 2)


@contextlib.contextmanager
def bar(name: str, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error; call what it gives with how many of how many are done."""
    columns = (TextColumn("{task.description:<38}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console or Console(stderr=True)) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextlib.contextmanager
def readers_may_leave() -> Iterator[None]:
    """To print in: a reader of standard output that has seen enough, as `head` has, is no error."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Or Python would flush it once more at its exit, and complain.
        with open(os.devnull, "wb") as nobody:
            os.dup2(nobody.fileno(), sys.stdout.fileno())


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # The original exits with 1, which here says that a target was missed.
        raise BrokenPipeError


def wide_console() -> Console:
    """For a table on standard output: into a file or a pipe goes the whole of it."""
    console = _Console()
    if not console.is_terminal:
        console.width = 120
    return console


def shown(path: Path) -> str:
    """*path* as the user would type it from here."""
    relative = os.path.relpath(path)
    return min(str(path), relative if os.sep in relative else f"./{relative}", key=len)
