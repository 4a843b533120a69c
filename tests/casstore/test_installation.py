"""Another distribution with a package of our name overwrites files without a word: the command finds out."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from casstore.installation import find_damage
from tests.casstore.support.fill import REPOSITORY

_AGAIN = "install casstore again, as before, with pip's --force-reinstall --no-deps"


def _record(site: Path, name: str, version: str, packages: list[str], entry_points: str = "") -> None:
    """Write the metadata of a distribution of these packages, as pip does."""
    about = site / f"{name}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (about / "entry_points.txt").write_text(entry_points)
    files = [path for package in packages for path in sorted((site / package).rglob("*.py"))]
    hashes = [base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=") for path in files]
    lines = [f"{path.relative_to(site)},sha256={value.decode()}," for path, value in zip(files, hashes, strict=True)]
    (about / "RECORD").write_text("\n".join(lines) + "\n")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with an installed casstore."""
    site = tmp_path / "site"
    for package in ("casstore", "pathapi"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(f"{REPOSITORY}/{package}", site / package, ignore=ignored)
    _record(
        site, "casstore", "0.1.0", ["casstore", "pathapi"], "[casstore.commands]\npathapi = pathapi.cli.main:commands\n"
    )
    return site


def _install_another(site: Path) -> None:
    (site / "pathapi" / "__init__.py").write_text("raise ImportError('not what you are looking for')\n")
    _record(site, "pathapi", "9.0", ["pathapi"])
    text = (site / "pathapi-9.0.dist-info" / "RECORD").read_text().splitlines()
    (site / "pathapi-9.0.dist-info" / "RECORD").write_text(text[0] + "\n")


def _casstore(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site), "CASSTORE_DIR": str(site.parent / "store")}
    command = [sys.executable, "-P", "-m", "casstore", *arguments]
    return subprocess.run(command, env=environment, cwd=site.parent, capture_output=True, text=True)


def test_a_sound_installation_and_a_checkout_have_no_damage(site: Path) -> None:
    assert find_damage() is None
    done = _casstore(site, "doctor")
    assert "installed files" in done.stdout and "as installed" in done.stdout


def test_another_distribution_of_a_packages_name_is_found_by_the_doctor_and_by_the_message(site: Path) -> None:
    _install_another(site)
    what = "another distribution overwrites casstore: pathapi 9.0 has files of the package pathapi"
    way = f"pip uninstall pathapi, then {_AGAIN}"
    done = _casstore(site, "doctor")
    assert done.returncode == 1
    assert what in done.stdout and way in done.stdout
    done = _casstore(site, "get", "s3://bucket/key")
    assert done.returncode == 2
    assert f"{what}: {way}" in done.stderr and "not what you are looking for" in done.stderr


def test_what_an_uninstallation_leaves_is_found_too(site: Path) -> None:
    _install_another(site)
    (site / "pathapi" / "__init__.py").unlink()
    shutil.rmtree(site / "pathapi-9.0.dist-info")
    (site / "pathapi" / "client.py").write_text("")
    done = _casstore(site, "doctor")
    assert done.returncode == 1
    assert "installed files are missing or were changed: pathapi/__init__.py and 1 more" in done.stdout
    assert f"{_AGAIN}" in done.stdout
