"""Run the training job; `scripts/demo_torch` starts this module with a Python that has torch."""

from __future__ import annotations

import contextlib
import faulthandler
import shutil
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console

from demos.shared.bucket import Bucket, FileBucket, Traffic, served
from demos.shared.dataset import Dataset, plant
from demos.shared.terminal import bar, prepare, readers_may_leave, stderr_into
from demos.training import gc_loop as evictions
from demos.training import report as training_report
from demos.training.loaders import Loader, LoaderError, loader_of
from demos.training.options import FILES, Options, parse
from demos.training.report import Reading
from demos.training.samples import CachedFiles

SHARE: Final = 3
"""The store's budget is the dataset's bytes divided by this."""
_HANGS: Final = 3600.0
"""Seconds for one start method; then all stacks are printed and this process exits. Only a bound against hanging."""


def main(options: Options) -> int:
    """Return the exit status: 0 if every target was met, or if torch is not installed."""
    try:
        loader = loader_of(options.loader)
    except ImportError as error:
        print(f"skipped: {sys.executable} has no torch: {error}")
        return 0
    prepare()
    directory = Path(tempfile.mkdtemp(prefix="casstore-demo-torch-"))
    try:
        readings = _Training(options, loader, directory).run()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except (ValueError, RuntimeError) as error:
        print(f"scripts/demo_torch: {error}", file=sys.stderr)
        return 1
    finally:
        if not options.keep:
            shutil.rmtree(directory, ignore_errors=True)
    with readers_may_leave():
        if options.json:
            print(training_report.as_json(readings))
        else:
            training_report.show(readings, _title(options))
            if options.keep:
                print(f"\nThe stores and the dataset are in {directory}.")
            print(f"\n{training_report.verdict(readings)}")
    return 0 if all(reading.is_met for reading in readings) else 1


def _title(options: Options) -> str:
    loader = "torch's DataLoader" if options.loader == "torch" else "a process pool"
    place = "SeaweedFS" if options.server else "a file:// bucket"
    return f"{loader} with {options.workers} workers reads from {place} while casstore gc runs in a loop"


@dataclass
class _Counted:
    samples: int = 0
    wrong_bytes: int = 0
    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class _Training:
    def __init__(self, options: Options, loader: Loader, directory: Path) -> None:
        self._options, self._loader, self._directory = options, loader, directory

    def run(self) -> list[Reading]:
        dataset = self._plant()
        if not self._options.server:
            return self._read_by_all_methods(dataset, FileBucket(dataset))
        with contextlib.ExitStack() as stack:
            with Console(stderr=True).status("starting SeaweedFS and the proxy"):
                bucket = stack.enter_context(served("s3", dataset))
            with bar("upload") as on_progress:
                bucket.upload(on_progress)
            return self._read_by_all_methods(dataset, bucket)

    def _plant(self) -> Dataset:
        given = self._options.dataset
        files = self._options.files or (FILES if given is None else None)
        source = given or Path(sysconfig.get_path("purelib"))
        with bar("choose files") as on_progress:
            return plant(
                source,
                self._directory / "dataset",
                most_files=files,
                is_default=given is None,
                on_progress=on_progress,
            )

    def _read_by_all_methods(self, dataset: Dataset, bucket: Bucket) -> list[Reading]:
        readings = []
        for start_method in self._options.start_methods:
            faulthandler.dump_traceback_later(_HANGS, exit=True)
            readings.append(self._read(dataset, bucket, start_method))
        faulthandler.cancel_dump_traceback_later()
        return readings

    def _read(self, dataset: Dataset, bucket: Bucket, start_method: str) -> Reading:
        store = str(self._directory / f"store-{start_method}")
        budget = dataset.distinct_bytes // SHARE
        client = bucket.client(store, "immutable")
        # The parent uses client and store first, as a training script does: what a fork inherits must do no harm.
        client.CloudPath(bucket.uri + dataset.objects[0].key).read_bytes()
        bucket.traffic()
        counted = _Counted()
        files = CachedFiles(client, bucket.uri, dataset)
        said = self._directory / f"stderr-{start_method}.txt"
        with (
            stderr_into(said) as console,
            evictions.looping(store, budget, self._directory / f"gc-{start_method}.jsonl") as runs,
        ):
            for epoch in range(self._options.epochs):
                self._read_epoch(files, start_method, epoch, counted, console)
        traffic: Traffic | None = bucket.traffic()
        # Once more, after the workers have ended: nothing is in use now, so the store must fit into its budget.
        runs.append(evictions.run_once(store, budget))
        counted.errors += [run.failure for run in runs if run.failure]
        counted.errors += _tracebacks(said)
        return Reading(
            start_method,
            counted.samples,
            len(dataset.objects) * self._options.epochs,
            counted.seconds,
            None if traffic is None else traffic.gets,
            runs,
            budget,
            _stored_bytes(store),
            counted.wrong_bytes,
            counted.errors,
        )

    def _read_epoch(
        self, files: CachedFiles, start_method: str, epoch: int, counted: _Counted, console: Console
    ) -> None:
        began, done = time.monotonic(), 0
        with bar(f"{start_method}, epoch {epoch + 1}", console) as tell:
            try:
                for samples in self._loader(files, self._options.workers, start_method, epoch):
                    done += len(samples)
                    counted.wrong_bytes += sum(sample.wrong_bytes for sample in samples)
                    counted.errors += [sample.failure for sample in samples if sample.failure]
                    tell(done, len(files))
            except LoaderError as error:
                counted.errors.append(str(error))
        counted.samples += done
        counted.seconds.append(time.monotonic() - began)


def _tracebacks(said: Path) -> list[str]:
    """Return failures that an exit code does not show: at the exit of workers, in threads, in finalizers."""
    text = said.read_text(encoding="utf-8", errors="replace")
    if "Traceback (most recent call last)" in text or "Fatal Python error" in text:
        return [f"on standard error: {text}"]
    sys.stderr.write(text)
    return []


def _stored_bytes(store: str) -> int:
    """Return the bytes of all blobs as the file system counts them; the store's own figures are not used."""
    return sum(path.stat().st_size for path in Path(store, "blobs").rglob("*") if path.is_file())


if __name__ == "__main__":
    sys.exit(main(parse(sys.argv[1:])))
