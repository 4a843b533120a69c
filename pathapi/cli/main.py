"""The commands that need a server, as plug-ins of ``casstore``; ``get`` and ``prefetch`` call `pathapi.prefetch()`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from casstore import Cache, Key, copy_out
from pathapi.cli.cloud_options import Clients, Shell, cloud_command, error_facts, progress_bar, report_errors
from pathapi.cli.doctor import doctor_extension
from pathapi.cli.push import push_command
from pathapi.cli.verify_remote import verify_extension
from pathapi.exceptions import CloudPathException
from pathapi.path.cloud_path import CloudPath
from pathapi.prefetching import THREADS, Prefetched, PrefetchedObject, prefetch

_DIGITS: Final = 12


def _download_command(call: Callable[..., int]) -> Callable[..., int]:
    """Add the options of downloads to those of `cloud_command`."""
    freshness = click.option(
        "--freshness",
        metavar="POLICY",
        help="When to revalidate cached objects: always, immutable (never), offline (send no requests), or an age in "
        "seconds.  [default: $CASSTORE_FRESHNESS, else always]",
    )
    threads = click.option(
        "--threads", type=click.IntRange(1, 256), default=THREADS, show_default=True, help="Parallel downloads."
    )
    return cloud_command(freshness(threads(call)))


@click.command()
@click.argument("uris", nargs=-1, required=True, metavar="URI...")
@click.option(
    "-o", "--output", metavar="PATH", help="Also copy to this file (atomically), into this directory, or to stdout (-)."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line, as objects arrive.")
@_download_command
def get(shell: Shell, /, uris: tuple[str, ...], output: str | None, as_json: bool, threads: int, **options: Any) -> int:
    """Download objects into the store.

    Prints a line for each object. Unchanged objects are not downloaded again. A failed object does not stop the others;
    the exit status is then 1.

    \b
    Examples:
      casstore get s3://bucket/cat.png
      casstore get -o cat.png s3://bucket/cat.png
    """
    paths = Clients(shell, options).paths(uris)
    targets = _targets(paths, output)
    cache = paths[0].client.cache  # a store that cannot be used is one error, not one for each object
    quiet = output == "-"

    def arrived(item: PrefetchedObject) -> None:
        if not as_json or quiet:
            lines[str(item.path)] = _line(shell, item)
        elif item.entry is None:
            shell.json_line({"uri": item.path.uri.canonical, "path": None, "was_held": False})
        else:
            shell.json_line({**shell.facts(cache, item.entry), "was_held": item.was_held})

    lines: dict[str, str] = {}
    with progress_bar(shell, "Getting") as progress:
        done = prefetch(paths, threads=threads, progress=progress, recursive=False, on_object=arrived)
    failed = {uri for uri, _ in done.errors}
    for path in paths:
        if path.uri.canonical in failed:
            continue
        if targets:
            _copy(path, targets[path])
        if not as_json and not quiet:
            shell.line(lines[str(path)])
    for uri, error in done.errors:
        if as_json and not quiet:
            shell.json_line({"uri": uri, **error_facts(shell, error)})
    return report_errors(shell, done.errors)


def _targets(paths: Sequence[CloudPath], output: str | None) -> dict[CloudPath, str]:
    """Return the file for each object; raise usage errors before anything is downloaded."""
    if output is None:
        return {}
    if output == "-" or not (os.path.isdir(output) or output.endswith("/")):
        if len(paths) > 1:
            raise click.UsageError(f"-o {output} takes one URI, not {len(paths)}: use an existing directory")
        if output != "-" and not os.path.isdir(os.path.dirname(output) or "."):
            raise click.UsageError(f"-o {output}: the directory does not exist")
        return {paths[0]: output}
    if not os.path.isdir(output):
        raise click.UsageError(f"-o {output}: the directory does not exist")
    targets: dict[CloudPath, str] = {}
    for path in paths:
        name = "" if path.key.endswith("/") else path.name
        if name in ("", ".", ".."):
            raise click.UsageError(f"{path.uri.shown} does not end in a file name: use -o FILE")
        target = os.path.join(output, name)
        if target in targets.values():
            raise click.UsageError(f"two of the objects are named {name}: use different directories")
        targets[path] = target
    return targets


def _copy(path: CloudPath, target: str) -> None:
    # Revalidated a moment ago. If it was evicted since, it is downloaded again.
    with path.open("rb", freshness="immutable") as file:
        if target != "-":
            copy_out(file.fileno(), target)
            return
        out = sys.stdout.buffer
        while data := file.read(1 << 20):
            out.write(data)
        out.flush()


def _line(shell: Shell, item: PrefetchedObject) -> str:
    if item.entry is None:
        return f"{'':>9}  {'streamed':<10}  {'':{_DIGITS}}  {item.path.uri.canonical}"
    state = "cached" if item.was_held else "downloaded"
    digest = item.entry.digest.value.hex()[:_DIGITS]
    return f"{shell.size(item.entry.size):>9}  {state:<10}  {digest}  {item.path.uri.canonical}"


@click.command("prefetch")
@click.argument("uris", nargs=-1, required=True, metavar="URI-OR-PREFIX...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@_download_command
def prefetch_command(shell: Shell, /, uris: tuple[str, ...], as_json: bool, threads: int, **options: Any) -> int:
    """Download objects, and everything below prefixes, into the store.

    Lists the prefixes. Content that is cached already, even under another URI, is not downloaded again. Says how many
    objects are not cached at the end, because the store has no room for them.

    \b
    Example:
      casstore prefetch s3://bucket/photos/
    """
    paths = Clients(shell, options).paths(uris)
    cache = paths[0].client.cache  # raises once for a store that cannot be used
    files = size = held = 0
    errors: list[tuple[str, Exception]] = []
    stored: list[Key] = []

    def arrived(item: PrefetchedObject) -> None:
        if item.entry is not None:
            stored.append(item.entry.key)

    for path in paths:
        before = len(stored)
        with progress_bar(shell, path.uri.canonical) as progress:
            try:
                done = prefetch(path, threads=threads, progress=progress, on_object=arrived)
            except (CloudPathException, OSError) as error:
                done = Prefetched(0, 0, 0, [(path.uri.canonical, error)])
                del stored[before:]
        files, size, held = files + done.files, size + done.bytes, held + done.held
        errors += done.errors
    evicted, unstored = _count_evicted(cache, stored), files - len(stored)
    if as_json:
        failed = [{"uri": uri, **error_facts(shell, error)} for uri, error in errors]
        counts = {"files": files, "bytes": size, "held": held, "evicted": evicted, "unstored": unstored}
        shell.json_document({**counts, "errors": failed})
    else:
        cached = files - evicted - unstored
        shell.line(f"cached: {cached:,} of {files:,} objects ({shell.size(size)}); {held:,} already were")
        for count, what in ((evicted, "evicted again, to stay within the budget"), (unstored, "not stored")):
            if count:
                shell.line(f"{what}: {count:,}: raise max_size, or lower min_free (`casstore info` shows them)")
    return report_errors(shell, errors)


def _count_evicted(cache: Cache, keys: Sequence[Key]) -> int:
    """Return how many of *keys* the store has evicted again, once it is within its budget."""
    cache.close()  # waits for the eviction
    return sum(cache.lookup(key) is None for key in keys) if cache.counts().get("evicted_entries") else 0


commands: Final[Sequence[click.Command]] = (get, prefetch_command, push_command, verify_extension, doctor_extension)
"""The plug-in commands; ``verify`` and ``doctor`` extend those of ``casstore``."""
