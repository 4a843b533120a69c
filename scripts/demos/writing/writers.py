"""The writing processes: each keeps a journal of what `close()` promised, which survives its death."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from demos.reading.readers import die_with_parent
from demos.shared.terminal import children_ignore_interrupts

LOG: Final = "log.txt"
"""The object that all processes append to."""
PLAIN: Final = "plain.txt"
"""The object that all processes append to with plain boto3."""


@dataclass(frozen=True, slots=True)
class Note:
    """One line of a journal: the *state* of these *lines* of the object *key*.

    ``closing`` before `close` is called; then ``acknowledged`` if it returned, or ``kept`` if it raised; *said* is its
    message. ``refused`` if opening failed.
    """

    key: str
    lines: tuple[str, ...]
    state: str
    said: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """The arguments of a writer: *client* is made in the parent, *root* is the bucket's URI with a slash at its end."""

    number: int
    root: str
    client: Any
    journal: Path


class Writer:
    """One writing process, as the parent sees it."""

    def __init__(self, job: Job, process: Any, pipe: Any) -> None:
        self.number = job.number
        self.process = process
        self._journal, self._pipe = job.journal, pipe

    def tell(self, *order: Any) -> None:
        """Start *order*: the name of a method of `_Writing`, and its arguments."""
        self._pipe.send(order)

    def answer(self) -> bool:
        """Wait for the last order; return False if the process was killed.

        Raises: WriterError.
        """
        try:
            failure: str = self._pipe.recv()
        except EOFError:
            return False
        if failure:
            raise WriterError(failure)
        return True

    def kill(self) -> None:
        """Send SIGKILL: no cleanup runs."""
        self.process.kill()
        self.process.join()

    def notes(self) -> list[Note]:
        """Return the journal so far: the last state of each set of lines."""
        latest: dict[tuple[str, ...], Note] = {}
        if not self._journal.exists():
            return []
        # A last line without a line feed is still being written.
        for text in self._journal.read_text(encoding="utf-8").split("\n")[:-1]:
            record = json.loads(text)
            note = Note(record["key"], tuple(record["lines"]), record["state"], record["said"])
            latest[note.lines] = note
        return list(latest.values())


class WriterError(Exception):
    """A writer failed unexpectedly; the message is its traceback."""


@contextlib.contextmanager
def started(count: int, root: str, client: Any, journals: Path) -> Iterator[list[Writer]]:
    """Start *count* processes by spawn; kill all of them at the end."""
    context: Any = multiprocessing.get_context("spawn")
    writers: list[Writer] = []
    try:
        with children_ignore_interrupts():
            for number in range(count):
                ours, theirs = context.Pipe()
                job = Job(number, root, client, journals / f"{number}.jsonl")
                process = context.Process(target=_serve, args=(job, theirs), name=f"writer {number}", daemon=True)
                process.start()
                theirs.close()  # or a killed writer would not be noticed
                writers.append(Writer(job, process, ours))
        yield writers
    finally:
        for writer in writers:
            writer.kill()


# --- the writer's side ------------------------------------------------------------------------------------------------


def _serve(job: Job, pipe: Any) -> None:
    threading.Thread(target=die_with_parent, args=(os.getppid(),), daemon=True).start()
    writing = _Writing(job)
    while True:
        name, *arguments = pipe.recv()
        try:
            getattr(writing, name)(*arguments)
            pipe.send("")
        except Exception:  # noqa: BLE001 - told to the parent, which ends the demonstration
            pipe.send(traceback.format_exc())


class _Writing:
    """The orders that a writer understands."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._journal = job.journal.open("a", encoding="utf-8")
        self._held: tuple[Any, str, tuple[str, ...]] | None = None

    def warm_up(self) -> None:
        """Import the SDK and connect, before anything is timed or broken."""
        self._job.client.CloudPath(self._job.root + LOG).exists()

    def append(self, count: int, label: str) -> None:
        """Append *count* lines to the log, one at a time."""
        for number in range(count):
            self.open(LOG, "a", (f"process {self._job.number}, {label} {number}",))
            self.close()

    def open(self, key: str, mode: str, lines: Sequence[str]) -> None:
        """Open an object and write, without closing it."""
        lines = tuple(lines)
        try:
            file = self._job.client.CloudPath(self._job.root + key).open(mode, encoding="utf-8")
        except OSError as error:
            self._note(Note(key, lines, "refused", str(error)))
            return
        file.writelines(f"{line}\n" for line in lines)
        self._held = file, key, lines

    def close(self) -> None:
        """Close the file of `open`, which uploads it."""
        if self._held is None:
            return
        (file, key, lines), self._held = self._held, None
        self._note(Note(key, lines, "closing"))
        try:
            file.close()
        except OSError as error:
            self._note(Note(key, lines, "kept", str(error)))
        else:
            self._note(Note(key, lines, "acknowledged"))

    def append_plainly(self, count: int, bucket: str) -> None:
        """Append as it is usually done without casstore: get, append, put."""
        client = self._job.client.client
        for number in range(count):
            lines = (f"process {self._job.number}, plain {number}",)
            data = client.get_object(Bucket=bucket, Key=PLAIN)["Body"].read()
            client.put_object(Bucket=bucket, Key=PLAIN, Body=data + f"{lines[0]}\n".encode())
            self._note(Note(PLAIN, lines, "acknowledged"))

    def _note(self, note: Note) -> None:
        # In the system's memory at once: SIGKILL takes nothing of it away.
        self._journal.write(json.dumps(asdict(note)) + "\n")
        self._journal.flush()
