"""Real tools that only take a path: they read a view, what they make waits for `push`, what they change is kept."""

from __future__ import annotations

import importlib
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from casstore import PendingState
from pathapi import FileClient, FilePath
from pathapi.exceptions import OverwriteNewerLocalError
from tests.casstore.support.fill import REPOSITORY
from tests.end_to_end.test_demo_torch import python_with_torch

np: Any = importlib.import_module("numpy")  # as a name without types: a type checker would need pandas-stubs
pd: Any = importlib.import_module("pandas")


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    (tmp_path / "bucket").mkdir()
    return tmp_path / "bucket"


@pytest.fixture
def root(bucket: Path, tmp_path: Path) -> FilePath:
    return FileClient(local_cache_dir=tmp_path / "store").CloudPath(f"file://{bucket}/")


def test_numpy_saves_to_a_path_and_loads_from_it(root: FilePath, bucket: Path) -> None:
    path, data = root / "a.npy", np.arange(1000.0)
    np.save(path, data)
    assert not (bucket / "a.npy").exists()
    (write,) = path.pending
    assert (write.state, write.size) == (PendingState.INCOMPLETE, 8 * 1000 + 128)
    path.push()
    assert (np.load(bucket / "a.npy") == data).all()
    assert (np.load(path) == data).all()
    with path.open("rb") as file:
        assert (np.load(file) == data).all()
    with path.open("wb") as file:
        np.save(file, data[::-1])
    assert (np.load(path) == data[::-1]).all()


def test_numpy_that_changes_a_mapped_file_makes_an_edit(root: FilePath, bucket: Path) -> None:
    path = root / "a.npy"
    with path.open("wb") as file:
        np.save(file, np.zeros(1000))
    os.chmod(path.fspath, 0o600)
    mapped = np.load(path, mmap_mode="r+")
    mapped[7] = 1
    mapped.flush()
    del mapped
    with pytest.raises(OverwriteNewerLocalError):
        path.read_bytes()
    assert np.load(bucket / "a.npy").sum() == 0
    path.push()
    assert np.load(bucket / "a.npy").sum() == 1 == np.load(path).sum()


def test_pandas_writes_to_a_path_and_reads_from_it(root: FilePath, bucket: Path) -> None:
    path, frame = root / "table.csv", pd.DataFrame({"a": range(100), "b": [str(n) for n in range(100)]})
    frame.to_csv(path, index=False)
    assert not (bucket / "table.csv").exists()
    path.push()
    assert (bucket / "table.csv").read_text() == frame.to_csv(index=False)
    assert pd.read_csv(path, dtype={"b": str}).equals(frame)
    with path.edit() as name:
        frame.head(3).to_csv(name, index=False)
    assert len(pd.read_csv(path)) == 3 == len(pd.read_csv(bucket / "table.csv"))
    with path.open("w") as file:
        frame.to_csv(file, index=False)
    assert pd.read_csv(path, dtype={"b": str}).equals(frame)


_TORCH = """
import sys
import torch
from torch.utils.data import DataLoader, Dataset
from pathapi import FileClient

class Files(Dataset):
    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, number):
        with open(self.paths[number], "rb") as file:
            return torch.tensor(list(file.read()))

if __name__ == "__main__":
    path = FileClient(local_cache_dir=sys.argv[1]).CloudPath(sys.argv[2])
    for total in (499500, 0):
        torch.save({"weights": torch.arange(1000.0) * bool(total)}, path)
        path.push()
        assert torch.load(path)["weights"].sum() == total
    with path.open("wb") as file:
        torch.save({"weights": torch.ones(3)}, file)
    assert torch.load(path)["weights"].sum() == 3
    paths = [path.parent / f"sample-{number}" for number in range(8)]
    for number, sample in enumerate(paths):
        sample.write_bytes(bytes([number] * 4))
    for start in ("fork", "spawn"):
        loader = DataLoader(Files(paths), batch_size=2, num_workers=2, multiprocessing_context=start)
        assert sum(int(batch.sum()) for batch in loader) == 4 * sum(range(8))
"""


@pytest.mark.slow
def test_torch_saves_to_a_path_and_loads_from_it(bucket: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"  # a file, which the workers that are spawned import
    script.write_text(_TORCH)
    done = subprocess.run(
        [python_with_torch(), str(script), str(tmp_path / "store"), f"file://{bucket}/model.pt"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=1_000,
    )
    assert done.returncode == 0, done.stderr
    assert (bucket / "model.pt").stat().st_size > 0
