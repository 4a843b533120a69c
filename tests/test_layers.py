"""The layers: a module imports only from lower ranks, and what has one owner is used by its owner alone.

Read from the source, so that an import inside a function or for types only counts like any other.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the lowest rank to the highest. Modules of one line do not import each other.
LAYERS = {
    "casstore": """
        errors figures
        digest exits
        records layout files machine pages
        stated
        locks blobs rules
        settings
        tallies
        store
        generations
        index views pending
        edits handouts policies
        reaper watch
        drafts
        leases
        items
        pins
        committer doomed flights surveys turns write_locks
        plans
        findings samples
        row_checks
        blob_checks
        collector fills syncs verification statements tripwire
        checks clearing
        repairs evictions trims local_files
        inspecting recording
        cache
        uncached
        processes reports
        doctor
        __init__
        cli_output
        cli_joins cli_reaped
        cli_clear cli_doctor cli_gc cli_pending cli_pins cli_stats cli_verify
        cli
        __main__
    """,
    "pathapi": """
        exceptions progress redaction stopping
        bars crew enums uri
        backend backends.__init__ registry
        globbing backends.file_writes backends.forks backends.headers
        backends.s3_urls backends.azure_errors backends.gs_errors backends.s3_errors
        backends.file_status backends.azure_answers backends.gs_answers backends.gs_connection
        backends.s3_answers backends.s3_connection backends.s3_deletes backends.s3_parts
        backends.file_body backends.azure_blocks backends.azure_connection backends.gs_requests backends.s3_fast
        backends.azure_requests backends.gs_uploads backends.gs_urls
        backends.azure_urls
        backends.http_answers backends.http_body backends.http_errors backends.http_logins
        backends.http_connection
        backends.http_host
        backends.http_pages
        backends.azure backends.file backends.gs backends.http backends.s3
        claims freshness listings transfer
        uploading strays
        delivering reading
        settling writing
        moving
        uploads
        client
        lexical
        path_info
        asking
        tree
        writable
        moves
        leaves
        removals tree_transfers
        trees
        path
        azure comparing file gs s3 prefetching
        http
        __init__
        testing.grounds testing.interposed
        testing.copies testing.paths
        testing.backends testing.edits testing.reads testing.unfinished
        testing.writes
        testing.__init__ cli_clouds
        cli_doctor cli_push cli_remote
        cli
    """,
}
RANKS = {
    f"{package}.{module}": rank
    for package, lines in LAYERS.items()
    for rank, line in enumerate(lines.strip().splitlines())
    for module in line.split()
}

# (importer, imported): why an import that only types need may break the order. One that runs may not.
EXEMPT = {
    ("casstore.ingest.fill", "casstore.cache"): "a fill is one operation of the cache that started it",
    ("casstore.eviction.background", "casstore.cache"): "trims are the cache's own, and plan and collect through it",
    ("pathapi.metadata.info", "pathapi.metadata.head"): "answers about the path that it was asked for",
    ("pathapi.writing.conditional_put", "pathapi.client"): "an upload is one operation of the client that started it",
    (
        "pathapi.writing.unclosed",
        "pathapi.writing.writer",
    ): "strays are files of that module, which are watched from here",
}

# An import and who may have it: a module, or a family of modules by a prefix that ends in *.
IMPORT_OWNERS = {
    "lmdb": ("casstore.index.database",),
    "hashlib": ("casstore.format.digest",),
    "xxhash": ("casstore.format.digest",),
    "blake3": ("casstore.format.digest",),
    "zlib": ("casstore.format.digest",),
    "filelock": ("casstore.locks.write_locks",),
    "platformdirs": ("casstore.root",),
    "click": ("casstore.cli*", "pathapi.cli*"),
    "rich": ("casstore.cli*", "pathapi.parallel.progress_bar", "pathapi.cli*"),
    "boto3": ("pathapi.backends.s3*",),
    "botocore": ("pathapi.backends.s3*",),
    "s3transfer": ("pathapi.backends.s3*",),
    "google": ("pathapi.backends.gs*",),
    "google_crc32c": ("pathapi.backends.gs*",),
    "azure": ("pathapi.backends.azure*",),
    "requests": ("pathapi.backends.azure*", "pathapi.backends.gs*"),
    "urllib3": ("pathapi.backends.http*",),
    "obstore": ("pathapi.backends.*",),
}
# Loaded at the first use and not by `import pathapi`: each costs 30 to 300 ms, and may not be installed.
LAZY = {"blake3", "filelock", "boto3", "botocore", "s3transfer", "google", "google_crc32c", "requests", "azure"}
LAZY |= {"urllib3", "obstore"}

NAMING_AND_DURABILITY = {"rename", "renames", "replace", "link", "fsync", "fdatasync"}
NAMING_OWNERS = ("casstore.fs.files", "pathapi.backends.file*")  # a `file` bucket is a cloud with its own rules

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


def test_every_module_has_a_rank() -> None:
    _report(
        [
            f"{name} has no rank: give it a rank in LAYERS of {Path(__file__).name}"
            for name in _modules()
            if name not in RANKS
        ]
    )


def test_a_module_imports_only_from_lower_ranks() -> None:
    faults = []
    for importer, tree in _modules().items():
        for found in _imports(tree):
            if found.module.startswith("."):
                faults.append(f"{importer}:{found.line} imports relatively; the layers are read from absolute names")
            package = found.module.partition(".")[0]
            if package != importer.partition(".")[0]:
                continue
            imported = _resolve(found.module, found.name)
            lower = RANKS.get(imported, 0) < RANKS.get(importer, 0)
            if not lower and (found.at_import or (importer, imported) not in EXEMPT):
                faults.append(
                    f"{importer}:{found.line} imports {imported}, which is not below it: move what both need down, "
                    "or hand it in as an argument"
                )
    _report(faults)


def test_no_exemption_outlives_its_import() -> None:
    living = {
        (importer, _resolve(found.module, found.name))
        for importer, tree in _modules().items()
        for found in _imports(tree)
    }
    _report([f"{pair} is exempt and no longer there: drop it from EXEMPT" for pair in EXEMPT if pair not in living])


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
    for importer, tree in _modules().items():
        for found in _imports(tree):
            imported = _resolve(found.module, found.name)
            _, backends, part = imported.partition("backends.")
            family, underscore, _ = part.partition("_")
            if not backends or not underscore or part == "__init__":
                continue
            if not importer.startswith(f"pathapi.backends.{family}"):
                faults.append(f"{importer}:{found.line} imports {imported}, a part of the backend {family}")
    _report(faults)


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
            f"{importer}:{node.lineno} spells {node.value!r}: ask layout.py"
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
