"""``casstore stats``: what the processes of a store counted, for people, for scripts, and for Prometheus."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from casstore.cli.shell import Column, Shell
from casstore.config.units import format_size
from casstore.counters import NAMES, statistics_facts
from casstore.fs import files

if TYPE_CHECKING:
    from casstore import Cache

_HELP: Final = {
    "hits": "Opens that the store served.",
    "disk_bytes": "Sizes of the objects that the store served.",
    "misses": "Objects that were downloaded.",
    "cloud_bytes": "Bytes of the objects that were downloaded.",
    "linked": "Objects that were not downloaded, since their bytes were held under another URI.",
    "linked_bytes": "Bytes that were not downloaded for that.",
    "shared": "Objects that were downloaded and whose bytes were held already.",
    "shared_bytes": "Bytes that were not stored twice for that.",
    "waits": "Waits for the download of another thread or process.",
    "revalidated": "Entries that the cloud confirmed.",
    "streamed": "Objects that were read without being stored.",
    "evicted_entries": "Entries that were evicted.",
    "evicted_blobs": "Blobs that were evicted.",
    "evicted_bytes": "Bytes of those blobs.",
    "damaged_blobs": "Blobs that readers found damaged.",
    "collisions": "Objects whose digest another content had.",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.option("--prometheus", is_flag=True, help="In the text format of Prometheus.")
@click.option(
    "--output",
    metavar="PATH",
    type=click.Path(dir_okay=False),
    help="Write that to this file, which is replaced as a whole, for node_exporter's textfile collector.",
)
@click.pass_obj
def stats(shell: Shell, as_json: bool, prometheus: bool, output: str | None) -> None:
    """Say what all processes of the store counted: hits, misses, bytes, evictions."""
    if as_json and (prometheus or output):
        raise click.UsageError("--json goes without --prometheus and --output")
    cache = shell.open_cache()
    if prometheus or output:
        text = "".join(_metrics(cache))
        if output is None or output == "-":
            shell.text(text)
        else:
            # Readable for others: whoever collects it is another user.
            files.replace(os.path.abspath(output), text.encode(), 0o644)
        return
    facts = statistics_facts(cache.stats())
    if as_json:
        shell.json_document({"root": cache.root, **facts})
        return
    shell.table(
        [Column("COUNT"), Column("VALUE", is_number=True)],
        [[name.replace("_", " "), count_text(name, facts[name])] for name in facts],
    )


def count_text(name: str, value: object) -> str:
    """A count for people."""
    if value is None:
        return "nothing was counted yet"
    if isinstance(value, float):
        return f"{value:.1%}"
    if isinstance(value, int):
        return format_size(value) if name.endswith("_bytes") else f"{value:,}"
    return str(value)


def _metrics(cache: Cache) -> Iterator[str]:
    """A counter for each count, and how full the store is as gauges."""
    from casstore.eviction.budget import stored_bytes

    label = '{root="' + cache.root.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") + '"}'
    statistics = cache.stats()
    for name in NAMES:
        yield f"# HELP casstore_{name}_total {_HELP[name]}\n# TYPE casstore_{name}_total counter\n"
        yield f"casstore_{name}_total{label} {getattr(statistics, name)}\n"
    space = os.statvfs(cache.root)
    rows, index_bytes = cache.index.usage()
    gauges = {
        "stored_bytes": ("Bytes of the blobs that the index knows.", stored_bytes(cache.index)),
        "index_rows": ("Rows of the index.", rows),
        "index_bytes": ("Bytes of the index in use.", index_bytes),
        "free_bytes": ("Free bytes of the disk.", space.f_bavail * space.f_frsize),
        "max_size_bytes": ("Bytes that the blobs may take; 0 for no limit.", cache.settings.max_size or 0),
        "pending_writes": ("Writes that the cloud does not have.", sum(1 for _ in cache.pending.all())),
    }
    for name, (text, value) in gauges.items():
        yield f"# HELP casstore_{name} {text}\n# TYPE casstore_{name} gauge\ncasstore_{name}{label} {value}\n"
