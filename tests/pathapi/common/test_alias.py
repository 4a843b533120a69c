"""``import cloudpathlib`` gives pathapi, in a process that asked for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pathapi

ROOT = Path(pathapi.__file__).parents[1]


def _run(code: str, *before: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((*before, str(ROOT)))}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_every_module_is_ours_and_imported_once() -> None:
    done = _run("""
import sys, pathapi
pathapi.install_as_cloudpathlib()
pathapi.install_as_cloudpathlib()
assert "pathapi.clouds.s3" not in sys.modules, "loaded at first use"
import cloudpathlib, cloudpathlib.s3.s3client, cloudpathlib.client
import importlib, pickle, pkgutil
from cloudpathlib.azure import AzureBlobPath
from cloudpathlib.local import LocalS3Path
from cloudpathlib.exceptions import InvalidPrefixError
from cloudpathlib import CloudPath, S3Path
assert cloudpathlib is pathapi
for name in ("client", "s3.s3client", "azure", "local", "exceptions"):
    ours = importlib.import_module(f"pathapi.{name}")
    assert importlib.import_module(f"cloudpathlib.{name}") is ours
    assert ours.__name__ == ours.__spec__.name == f"pathapi.{name}", (ours.__name__, ours.__spec__)
assert cloudpathlib.s3.s3client.S3Client is pathapi.S3Client and AzureBlobPath is pathapi.AzureBlobPath
assert type(CloudPath("s3://b/k")) is pathapi.S3Path and issubclass(LocalS3Path, S3Path)
assert importlib.util.find_spec("cloudpathlib") and importlib.util.find_spec("cloudpathlib.gs.gspath")
assert pickle.loads(pickle.dumps(S3Path("s3://b/k"))) == S3Path("s3://b/k")
assert importlib.reload(cloudpathlib.enums) is pathapi.enums
try:
    import cloudpathlib.legacy
except ModuleNotFoundError as error:
    print(error)
""")
    assert (done.stdout, done.stderr) == ("No module named 'cloudpathlib.legacy'\n", "")


@pytest.mark.parametrize("first", ["import cloudpathlib", "import cloudpathlib.exceptions"])
def test_it_must_come_before_the_real_one(first: str, tmp_path: Path) -> None:
    package = tmp_path / "cloudpathlib"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "exceptions.py").write_text("")
    done = _run(f"{first}\nimport pathapi\npathapi.install_as_cloudpathlib()", str(tmp_path))
    assert done.stderr.endswith(
        f"ImportError: cloudpathlib is imported already, from {package}/__init__.py: "
        "call install_as_cloudpathlib() earlier\n"
    )
    done = _run(
        "import pathapi\npathapi.install_as_cloudpathlib()\nimport cloudpathlib as c\nprint(c.S3Path)", str(tmp_path)
    )
    assert "pathapi" in done.stdout
