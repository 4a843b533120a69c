"""`install_as_cloudpathlib`: the modules of `pathapi` under cloudpathlib's names."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_loader
from types import ModuleType
from typing import Any, Final

_NAME: Final = "cloudpathlib"


def install_as_cloudpathlib() -> None:
    """Make ``import cloudpathlib``, and its modules, give `pathapi` from now on, in this process.

    Call it before anything imports cloudpathlib. Raises ImportError if that has happened.
    """
    known, ours = sys.modules.get(_NAME), import_module("pathapi")
    if known is ours:
        return
    if known is not None:
        raise ImportError(f"{_NAME} is imported already, from {known.__file__}: call install_as_{_NAME}() earlier")
    sys.modules[_NAME] = ours
    sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if not fullname.startswith(f"{_NAME}.") or find_spec(_our_name(fullname)) is None:
            return None
        return spec_from_loader(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(_our_name(spec.name))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # It has run; the import system has put the new spec in the place of its own.
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def _our_name(name: str) -> str:
    return "pathapi" + name.removeprefix(_NAME)
