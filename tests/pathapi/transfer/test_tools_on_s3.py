"""Real tools on objects of S3: they read local paths, whole directories, files that belong together, and write them."""

from __future__ import annotations

import importlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from casstore import PendingState
from pathapi import S3Path, prefetch
from pathapi.exceptions import CloudPathIsADirectoryError
from tests.casstore.support.fill import REPOSITORY
from tests.harness.servers import S3Server
from tests.pathapi.conftest import MakeClient

# As names without types: a type checker would need stubs of each.
np: Any = importlib.import_module("numpy")
pd: Any = importlib.import_module("pandas")


@pytest.fixture
def elsewhere(make_client: MakeClient, root: S3Path, tmp_path: Path) -> Callable[[str], S3Path]:
    """A path below the test's directory as another machine sees it: with a store of its own."""
    other = make_client(local_cache_dir=tmp_path / "elsewhere")
    return lambda name: other.S3Path(f"{root}/{name}")


def table(start: int = 0, rows: int = 1000) -> Any:
    return pd.DataFrame({"number": range(start, start + rows), "part": [n % 4 for n in range(rows)]})


def test_pil_saves_to_a_path_twice_and_opens_it(root: S3Path, elsewhere: Callable[[str], S3Path]) -> None:
    image: Any = importlib.import_module("PIL.Image")
    path = root / "image.png"
    for width in (64, 32):  # the second save is like the first
        image.new("RGB", (width, 48)).save(path)
        path.push()
        with image.open(elsewhere("image.png")) as there, image.open(path) as here:
            assert there.size == (width, 48) == here.size


def test_pandas_reads_all_files_of_a_directory_of_parquet_whatever_is_cached(
    root: S3Path, elsewhere: Callable[[str], S3Path]
) -> None:
    for part in range(4):
        with (root / "parts" / f"{part}.parquet").open("wb") as file:
            table(1000 * part).to_parquet(file)
    assert len(pd.read_parquet(elsewhere("parts"))) == 4000
    with (root / "parts" / "4.parquet").open("wb") as file:
        table(4000).to_parquet(file)
    elsewhere("parts/4.parquet").read_bytes()
    assert sorted(pd.read_parquet(root / "parts")["number"]) == list(range(5000))


def test_a_directory_is_read_only_if_it_is_not_too_large(
    root: S3Path, make_client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in range(2):
        (root / "parts" / f"{part}.bin").write_bytes(b"x" * 5_000)
    monkeypatch.setenv("CASSTORE_LOCAL_DIRECTORY_LIMIT", "9kB")
    limited = make_client(local_cache_dir=tmp_path / "limited").S3Path(f"{root}/parts")
    with pytest.raises(CloudPathIsADirectoryError, match="prefetch"):
        os.fspath(limited)
    prefetch(limited)
    assert sorted(os.listdir(limited)) == ["0.bin", "1.bin"]


def test_a_partitioned_table_that_pandas_writes_is_pending_and_pushed(
    root: S3Path, elsewhere: Callable[[str], S3Path]
) -> None:
    table().to_parquet(root / "partitioned", partition_cols=["part"])
    writes = root.client.cache.record_local()
    assert {write.uri.split("/part=")[1][:1] for write in writes} == set("0123")
    (root / "partitioned").push()
    assert list(root.client.cache.pending.all()) == []
    dataset: Any = importlib.import_module("pyarrow.dataset")
    assert dataset.dataset(os.fspath(elsewhere("partitioned")), partitioning="hive").count_rows() == 1000


def test_a_partition_of_spark_keeps_its_percent_signs(root: S3Path) -> None:
    path = root / "table" / "ts=2024-01-01%2010%3A00" / "0.parquet"
    with path.open("wb") as file:
        table(0, 3)[["number"]].to_parquet(file)
    assert list(pd.read_parquet(root / "table")["ts"].unique()) == ["2024-01-01 10:00"]


def test_numpy_adds_a_suffix_and_maps_a_file(root: S3Path, elsewhere: Callable[[str], S3Path]) -> None:
    np.save(root / "array", np.arange(1000.0))
    (write,) = root.client.cache.record_local()
    assert (write.uri, write.state) == (f"{root}/array.npy", PendingState.INCOMPLETE)
    (root / "array.npy").push()
    mapped = np.load(elsewhere("array.npy"), mmap_mode="r")
    assert mapped.sum() == 499500


def test_h5py_creates_adds_and_reads(root: S3Path, elsewhere: Callable[[str], S3Path]) -> None:
    h5py: Any = importlib.import_module("h5py")
    path = root / "data.h5"
    with path.writing() as name, h5py.File(name, "w") as file:
        file["x"] = np.arange(10)
    with path.edit() as name, h5py.File(name, "a") as file:
        file["y"] = np.arange(5)
    with h5py.File(elsewhere("data.h5")) as file:
        assert (sorted(file), int(file["x"][:].sum())) == (["x", "y"], 45)


def test_zarr_writes_and_reads_a_directory(root: S3Path, elsewhere: Callable[[str], S3Path]) -> None:
    zarr: Any = importlib.import_module("zarr")
    zarr.create_array(store=os.fspath(root / "array.zarr"), data=np.arange(1000).reshape(10, 100), chunks=(5, 50))
    (root / "array.zarr").push()
    assert int(zarr.open_array(os.fspath(elsewhere("array.zarr")), mode="r")[:].sum()) == 499500


def test_sqlite_changes_and_reads_a_database(root: S3Path, elsewhere: Callable[[str], S3Path]) -> None:
    path = root / "rows.db"
    with path.writing() as name, sqlite3.connect(name) as made:
        made.execute("create table t (n integer)")
        made.execute("insert into t values (41)")
    made.close()
    with path.edit() as name, sqlite3.connect(name) as changed:
        changed.execute("update t set n = n + 1")
    changed.close()
    read = sqlite3.connect(elsewhere("rows.db"))
    assert read.execute("select n from t").fetchall() == [(42,)]
    read.close()


_REMEMBERED = """
import sys
from joblib import Memory
from pathapi import S3Client

def size(path):
    print("computed")
    return len(path.read_bytes())

client = S3Client(endpoint_url=sys.argv[1], local_cache_dir=sys.argv[2])
size.__module__ = "functions"
print(Memory(sys.argv[3], verbose=0).cache(size)(client.S3Path(sys.argv[4])))
"""


def test_joblib_remembers_results_of_a_path_in_the_next_process(
    root: S3Path, tmp_path: Path, s3_environment: dict[str, str], seaweed: S3Server
) -> None:
    (root / "a").write_bytes(b"12345")
    (tmp_path / "script.py").write_text(_REMEMBERED)
    command = [
        sys.executable,
        str(tmp_path / "script.py"),
        seaweed.endpoint,
        str(tmp_path / "s"),
        str(tmp_path / "memory"),
    ]
    environment = {**s3_environment, "PYTHONPATH": str(REPOSITORY)}
    for computed in ("computed\n5\n", "5\n"):
        done = subprocess.run(
            [*command, f"{root}/a"], env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.stdout == computed, done.stderr


def test_pyogrio_reads_a_shapefile_with_what_belongs_to_it(
    root: S3Path, elsewhere: Callable[[str], S3Path], tmp_path: Path
) -> None:
    raw: Any = importlib.import_module("pyogrio.raw")
    point = np.array([b"\x01\x01\x00\x00\x00" + np.array([1.0, 2.0]).tobytes()], dtype=object)
    raw.write(
        tmp_path / "g.shp",
        point,
        [np.array([7])],
        ["n"],
        geometry_type="Point",
        crs="EPSG:4326",
        driver="ESRI Shapefile",
    )
    for file in tmp_path.glob("g.*"):
        (root / "shapes" / file.name).upload_from(file)
    with elsewhere("shapes/g.shp").local(siblings=True) as name:
        assert [column.tolist() for column in raw.read(name)[3]] == [[7]]


def test_shutil_copies_onto_from_and_moves_away(root: S3Path, tmp_path: Path) -> None:
    path, mine = root / "a.txt", tmp_path / "mine.txt"
    path.write_text("old")
    mine.write_text("new")
    os.umask(os.umask(0o022))
    shutil.copy(mine, path)
    path.push()
    assert path.read_text() == "new"
    copied = shutil.copy(path, tmp_path / "copied.txt")
    assert os.stat(copied).st_mode == os.stat(mine).st_mode
    assert abs(path.stat().st_mtime - os.path.getmtime(path)) <= 2
    assert shutil.copytree(root, tmp_path / "tree") == tmp_path / "tree"
    assert (tmp_path / "tree" / "a.txt").read_text() == "new"
    shutil.move(os.fspath(path), tmp_path / "moved.txt")
    (tmp_path / "moved.txt").write_text("private")
    assert path.read_text() == "new" == Path(path).read_text()
    assert path.pending == []


def test_a_program_gets_a_path_as_an_argument(root: S3Path) -> None:
    (root / "lines.txt").write_text("1\n2\n3\n")
    done = subprocess.run(["wc", "-l", root / "lines.txt"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "3"
