"""The environment of the demonstrations: settings, signals, the terminal."""

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
    """Start children that ignore Ctrl-C, which reaches the whole process group; only this process handles it.

    Ignoring is inherited, even by other programs. A child that sets it itself may be interrupted before.
    """
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


@contextlib.contextmanager
def stderr_into(path: Path) -> Iterator[Console]:
    """Redirect the standard error of this process and its children into *path* during the body.

    The console that this yields still prints on the terminal.
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
    """Show a progress bar on standard error; call what it yields with the items done and the items in all."""
    columns = (TextColumn("{task.description:<38}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console or Console(stderr=True)) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextlib.contextmanager
def readers_may_leave() -> Iterator[None]:
    """Print in the body: if the reader of standard output closes it, as `head` does, that is no error."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Else Python flushes it again at its exit, and prints an error.
        with open(os.devnull, "wb") as sink:
            os.dup2(sink.fileno(), sys.stdout.fileno())


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # The original exits with 1, which here means a missed target.
        raise BrokenPipeError


def wide_console() -> Console:
    """Return a console for a table on standard output; a file or a pipe receives all columns."""
    console = _Console()
    if not console.is_terminal:
        console.width = 120
    return console


def shown(path: Path) -> str:
    """Return *path* as the user would type it from here."""
    relative = os.path.relpath(path)
    return min(str(path), relative if os.sep in relative else f"./{relative}", key=len)
