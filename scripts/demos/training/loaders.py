"""The loaders of a training loop: torch's DataLoader, or a process pool of the standard library."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

from demos.reading.readers import die_with_parent
from demos.shared.terminal import children_ignore_interrupts
from demos.training.samples import CachedFiles, Sample

BATCH: Final = 16
STALL: Final = 1800.0
"""Seconds without a batch until a loader counts as hanging; only a bound."""

Loader = Callable[[CachedFiles, int, str, int], Iterator[list[Sample]]]
"""Yields the samples of one epoch, in batches: (dataset, workers, start method, epoch). Each call starts its workers.

Raises: LoaderError.
"""


class LoaderError(Exception):
    """A worker hung, or died before its end."""


def loader_of(name: str) -> Loader:
    """Return the loader ``torch`` or ``plain``.

    Raises: ImportError, if torch is not installed.
    """
    if name == "plain":
        return plain_batches
    importlib.import_module("torch.utils.data")
    return torch_batches


# --- torch ------------------------------------------------------------------------------------------------------------


def torch_batches(dataset: CachedFiles, workers: int, start_method: str, epoch: int) -> Iterator[list[Sample]]:
    """Yield the batches of a DataLoader, after one training step on each."""
    # By name: torch is in no environment that types are checked in.
    torch: Any = importlib.import_module("torch")
    data: Any = importlib.import_module("torch.utils.data")
    # That eight are too many for two cores is the point: they are to get into each other's way.
    warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
    loader = data.DataLoader(
        replace(dataset, transform=histogram),
        batch_size=BATCH,
        shuffle=True,
        num_workers=workers,
        collate_fn=collate,
        multiprocessing_context=start_method,
        timeout=STALL,
        generator=torch.Generator().manual_seed(epoch),
    )
    model = torch.nn.Linear(256, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with children_ignore_interrupts():
        batches = iter(loader)
    # It does not report how they ended, and kills those that take longer than five seconds.
    processes = list(batches._workers)  # noqa: SLF001 (torch has no public name)
    try:
        for features, samples in batches:
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(features).sum(dim=1), features[:, 0]).backward()
            optimizer.step()
            yield samples
    except RuntimeError as error:
        raise LoaderError(f"the DataLoader: {error}") from error
    finally:
        batches._shutdown_workers()  # noqa: SLF001 (torch has no public name)
    _check_ends(processes)


def histogram(data: bytes) -> Any:
    """Return how often each byte value occurs, as a tensor of 256 shares."""
    torch: Any = importlib.import_module("torch")
    if not data:
        return torch.zeros(256)
    return torch.bincount(torch.frombuffer(bytearray(data), dtype=torch.uint8), minlength=256) / len(data)


def collate(samples: list[Sample]) -> tuple[Any, list[Sample]]:
    """Return a batch: one tensor, passed by shared memory, and the samples to count."""
    torch: Any = importlib.import_module("torch")
    rows = [torch.zeros(256) if sample.features is None else sample.features for sample in samples]
    return torch.stack(rows), [replace(sample, features=None) for sample in samples]


# --- the standard library ---------------------------------------------------------------------------------------------


def plain_batches(dataset: CachedFiles, workers: int, start_method: str, epoch: int) -> Iterator[list[Sample]]:
    """Yield the same batches from a process pool."""
    context = multiprocessing.get_context(start_method)
    numbers = list(range(len(dataset)))
    random.Random(epoch).shuffle(numbers)
    batches = [numbers[start : start + BATCH] for start in range(0, len(numbers), BATCH)]
    with children_ignore_interrupts():
        pool = context.Pool(workers, _begin, (dataset,))
    processes = list(pool._pool)  # type: ignore[attr-defined]  # noqa: SLF001 (no public name)
    try:
        results = pool.imap_unordered(_take, batches)
        for _ in batches:
            try:
                samples = results.next(STALL)
            except multiprocessing.TimeoutError:
                raise LoaderError(f"no batch came for {STALL:.0f} seconds") from None
            yield samples
        pool.close()
        pool.join()
    finally:
        pool.terminate()
    _check_ends(processes)


_dataset: CachedFiles | None = None
"""The dataset of this worker."""


def _begin(dataset: CachedFiles) -> None:
    global _dataset
    _dataset = dataset
    threading.Thread(target=die_with_parent, args=(os.getppid(),), daemon=True).start()


def _take(numbers: list[int]) -> list[Sample]:
    assert _dataset is not None
    return _dataset.__getitems__(numbers)


def _check_ends(processes: list[Any]) -> None:
    ends = [process.exitcode for process in processes if process.exitcode != 0]
    if ends:
        raise LoaderError(f"{len(ends)} workers did not end well: exit codes {ends}")
