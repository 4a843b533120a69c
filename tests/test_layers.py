"""The layers: a module imports only from lower ranks, and what has one owner is used by its owner alone.

Read from the source, so that an import inside a function or for types only counts like any other.
"""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the lowest rank to the highest, separated by bars. Each name is a package or a module at the top of its
# distribution's folder; those between two bars do not import each other.
LAYERS = {
    "casstore": (
        "errors exit_hooks | fs format | clock config locks blobs installation | index pending root counters | leases"
        " | local | reading eviction | ingest verify info | cache | pass_through | opening | doctor __init__ | cli"
        " | __main__"
    ),
    "pathapi": (
        "exceptions url_utils | common parallel | backend enums freshness | registry backends reading testing | client"
        " | metadata | cloudpath_info | writing | transfer | path | cloudpath clouds prefetching"
        " | anypath local patches s3 gs azure http | cli __init__"
    ),
}
RANKS = {
    f"{package}.{name}": rank
    for package, line in LAYERS.items()
    for rank, names in enumerate(line.split("|"))
    for name in names.split()
}

# An import and who may have it: a module, or a family of modules by a prefix that ends in *.
IMPORT_OWNERS = {
    "lmdb": ("casstore.index*",),
    "hashlib": ("casstore.format.digest",),
    "xxhash": ("casstore.format.digest",),
    "blake3": ("casstore.format.digest",),
    "zlib": ("casstore.format.digest",),
    "platformdirs": ("casstore.root",),
    "click": ("casstore.cli*", "pathapi.cli*"),
    "rich": ("casstore.cli*", "pathapi.parallel.progress", "pathapi.cli*"),
    "boto3": ("pathapi.backends.s3*",),
    "botocore": ("pathapi.backends.s3*",),
    "s3transfer": ("pathapi.backends.s3*",),
    "google": ("pathapi.backends.gs*",),
    "google_crc32c": ("pathapi.backends.gs*",),
    "azure": ("pathapi.backends.azure*",),
    "requests": ("pathapi.backends.azure*", "pathapi.backends.gs*", "pathapi.backends.connection_pools"),
    "urllib3": ("pathapi.backends.http*",),
    "obstore": ("pathapi.backends.*",),
    "pydantic_core": ("pathapi.common.pydantic_schema",),
}
# Loaded at the first use and not by `import pathapi`: each costs 30 to 300 ms, and may not be installed.
LAZY = {"blake3", "boto3", "botocore", "s3transfer", "google", "google_crc32c", "requests", "azure"}
LAZY |= {"urllib3", "obstore", "pydantic_core"}

NAMING_AND_DURABILITY = {"rename", "renames", "replace", "link", "fsync", "fdatasync"}
NAMING_OWNERS = ("casstore.fs*", "pathapi.backends.file*")  # a `file` bucket is a cloud with its own rules

ON_DISK_NAMES = {
    "CACHEDIR.TAG",
    "store.json",
    "config.toml",
    "statistics.json",
    "index-v1",
    "CURRENT",
    "NEXT",
    "data.mdb",
    "lock.mdb",
}


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module (or, with *name*, one name of it), and whether importing the importer runs it."""

    line: int
    module: str
    name: str | None
    at_import: bool


@functools.cache
def _modules() -> dict[str, ast.Module]:
    found = {}
    for package in LAYERS:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if name.endswith("__init__") and name.count(".") > 1 and not path.read_text(encoding="utf-8").strip():
                continue  # the empty mark of a package
            found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def _resolve(module: str, name: str | None) -> str:
    """The module of ours that ``from module import name`` takes something from."""
    if name is not None and f"{module}.{name}" in _modules():
        return f"{module}.{name}"
    return f"{module}.__init__" if f"{module}.__init__" in _modules() else module


def _imports(tree: ast.AST, *, at_import: bool = True) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, None, at_import)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield Import(node.lineno, "." * node.level + (node.module or ""), alias.name, at_import)
        else:
            deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
                isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            )
            yield from _imports(node, at_import=at_import and not deferred)


def _owned(importer: str, owners: tuple[str, ...]) -> bool:
    return any(importer.startswith(owner[:-1]) if owner.endswith("*") else importer == owner for owner in owners)


def _report(faults: list[str]) -> None:
    assert not faults, "\n" + "\n".join(faults)


def _unit(module: str) -> str:
    """The name in LAYERS that *module* belongs to: the first two parts of its name."""
    return ".".join(module.split(".")[:2])


def _arrows() -> dict[str, dict[str, int]]:
    """Module -> the modules of the same distribution that it imports, with a line; in functions and for types too."""
    arrows: dict[str, dict[str, int]] = {}
    for importer, tree in _modules().items():
        arrows[importer] = {}
        for found in _imports(tree):
            imported = _resolve(found.module, found.name)
            if imported in _modules() and imported.partition(".")[0] == importer.partition(".")[0]:
                arrows[importer].setdefault(imported, found.line)
    return arrows


def _circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """The groups of modules that reach each other (Tarjan's strongly connected components of more than one)."""
    found: list[list[str]] = []
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(arrows.get(name, ())):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(arrows):
        if name not in index:
            visit(name)
    return found


def test_every_module_has_a_rank() -> None:
    _report(
        [
            f"{name} has no rank: add its package to LAYERS of {Path(__file__).name}"
            for name in _modules()
            if _unit(name) not in RANKS
        ]
    )


def test_no_rank_outlives_its_package() -> None:
    units = {_unit(name) for name in _modules()}
    _report([f"{name} has a rank and no module: drop it from LAYERS" for name in RANKS if name not in units])


def test_imports_are_absolute() -> None:
    _report(
        [
            f"{importer}:{found.line} imports relatively; the layers are read from absolute names"
            for importer, tree in _modules().items()
            for found in _imports(tree)
            if found.module.startswith(".")
        ]
    )


def test_a_package_imports_only_from_lower_packages() -> None:
    faults = []
    for importer, imported in _arrows().items():
        for name, line in imported.items():
            if _unit(name) == _unit(importer):
                continue
            if RANKS.get(_unit(name), 0) >= RANKS.get(_unit(importer), 0):
                faults.append(
                    f"{importer}:{line} imports {name}, whose package is not below {_unit(importer)}: move what both "
                    "need into a lower package, or pass it as an argument"
                )
    _report(faults)


def test_no_modules_import_each_other_in_a_circle() -> None:
    arrows = {importer: set(imported) for importer, imported in _arrows().items()}
    _report(
        [
            f"a circle of imports, for types or inside functions too: {', '.join(circle)}: move what they share into a "
            "module of its own, below them"
            for circle in _circles(arrows)
        ]
    )


def test_the_finder_of_circles_finds_them() -> None:
    assert _circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}) == [["a", "b", "c"]]
    assert _circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("package", [*LAYERS])
def test_no_folder_has_more_modules_than_a_reader_can_hold(package: str) -> None:
    folders: dict[str, int] = {}
    for name in _modules():
        if name.startswith(f"{package}.") and not name.endswith(("__init__", "__main__")):
            folder = name.rpartition(".")[0]
            folders[folder] = folders.get(folder, 0) + 1
    _report(
        [f"{folder} has {count} modules (limit: 14): make a package" for folder, count in folders.items() if count > 14]
    )


def test_no_module_is_longer_than_a_reader_can_hold() -> None:
    lengths = {
        path.relative_to(ROOT): path.read_text(encoding="utf-8").count("\n")
        for package in LAYERS
        for path in (ROOT / package).rglob("*.py")
    }
    _report(
        [
            f"{path} has {length} lines (limit: 480): split it by verb"
            for path, length in lengths.items()
            if length > 480
        ]
    )


def test_casstore_knows_no_paths_and_no_cloud() -> None:
    _report(
        [
            f"{importer}:{found.line} imports {found.module}: the store must work without pathapi"
            for importer, tree in _modules().items()
            if importer.startswith("casstore.")
            for found in _imports(tree)
            if found.module.partition(".")[0] == "pathapi"
        ]
    )


def test_pathapi_uses_casstore_only_through_its_face() -> None:
    import casstore

    faults = []
    for importer, tree in _modules().items():
        if not importer.startswith("pathapi."):
            continue
        for found in _imports(tree):
            if found.module.startswith("casstore."):
                faults.append(f"{importer}:{found.line} imports {found.module}: only `from casstore import ...`")
            elif found.module == "casstore" and found.name and found.name not in casstore.__all__:
                faults.append(f"{importer}:{found.line} imports casstore.{found.name}, which is not in its __all__")
    _report(faults)


def test_the_parts_of_one_cloud_are_used_by_that_cloud_alone() -> None:
    faults = []
    for importer, imported in _arrows().items():
        for name, line in imported.items():
            folder = name.split(".")[:3]
            is_part = len(name.split(".")) > 3 and folder[1] == "backends" and not name.endswith(".backend")
            if is_part and importer.split(".")[:3] != folder and not _is_cloud_of(importer, folder[2]):
                faults.append(f"{importer}:{line} imports {name}, a part of the backend {folder[2]}")
    _report(faults)


def _is_cloud_of(importer: str, cloud: str) -> bool:
    """The paths and the client of a cloud make its connection."""
    return importer == f"pathapi.clouds.{cloud}"


def test_what_has_one_owner_is_imported_by_its_owner_alone_and_sdks_only_when_used() -> None:
    faults = []
    for importer, tree in _modules().items():
        for found in _imports(tree):
            library = found.module.partition(".")[0]
            owners = IMPORT_OWNERS.get(library)
            if owners is not None and not _owned(importer, owners):
                faults.append(f"{importer}:{found.line} imports {library}, which belongs to {', '.join(owners)}")
            if library in LAZY and found.at_import:
                faults.append(
                    f"{importer}:{found.line} imports {library} when it is itself imported: do so at first use"
                )
    _report(faults)


def test_names_are_given_and_bytes_made_durable_by_their_owners_alone() -> None:
    faults = []
    for importer, tree in _modules().items():
        if _owned(importer, NAMING_OWNERS):
            continue
        for node in ast.walk(tree):
            calls_os = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
            if calls_os and isinstance(node, ast.Attribute) and node.attr in NAMING_AND_DURABILITY:
                faults.append(f"{importer}:{node.lineno} uses os.{node.attr}: the order of such calls is files.py's")
        faults += [
            f"{importer}:{found.line} takes {found.name} from os"
            for found in _imports(tree)
            if found.module == "os" and found.name in NAMING_AND_DURABILITY
        ]
    _report(faults)


def test_the_stores_file_names_are_written_down_once() -> None:
    _report(
        [
            f"{importer}:{node.lineno} spells {node.value!r}: ask format/layout.py"
            for importer, tree in _modules().items()
            if importer != "casstore.format.layout"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in ON_DISK_NAMES
        ]
    )


@pytest.mark.parametrize(
    ("source", "module", "at_import"),
    [
        ("import boto3", "boto3", True),
        ("try:\n    import boto3\nexcept ImportError:\n    pass", "boto3", True),
        ("def f():\n    from boto3 import x", "boto3", False),
        ("if TYPE_CHECKING:\n    import boto3.session", "boto3.session", False),
        ("class A:\n    import boto3", "boto3", True),
    ],
)
def test_the_reader_of_imports_sees_them_wherever_they_stand(source: str, module: str, at_import: bool) -> None:
    assert [(found.module, found.at_import) for found in _imports(ast.parse(source))] == [(module, at_import)]


def test_the_design_prints_these_layers() -> None:
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    printed = design[design.index("casstore:  errors") :].partition("```")[0]
    for package, line in LAYERS.items():
        names = [name for name in line.split() if not name.startswith("__")]
        assert " ".join(names).removesuffix(" |") in " ".join(printed.split()), f"docs/design.md: layers of {package}"


@pytest.mark.parametrize("package", [*LAYERS])
def test_no_public_name_is_also_a_module(package: str) -> None:
    """Importing the module would put it in the place of the public name: ``from pathapi import prefetch``."""
    found = importlib.import_module(package)
    _report(
        [
            f"{package}.{name} is a public name and a module: rename the module"
            for name in found.__all__
            if f"{package}.{name}" in _modules() or any(known.startswith(f"{package}.{name}.") for known in _modules())
        ]
    )
