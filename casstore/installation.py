"""Whether the installed files of a distribution are those that were installed, or another one has overwritten them."""

from __future__ import annotations

import base64
import contextlib
from importlib.metadata import Distribution, PackagePath, distributions
from pathlib import Path
from typing import Final

from casstore.format.digest import new_hasher

_NAME: Final = "casstore"
_AGAIN: Final = "install casstore again, as before, with pip's --force-reinstall --no-deps"
_TOP_LEVELS: Final = ("casstore", "pathapi")


def find_damage() -> tuple[str, str] | None:
    """Return what is wrong with the installed files of casstore, and how to mend it; None if nothing is.

    Another distribution may have a package of the same name: pip then overwrites one with the other, without a word.
    None too if casstore is imported and not installed.
    """
    own: Distribution | None = None
    others: dict[str, str] = {}
    for found in distributions():
        name = found.metadata["Name"] or ""
        if name == _NAME:
            own = own or found
        elif shared := sorted({file.parts[0] for file in found.files or () if file.parts[0] in _TOP_LEVELS}):
            others[name] = f"{name} {found.version} has files of the package {shared[0]}"
    if own is None:
        return None
    if others:
        uninstall = f"pip uninstall {' '.join(sorted(others))}"
        what = "; ".join(others[name] for name in sorted(others))
        return f"another distribution overwrites casstore: {what}", f"{uninstall}, then {_AGAIN}"
    files = [file for file in own.files or () if file.parts[0] in _TOP_LEVELS]
    changed = [str(file) for file in files if not _is_as_installed(file)]
    if changed:
        more = f" and {len(changed) - 1:,} more" if len(changed) > 1 else ""
        return f"installed files are missing or were changed: {changed[0]}{more}", _AGAIN
    return None


def _is_as_installed(file: PackagePath) -> bool:
    if file.hash is None or file.hash.mode != "sha256":
        return True
    with contextlib.suppress(OSError):
        hasher = new_hasher("sha256")
        hasher.update(Path(file.locate()).read_bytes())
        return base64.urlsafe_b64encode(hasher.digest()).rstrip(b"=").decode() == file.hash.value
    return False
