"""Run the demonstration; `scripts/demo` starts this with the environment's own Python."""

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
from demos.shared.bucket import Bucket, FileBucket, Traffic, served
from demos.shared.dataset import Dataset, plant
from demos.shared.terminal import bar, prepare, readers_may_leave, shown

ROUNDS: Final = {"all": 3, "small": 3, "large": 5}
"""Of warm epochs by sizes, each beside one from plain files: the median of the ratios is what counts. There are so few
large files that one round of them takes a tenth of a second, where any other program shows: hence more rounds.
"""

_SCRIPT: Final = Path(__file__).parents[1] / "demo"


def main(options: Options) -> int:
    """The exit status: 0 if every target is met."""
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
            with bar("upload") as tell:
                bucket.upload(tell)
            return self._read(dataset, bucket)

    def _plant(self) -> Dataset:
        given = self._options.dataset
        files = self._options.files or (FILES if given is None else None)
        source = given or Path(sysconfig.get_path("purelib"))
        with bar("choose files") as tell:
            return plant(source, self._dataset_directory, most_files=files, is_default=given is None, tell=tell)

    def _read(self, dataset: Dataset, bucket: Bucket) -> report.Figures:
        always, immutable = bucket.client(self._store, "always"), bucket.client(self._store, "immutable")
        # The parent uses client and store first, as a training script does: what fork then hands down must do no harm.
        next(iter(always.CloudPath(bucket.uri).iterdir()))
        always.cache.usage()
        bucket.traffic()
        options = self._options
        with workers.started(options.workers, options.start_method, bucket, always, immutable, dataset) as started:
            readings = _Readings(started, dataset, options.workers, bucket.traffic)
            readings.run("list", Task("list"), take=False)
            first_seconds, first = readings.run("epoch 1", Task("always", epoch=1))
            always_seconds, second = readings.run("epoch 2, always", Task("always", epoch=2))
            warm = {sizes: readings.compare(rounds, sizes) for sizes, rounds in ROUNDS.items()}
            requests = bucket.traffic()
        return report.Figures(
            dataset,
            bucket.place,
            bucket.note,
            bucket.states_checksums,
            options.workers,
            _stored_bytes(casstore.open(self._store)),
            first,
            first_seconds,
            second,
            always_seconds,
            requests,
            warm,
            readings.mismatched_bytes,
        )


class _Readings:
    """Runs tasks with a progress bar for each, and adds up what was wrong."""

    def __init__(self, started: Workers, dataset: Dataset, count: int, traffic: Callable[[], Traffic | None]) -> None:
        self._workers, self._count, self._traffic = started, count, traffic
        self._dataset = dataset
        self.mismatched_bytes = 0

    def run(self, name: str, task: Task, *, take: bool = True) -> tuple[float, Traffic | None]:
        """Seconds, and with *take* the traffic since it was last taken."""
        with bar(name) as tell:
            seconds, mismatched = self._workers.run(
                task, lambda done: tell(done, self._count * len(self._dataset.objects))
            )
        self.mismatched_bytes += mismatched
        return seconds, self._traffic() if take else None

    def compare(self, rounds: int, sizes: str) -> list[tuple[float, float]]:
        """Seconds of each of so many warm epochs, and of the same from plain files; neither always goes first."""
        each = self._count * len(chosen(self._dataset, sizes))
        readings: list[tuple[float, float]] = []
        if not each:
            return readings
        before, total = 0, 2 * rounds * each
        with bar(f"epoch 2, immutable, and plain ({sizes})") as tell:
            for number in range(rounds):
                seconds = {}
                for source in ("immutable", "plain") if number % 2 == 0 else ("plain", "immutable"):
                    task, show = Task(source, 2 + number, sizes), partial(_tell_more, tell, before, total)
                    seconds[source], mismatched = self._workers.run(task, show)
                    self.mismatched_bytes += mismatched
                    before += each
                readings.append((seconds["immutable"], seconds["plain"]))
        return readings


def _tell_more(tell: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    tell(before + done, total)


def _stored_bytes(cache: casstore.Cache) -> int:
    """By the file system's word: nothing in the store's own books is asked."""
    return sum(path.stat().st_size for path in Path(cache.root, "blobs").rglob("*") if path.is_file())


def _say_what_next(options: Options, directory: Path) -> None:
    command, script = shown(Path(sys.executable).with_name("casstore")), shown(_SCRIPT)
    if options.keep:
        print(f"\nThe store and the dataset stay in {directory}. See what the store holds:\n")
        print(f"    CASSTORE_DIR={directory}/store {command} du")
        print(f"    CASSTORE_DIR={directory}/store {command} ls | head")
        print(f"    rm -rf {directory}")
        return
    place = {"s3": "", "file": " --no-server"}.get(options.cloud, f" --cloud {options.cloud}")
    method = next(method for method in START_METHODS[1:] if method != options.start_method)
    cloud = next(cloud for cloud in list(CLOUDS)[1:] if cloud != options.cloud)
    suggestions = {
        f"{script}{place} --keep": "leave the store for you to look at",
        f"{script}{place} --start-method {method}": "processes made another way",
        f"{script} --cloud {cloud}": "another cloud",
        f"{script}{place} --dataset DIR": "your own files",
        f"{command} --help": "the command line of the store",
    }
    width = max(map(len, suggestions))
    print("\nNext:\n")
    for suggestion, purpose in suggestions.items():
        print(f"    {suggestion:<{width}}  # {purpose}")


if __name__ == "__main__":
    sys.exit(main(parse(sys.argv[1:])))
