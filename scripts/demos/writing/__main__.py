"""Run the demonstration of writes; `scripts/demo_writes` starts this module with the Python of its environment."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from rich.console import Console
from rich.rule import Rule

from demos.shared.terminal import bar, prepare, readers_may_leave, shown
from demos.writing import report as writes_report
from demos.writing import writers
from demos.writing.options import Options, parse
from demos.writing.writers import LOG, PLAIN, Writer, WriterError
from pathapi import S3Client
from tests.harness.faults import Action, Cut, Fault
from tests.harness.http_messages import Head
from tests.harness.proxy import Proxy
from tests.harness.servers import S3Server, s3_server

_TIMEOUT: Final = 600.0
"""Seconds until a process must have reached a point; only a bound against hanging."""

_SCRIPT: Final = Path(__file__).parents[2] / "demo_writes"


def main(options: Options) -> int:
    """Return the exit status: 0 if nothing is lost."""
    prepare()
    directory = Path(tempfile.mkdtemp(prefix="casstore-demo-writes-"))
    try:
        figures = _Demonstration(options, directory).run()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except WriterError as error:
        print(f"A writer failed:\n{error}", file=sys.stderr)
        return 1
    except (ValueError, RuntimeError) as error:
        print(f"scripts/demo_writes: {error}", file=sys.stderr)
        return 1
    finally:
        if not options.keep:
            shutil.rmtree(directory, ignore_errors=True)
    with readers_may_leave():
        if options.json:
            print(writes_report.as_json(figures))
        else:
            writes_report.show(figures, f"{options.processes} processes write; two are killed, and the network fails")
            _say_what_next(options, directory)
            print(f"\n{figures.verdict}")
    return 1 if figures.missed else 0


@dataclass(frozen=True, slots=True)
class _Hold(Action):
    """Delay a request, or with *answered* its response, until *over* is set."""

    reached: threading.Event
    over: threading.Event
    answered: bool

    def before(self, request: Head) -> None:
        if not self.answered:
            self._wait()

    def respond(self, response: Head, stop: threading.Event) -> None:
        if self.answered:
            self._wait()

    def _wait(self) -> None:
        self.reached.set()
        self.over.wait()
        raise Cut(reset=True)


class _Demonstration:
    def __init__(self, options: Options, directory: Path) -> None:
        self._options = options
        self._store, self._journals = directory / "store", directory / "journals"
        self._journals.mkdir()
        # Progress messages are written to stdout too, unless a program reads it.
        self._console = Console(stderr=options.json, highlight=False, soft_wrap=True)
        self._over = threading.Event()

    def run(self) -> writes_report.Figures:
        options = self._options
        with contextlib.ExitStack() as stack:
            with Console(stderr=True).status("starting SeaweedFS and the proxy"):
                server = stack.enter_context(s3_server())
                network = stack.enter_context(_Network(server))
                stack.callback(self._over.set)  # runs first, so that the proxy's threads end
                bucket = server.new_bucket("demo")
                client = S3Client(
                    server.access_key,
                    server.secret_key,
                    endpoint_url=network.endpoint,
                    addressing_style="path",
                    region=server.region,
                    local_cache_dir=self._store,
                )
                root = f"s3://{bucket}/"
                started = stack.enter_context(writers.started(options.processes, root, client, self._journals))
                _tell_all(started, "warm_up")
            self._contrast(started, server, bucket)
            living = self._append(started, network)
            living = self._kill_before_the_server(living, network)
            self._lose_the_network(living, network)
            listed = self._pending()
            self._push(server, network)
            _tell_all(living, "append", 1, "afterwards")
            notes = [note for writer in started for note in writer.notes()]
            return writes_report.Figures.of(
                notes, _lines_in(server, bucket), shown=len(listed), pending_at_end=len(self._listed())
            )

    # --- the acts -----------------------------------------------------------------------------------------------------

    def _contrast(self, started: Sequence[Writer], server: S3Server, bucket: str) -> None:
        server.client().put_object(Bucket=bucket, Key=PLAIN, Body=b"")
        lines = self._options.lines
        with self._counting(f"plain boto3: {len(started)} processes append", started, PLAIN, len(started) * lines):
            _tell_all(started, "append_plainly", lines, bucket)

    def _append(self, started: Sequence[Writer], network: _Network) -> list[Writer]:
        """Append from all processes to one object; half-way, kill a process that waits for the answer to its upload."""
        lines, total = self._options.lines, len(started) * self._options.lines
        reached = threading.Event()
        hold = _Hold(reached, self._over, answered=True)
        network.proxy.add(Fault(hold, kind="PUT", key=LOG, nth=max(1, total // 2)))
        with self._counting(f"casstore: {len(started)} processes append", started, LOG, total):
            for writer in started:
                writer.tell("append", lines, "line")
            _await(reached.is_set, "no process reached the upload that the proxy delays")
            victim = _closing_writer(started)
            victim.kill()
            living = [writer for writer in started if writer.answer()]
        self._say(
            f"Process {victim.number} was killed while it appended: the server had the line, the process not yet "
            "the answer. The next process that appended detected this and continued."
        )
        return living

    def _kill_before_the_server(self, living: Sequence[Writer], network: _Network) -> list[Writer]:
        """Kill a process during an upload that never reaches the server."""
        victim, *others = living
        reached, key = threading.Event(), f"reports/{victim.number}.txt"
        network.proxy.add(Fault(_Hold(reached, self._over, answered=False), kind="PUT", key=key))
        victim.tell("open", key, "w", _report_of(victim))
        victim.answer()
        victim.tell("close")
        _await(reached.is_set, "no process sent the upload that the proxy delays")
        victim.kill()
        self._say(f"Process {victim.number} was killed while it uploaded {key}; the request never reached the server.")
        return others

    def _lose_the_network(self, living: Sequence[Writer], network: _Network) -> None:
        """Close files that are open for writing while the network is down."""
        appending, *reporting = living
        appending.tell("open", LOG, "a", (f"process {appending.number}, without a network",))
        for writer in reporting:
            writer.tell("open", f"reports/{writer.number}.txt", "w", _report_of(writer))
        for writer in living:
            writer.answer()
        network.fail()
        with Console(stderr=True).status("the network is down, and all processes close their files"):
            _tell_all(living, "close")
        note = next((note for note in appending.notes() if note.state == "kept"), None)
        if note is None:
            raise RuntimeError("close() raised nothing although the network was down")
        self._say(
            f"The network went down while {len(living)} processes had files open. In process {appending.number} "
            "close() raised:"
        )
        self._console.print(f"\n    {note.said}\n", markup=False)

    def _pending(self) -> list[object]:
        listed = self._listed()
        self._casstore("pending")
        return listed

    def _push(self, server: S3Server, network: _Network) -> None:
        network.come_back()
        self._say("The network is back.")
        self._casstore("push", "--all", "--endpoint-url", network.endpoint, server=server)
        self._casstore("pending")

    # --- the shell ----------------------------------------------------------------------------------------------------

    def _casstore(self, *arguments: str, server: S3Server | None = None) -> None:
        """Run the command and print its output, as a user sees it."""
        self._console.print(f"\n[bold]$ casstore {' '.join(arguments)}[/]\n")
        done = subprocess.run(
            [sys.executable, "-m", "casstore", *arguments],
            env=self._environment(server),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._console.print(done.stdout, markup=False)

    def _listed(self) -> list[object]:
        command = [sys.executable, "-m", "casstore", "pending", "--json"]
        done = subprocess.run(command, env=self._environment(None), stdout=subprocess.PIPE, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def _environment(self, server: S3Server | None) -> dict[str, str]:
        environment = {**os.environ, "CASSTORE_DIR": str(self._store)}
        if server is not None:
            environment |= {
                "AWS_ACCESS_KEY_ID": server.access_key,
                "AWS_SECRET_ACCESS_KEY": server.secret_key,
                "AWS_DEFAULT_REGION": server.region,
            }
        return environment

    def _say(self, text: str) -> None:
        self._console.print(Rule(style="dim"))
        self._console.print(text, markup=False)

    @contextlib.contextmanager
    def _counting(self, title: str, started: Sequence[Writer], key: str, total: int) -> Iterator[None]:
        """Show a bar with the number of acknowledged lines of *key*, updated by a thread."""
        done = threading.Event()

        def count() -> None:
            while not done.wait(0.1):
                notes = [note for writer in started for note in writer.notes() if note.key == key]
                tell(sum(note.state == "acknowledged" for note in notes), total)

        with bar(title) as tell:
            thread = threading.Thread(target=count, daemon=True)
            thread.start()
            try:
                yield
            finally:
                done.set()
                thread.join()


class _Network:
    """The network to the server; it can fail, and keeps its address."""

    def __init__(self, server: S3Server) -> None:
        self._server = server
        self.proxy = Proxy(server.endpoint)
        self.endpoint = self.proxy.endpoint

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.proxy.close()

    def fail(self) -> None:
        """Cut every connection and accept no new ones."""
        self.proxy.close()

    def come_back(self) -> None:
        """Accept connections again, at the same address."""
        self.proxy = Proxy(self._server.endpoint, port=int(self.endpoint.rpartition(":")[2]))


def _tell_all(writing: Sequence[Writer], *order: object) -> None:
    for writer in writing:
        writer.tell(*order)
    for writer in writing:
        writer.answer()


def _report_of(writer: Writer) -> list[str]:
    return [f"process {writer.number}, report line {number}" for number in range(3)]


def _closing_writer(started: Sequence[Writer]) -> Writer:
    """Return the writer that has the lock, and waits for the answer that the proxy delays."""
    found: list[Writer] = []

    def is_one() -> bool:
        # Another writer may be recording the acknowledgement of its own upload.
        found[:] = [writer for writer in started if any(note.state == "closing" for note in writer.notes())]
        return len(found) == 1

    _await(is_one, "no single process was seen uploading")
    return found[0]


def _await(condition: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + _TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{complaint} within {_TIMEOUT:.0f} s")
        time.sleep(0.02)


def _lines_in(server: S3Server, bucket: str) -> dict[str, list[str]]:
    """Return all objects' lines, read by plain boto3 and without the proxy: the truth is independent of casstore."""
    client = server.client()
    keys = [item["Key"] for item in client.list_objects_v2(Bucket=bucket).get("Contents", [])]
    return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read().decode().splitlines() for key in keys}


def _say_what_next(options: Options, directory: Path) -> None:
    command, again = shown(Path(sys.executable).with_name("casstore")), shown(_SCRIPT)
    print("\nNext:\n")
    if options.keep:
        print(
            f"    CASSTORE_DIR={directory}/store {command} ls   # the cached objects; the journals are beside the store"
        )
        print(f"    rm -rf {directory}")
        return
    print(f"    {again} --processes 16 --lines 10  # more of them")
    print(f"    {command} pending --help")


if __name__ == "__main__":
    sys.exit(main(parse(sys.argv[1:])))
