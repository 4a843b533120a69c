"""Run the demonstration; `scripts/demo` starts this module with the Python of its environment."""

from __future__ import annotations

import contextlib
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console

import casstore
from demos.reading import readers as workers
from demos.reading import report
from demos.reading.options import CLOUDS, FILES, START_METHODS, Options, parse
from demos.reading.readers import Task, WorkerError, Workers, chosen
from demos.shared import serving
from demos.shared.bucket import Bucket, FileBucket, Traffic, served
from demos.shared.dataset import Dataset, plant
from demos.shared.terminal import bar, prepare, readers_may_leave, shown

ROUNDS: Final = {"all": 3, "small": 3, "large": 5}
"""Warm epochs by sizes, each beside one from plain files; the median of the ratios counts. The few large files take a
tenth of a second a round, so that they need more rounds.
"""

_SCRIPT: Final = Path(__file__).parents[2] / "demo"


def main(options: Options) -> int:
    """Return the exit status: 0 if every target is met."""
    if options.serve:
        return serving.main(options.cloud)
    directory = Path(tempfile.mkdtemp(prefix="casstore-demo-"))
    try:
        prepare()
        figures = _Demonstration(options, directory).run()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except WorkerError as error:
        print(f"A worker failed:\n{error}", file=sys.stderr)
        return 1
    except (ValueError, RuntimeError) as error:
        print(f"scripts/demo: {error}", file=sys.stderr)
        return 1
    finally:
        if not options.keep:
            shutil.rmtree(directory, ignore_errors=True)
    with readers_may_leave():
        if options.json:
            print(report.as_json(figures, options.cloud, options.start_method))
        else:
            report.show(figures, f"{options.workers} processes ({options.start_method}) read from {figures.place}")
            _say_what_next(options, directory)
            print(f"\n{report.verdict(figures)}")
    return 0 if report.is_met(figures) else 1


class _Demonstration:
    def __init__(self, options: Options, directory: Path) -> None:
        self._options = options
        self._dataset_directory, self._store = directory / "dataset", str(directory / "store")

    def run(self) -> report.Figures:
        dataset = self._plant()
        if self._options.cloud == "file":
            return self._read(dataset, FileBucket(dataset))
        with contextlib.ExitStack() as stack:
            with Console(stderr=True).status(f"starting {CLOUDS[self._options.cloud]} and the proxy"):
                bucket = stack.enter_context(served(self._options.cloud, dataset))
            with bar("upload") as on_progress:
                bucket.upload(on_progress)
            return self._read(dataset, bucket)

    def _plant(self) -> Dataset:
        given = self._options.dataset
        files = self._options.files or (FILES if given is None else None)
        source = given or Path(sysconfig.get_path("purelib"))
        with bar("choose files") as on_progress:
            return plant(
                source,
                self._dataset_directory,
                most_files=files,
                is_default=given is None,
                on_progress=on_progress,
            )

    def _read(self, dataset: Dataset, bucket: Bucket) -> report.Figures:
        always, immutable = bucket.client(self._store, "always"), bucket.client(self._store, "immutable")
        # The parent uses client and store first, as a training script does: what a fork inherits must do no harm.
        next(iter(always.CloudPath(bucket.uri).iterdir()))
        always.cache.usage()
        bucket.traffic()
        options = self._options
        with workers.started(options.workers, options.start_method, bucket, always, immutable, dataset) as started:
            readings = _Readings(started, dataset, options.workers, bucket.traffic)
            listing = readings.run("list", Task("list"))
            first = readings.run("epoch 1", Task("always", epoch=1))
            second = readings.run("epoch 2, always", Task("always", epoch=2))
            warm = {sizes: readings.compare(rounds, sizes) for sizes, rounds in ROUNDS.items()}
            requests = bucket.traffic()
        return report.Figures(
            dataset,
            bucket.place,
            bucket.note,
            bucket.states_checksums,
            options.workers,
            _stored_bytes(casstore.open(self._store)),
            listing,
            first,
            second,
            requests,
            warm,
            readings.mismatched_bytes,
        )


class _Readings:
    """Runs tasks, each with a progress bar, and adds up the mismatched bytes."""

    def __init__(self, started: Workers, dataset: Dataset, count: int, traffic: Callable[[], Traffic | None]) -> None:
        self._workers, self._count, self._traffic = started, count, traffic
        self._dataset = dataset
        self.mismatched_bytes = 0

    def run(self, name: str, task: Task) -> report.Phase:
        """Run *task* and return what it took, with the requests that it made."""
        with bar(name) as on_progress:
            outcome = self._workers.run(task, lambda done: on_progress(done, self._count * len(self._dataset.objects)))
        self.mismatched_bytes += outcome.mismatched_bytes
        return report.Phase(outcome, self._traffic())

    def compare(self, rounds: int, sizes: str) -> list[report.Pair]:
        """Run *rounds* warm epochs, each beside the same from plain files; the two take turns in going first."""
        each = self._count * len(chosen(self._dataset, sizes))
        readings: list[report.Pair] = []
        if not each:
            return readings
        before, total = 0, 2 * rounds * each
        with bar(f"epoch 2, immutable, and plain ({sizes})") as on_progress:
            for number in range(rounds):
                outcomes = {}
                for source in ("immutable", "plain") if number % 2 == 0 else ("plain", "immutable"):
                    task, show = Task(source, 2 + number, sizes), partial(_add_progress, on_progress, before, total)
                    outcomes[source] = self._workers.run(task, show)
                    self.mismatched_bytes += outcomes[source].mismatched_bytes
                    before += each
                readings.append(report.Pair(outcomes["immutable"], outcomes["plain"]))
        return readings


def _add_progress(on_progress: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    on_progress(before + done, total)


def _stored_bytes(cache: casstore.Cache) -> int:
    """Return the bytes of all blobs as the file system counts them; the store's own figures are not used."""
    return sum(path.stat().st_size for path in Path(cache.root, "blobs").rglob("*") if path.is_file())


def _say_what_next(options: Options, directory: Path) -> None:
    command, script = shown(Path(sys.executable).with_name("casstore")), shown(_SCRIPT)
    if options.keep:
        print(f"\nThe store and the dataset are in {directory}. To look at them, and to remove them:\n")
        print(f"    CASSTORE_DIR={directory}/store {command} du")
        print(f"    CASSTORE_DIR={directory}/store {command} ls | head")
        print(f"    rm -rf {directory}")
        return
    place = {"s3": "", "file": " --no-server"}.get(options.cloud, f" --cloud {options.cloud}")
    method = next(method for method in START_METHODS[1:] if method != options.start_method)
    cloud = next(cloud for cloud in list(CLOUDS)[1:] if cloud != options.cloud)
    suggestions = {
        f"{script}{place} --keep": "keep the store, to look at it",
        f"{script}{place} --start-method {method}": "start the processes another way",
        f"{script} --cloud {cloud}": "another cloud",
        f"{script}{place} --dataset DIR": "your own files",
        f"{script} --serve": "a server and a bucket to try things on",
        f"{command} --help": "the command line of the store",
    }
    width = max(map(len, suggestions))
    print("\nNext:\n")
    for suggestion, purpose in suggestions.items():
        print(f"    {suggestion:<{width}}  # {purpose}")


if __name__ == "__main__":
    sys.exit(main(parse(sys.argv[1:])))
