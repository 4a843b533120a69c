"""``casstore push``: upload pending writes. A thin caller of `pathapi.writing.pending.push`, as `CloudPath.push` is."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from casstore import Cache, CasstoreError, Key, PendingState, PendingWrite
from pathapi.cli.cloud_options import Clients, Shell, cloud_command, describe, error_facts, name_in, progress_bar
from pathapi.client import forced
from pathapi.exceptions import CloudPathException, CloudPathFileNotFoundError, PendingWriteError
from pathapi.metadata.location import Location
from pathapi.parallel.progress import Progress
from pathapi.writing.pending import push


@dataclass(frozen=True, slots=True)
class _PushItem:
    """One upload: *which* write of a URI, or None for the one that `push` selects; *size* as far as it is known."""

    uri: str
    key: Key | None
    which: PendingWrite | None
    size: int


class _PushCommand(click.Command):
    """``push``; ``casstore pending`` asks it for its options."""

    @staticmethod
    def options_of(origin: str) -> str:
        """Return the options that reach the server of *origin*, as far as its name tells."""
        provider, _, place = origin.partition("@")
        if ":" not in place or provider not in ("s3", "gs", "azure"):
            return f"--account-url https://{place}" if provider == "azure" else ""
        name = "--account-url" if provider == "azure" else "--endpoint-url"
        scheme = "https" if place.partition("/")[0].endswith(":443") else "http"
        return f"{name} {shlex.quote(f'{scheme}://{place}')}"


@click.command("push", cls=_PushCommand)
@click.argument("uris", nargs=-1, metavar="[URI]...")
@click.option(
    "--all", "is_all", is_flag=True, help="Push all pending writes except incomplete ones (files never closed)."
)
@click.option("--incomplete", is_flag=True, help="With --all: push incomplete writes, too.")
@click.option("--name", metavar="NAME", help="Push the pending write with this name, if a URI has several.")
@click.option("--force", is_flag=True, help="Overwrite the object, even if another client has changed it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@cloud_command
def push_command(
    shell: Shell,
    /,
    uris: tuple[str, ...],
    is_all: bool,
    incomplete: bool,
    name: str | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Upload pending writes.

    If the object has changed since the write began, nothing is overwritten and the write stays pending; --force
    overwrites it. A failed upload does not stop the others; the exit status is then 1.

    \b
    Examples:
      casstore push s3://bucket/log.txt
      casstore push --all
    """
    if is_all + bool(uris) + bool(name) == 0:
        raise click.UsageError("no URI was given: `casstore pending` lists them; --all pushes all pending writes")
    if is_all and (uris or name):
        raise click.UsageError("--all cannot be combined with a URI or --name")
    if incomplete and not is_all:
        raise click.UsageError("--incomplete is for --all: a URI or --name pushes incomplete writes without it")
    if name and len(dict.fromkeys(uris)) > 1:
        raise click.UsageError(f"--name takes one URI, not {len(uris)}")
    cache = shell.open_cache()
    pusher = _Pusher(shell, cache, Clients(shell, options, cache.root), force=force, as_json=as_json)
    if is_all:
        items = pusher.find_all(incomplete=incomplete)
    else:
        items = pusher.find_named(name, uris) if name else pusher.find_uris(uris)
    title = items[0].uri if len(items) == 1 else "Pushing"
    with progress_bar(shell, title) as progress:
        failed = pusher.run(items, progress)
    if failed > 1:
        shell.note(f"{failed:,} failed")
    if is_all and not items and not pusher.skipped and not as_json:
        shell.line("nothing to push")
    return 1 if failed else 0


class _Pusher:
    """Uploads pending writes one by one; a failure does not stop the others."""

    def __init__(self, shell: Shell, cache: Cache, clients: Clients, *, force: bool, as_json: bool) -> None:
        self._shell, self._cache, self._clients = shell, cache, clients
        self._force = forced(force or None, "TO_CLOUD")
        self._as_json = as_json
        self.skipped = 0
        """Pending writes that `find_all` left out, and reported."""
        cache.record_local()

    def find_uris(self, uris: Sequence[str]) -> list[_PushItem]:
        """Return an item for each URI. Raises what `Clients.paths` raises."""
        names = [path.uri.canonical for path in self._clients.paths(uris)]
        writes = self._cache.pending.all()
        sizes = {name: max((write.size for write in writes if write.uri == name), default=0) for name in names}
        return [_PushItem(name, None, None, sizes[name]) for name in names]

    def find_named(self, name: str, uris: Sequence[str]) -> list[_PushItem]:
        """Return the item with that name. Raises click.ClickException if there is none."""
        selected = [path.uri.canonical for path in self._clients.paths(uris)] if uris else None
        for write in self._cache.pending.all():
            if write.name == name and (selected is None or write.uri in selected):
                return [_PushItem(write.uri, write.key, write, write.size)]
        where = uris[0] if uris else name
        raise click.ClickException(
            f"{where}: no pending write has the name {name}: `casstore pending` lists the pending writes"
        )

    def find_all(self, *, incomplete: bool) -> list[_PushItem]:
        """Return an item for each URI and origin; report what is left out.

        That is what another process is uploading, what cannot be read, and incomplete writes unless *incomplete*.
        """
        found: dict[Key, list[PendingWrite]] = {}
        unclosed = 0
        for write in self._cache.pending.all():
            if write.state is PendingState.INCOMPLETE and not incomplete:
                unclosed += 1
            elif write.state is PendingState.UPLOADING and not self._cache.pending.is_interrupted(write):
                self.skipped += 1
                self._shell.note(f"{write.uri}: skipped, another process is uploading it")
            else:
                found.setdefault(write.key, []).append(write)
        if unclosed:
            writes = "1 incomplete write was" if unclosed == 1 else f"{unclosed:,} incomplete writes were"
            self._shell.note(f"{writes} skipped: `casstore pending` lists what is left, and --incomplete uploads it")
        unknown = self._cache.pending.unidentified()
        for write in unknown:
            path = self._cache.pending.record_path(write)
            self._shell.note(f"warning: {path}: skipped, the record cannot be read: see `casstore pending`")
        self.skipped += unclosed + len(unknown)
        return [_PushItem(key.uri, key, None, max(write.size for write in writes)) for key, writes in found.items()]

    def run(self, items: Sequence[_PushItem], progress: Callable[[Progress], None] | None) -> int:
        """Upload the items; return how many failed."""
        total, done, failed = sum(item.size for item in items), 0, 0
        for number, item in enumerate(items):
            if progress is not None:
                progress(Progress(number, len(items), done, total, is_listing=False))
            try:
                self._push(item)
            except (CloudPathException, CasstoreError, OSError) as error:
                failed += 1
                text = describe(self._shell, error)
                if self._as_json:
                    self._shell.json_line({"uri": item.uri, **error_facts(self._shell, error)})
                self._shell.error(name_in(self._shell, item.uri, text))
            done += item.size
        return failed

    def _push(self, item: _PushItem) -> None:
        location = self._locate(item)
        try:
            pushed = push(location, item.which, force=self._force)
        except CloudPathFileNotFoundError:
            if item.key is None or self._cache.pending.has(item.key):
                raise
            self._shell.note(f"{item.uri}: another process has resolved it in the meantime")
            return
        if self._as_json:
            self._shell.json_line(
                {
                    "uri": pushed.uri,
                    "origin": pushed.key.origin,
                    "name": pushed.name,
                    "size": pushed.size,
                    "digest": str(pushed.digest),
                }
            )
        else:
            self._shell.line(f"pushed {self._shell.size(pushed.size):>9}  {pushed.uri}")

    def _locate(self, item: _PushItem) -> Location:
        """Raises PendingWriteError if the write belongs to another origin."""
        location = self._clients.path(item.uri).location
        cache, origin = location.client.cache, location.store_key.origin
        if cache.unavailable is not None:
            raise cache.unavailable
        keys = (write.key for write in self._cache.pending.all() if write.uri == item.uri)
        origins = sorted({key.origin for key in (keys if item.key is None else [item.key])})
        if not origins:
            raise CloudPathFileNotFoundError(
                f"{item.uri}: nothing is pending: `casstore pending` lists the pending writes"
            )
        if origin not in origins:
            known = (write.push_options for write in self._cache.pending.of(Key(item.uri, origins[0])))
            options = next(filter(None, known), None)
            raise PendingWriteError(
                f"{item.uri}: the write belongs to {' and '.join(map(_server, origins))}, but this command uses "
                f"{_server(origin)}: {f'use {options}' if options else _option(origins[0])}"
            )
        return location


def _server(origin: str) -> str:
    """Return an origin as users know it: ``s3@host:port`` is the endpoint ``host:port``."""
    provider, _, place = origin.partition("@")
    if not place:
        known = {"s3": "Amazon S3", "gs": "Google Cloud Storage", "file": "local files"}
        return known.get(provider, provider)
    return place if ":" in place or provider == "azure" else origin


def _option(origin: str) -> str:
    provider, _, place = origin.partition("@")
    if provider == "azure":
        return f"use --account-url {'http' if ':' in place else 'https'}://{place}"
    if provider not in ("s3", "gs"):
        return "use path.push() with a client of that server"
    if ":" in place:
        return f"use --endpoint-url with the URL of {place}, such as http://{place}"
    others = "AWS_ENDPOINT_URL and the endpoint of the profile" if provider == "s3" else "STORAGE_EMULATOR_HOST"
    return f"omit --endpoint-url, and unset {others}"
