"""``casstore stats``: the counters of a store's processes, as text, JSON or Prometheus metrics."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from casstore.cli.shell import Shell, json_document_option
from casstore.config.units import format_size
from casstore.counters import NAMES, statistics_facts
from casstore.fs import files

if TYPE_CHECKING:
    from casstore import Cache

_HELP: Final = {
    "hits": "Reads that the store served.",
    "disk_bytes": "Sizes of the objects that the store served.",
    "misses": "Objects that were downloaded.",
    "cloud_bytes": "Sizes of the objects that were downloaded.",
    "linked": "Objects that were not downloaded, because their content was cached under another URI.",
    "linked_bytes": "Sizes of those objects.",
    "shared": "Objects that were downloaded although their content was already cached.",
    "shared_bytes": "Sizes of those objects, which were not stored twice.",
    "waits": "Waits for a download of another thread or process.",
    "revalidated": "Entries that the server confirmed to be current.",
    "streamed": "Objects that were read without being stored.",
    "evicted_entries": "Entries that were evicted.",
    "evicted_blobs": "Blobs that were evicted.",
    "evicted_bytes": "Sizes of those blobs.",
    "damaged_blobs": "Blobs that a read found damaged.",
    "collisions": "Objects not stored because of a hash collision.",
}


@click.command()
@json_document_option
@click.option("--prometheus", is_flag=True, help="Print Prometheus metrics.")
@click.option(
    "--output",
    metavar="PATH",
    type=click.Path(dir_okay=False),
    help="Write Prometheus metrics to this file, atomically, for node_exporter's textfile collector.",
)
@click.pass_obj
def stats(shell: Shell, as_json: bool, prometheus: bool, output: str | None) -> None:
    """Show the store's counters: hits, misses, bytes, evictions.

    They are the sums over all processes that used the store.

    \b
    Example:
      casstore stats --output /var/lib/node_exporter/casstore.prom
    """
    if as_json and (prometheus or output):
        raise click.UsageError("--json cannot be combined with --prometheus or --output")
    cache = shell.open_cache()
    if prometheus or output:
        text = "".join(_metrics(cache))
        if output is None or output == "-":
            shell.text(text)
        else:
            # Readable for others: the collector runs as another user.
            try:
                files.replace(os.path.abspath(output), text.encode(), 0o644)
            except OSError as error:
                # The error itself names a temporary file.
                why = f"cannot be written ({error.strerror}): use --output with another file"
                raise OSError(error.errno, why, output) from error
        return
    facts = statistics_facts(cache.stats())
    if as_json:
        shell.json_document({"root": cache.root, **facts})
        return
    rows = [[name.replace("_", " "), count_text(name, facts[name])] for name in facts]
    shell.table(("COUNT", "VALUE"), rows, numbers=("VALUE",))


def count_text(name: str, value: object) -> str:
    """Format a counter or a ratio."""
    if value is None:
        return "nothing counted yet"
    if isinstance(value, float):
        return f"{value:.1%}"
    if isinstance(value, int):
        return format_size(value) if name.endswith("_bytes") else f"{value:,}"
    return str(value)


def _metrics(cache: Cache) -> Iterator[str]:
    """Yield the counters, and gauges of how full the store is."""
    from casstore.eviction.budget import stored_bytes

    label = '{root="' + cache.root.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") + '"}'
    statistics = cache.stats()
    for name in NAMES:
        yield f"# HELP casstore_{name}_total {_HELP[name]}\n# TYPE casstore_{name}_total counter\n"
        yield f"casstore_{name}_total{label} {getattr(statistics, name)}\n"
    space = os.statvfs(cache.root)
    rows, index_bytes = cache.index.usage()
    gauges = {
        "stored_bytes": ("Bytes of the blobs in the index.", stored_bytes(cache.index)),
        "index_rows": ("Rows of the index.", rows),
        "index_bytes": ("Bytes of the index in use.", index_bytes),
        "free_bytes": ("Bytes free on the disk.", space.f_bavail * space.f_frsize),
        "max_size_bytes": ("The setting max_size; 0 for no limit.", cache.settings.max_size or 0),
        "pending_writes": ("Writes that were not uploaded.", cache.pending.count()),
    }
    for name, (text, value) in gauges.items():
        yield f"# HELP casstore_{name} {text}\n# TYPE casstore_{name} gauge\ncasstore_{name}{label} {value}\n"
