"""``casstore push``: uploads what is pending. A thin caller of `pathapi.settling.push`, as `CloudPath.push` is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from casstore import Cache, CasstoreError, Key, PendingState, PendingWrite
from pathapi.cli.cloud_options import Clients, Shell, cloud_command, error_facts, in_the_shell, progress_bar
from pathapi.client import forced
from pathapi.exceptions import CloudPathException, CloudPathFileNotFoundError, PendingWriteError
from pathapi.location import Location
from pathapi.parallel.progress import Progress
from pathapi.path import CloudPath
from pathapi.writing.pending import push


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is to be uploaded of one URI: *which*, or what `push` chooses; *size* as far as it is known before."""

    uri: str
    key: Key | None
    which: PendingWrite | None
    size: int


@click.command("push")
@click.argument("uris", nargs=-1, metavar="[URI]...")
@click.option("--all", "is_all", is_flag=True, help="Everything that is pending, but for what was never closed.")
@click.option("--name", metavar="NAME", help="The one with this name, of several of a URI.")
@click.option("--force", is_flag=True, help="Overwrite whatever is there, whoever has changed it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@cloud_command
def push_command(
    shell: Shell,
    /,
    uris: tuple[str, ...],
    is_all: bool,
    name: str | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Upload what is pending of these URIs, and say what was uploaded.

    Under the condition that it started from: what somebody else has changed meanwhile stays as it is, and the write
    stays pending. A write that fails does not stop the others; the status is then 1.
    """
    if is_all + bool(uris) + bool(name) == 0:
        raise click.UsageError("name URIs as `casstore pending` lists them, or say --all")
    if is_all and (uris or name):
        raise click.UsageError("--all goes with no URI and no --name")
    if name and len(dict.fromkeys(uris)) > 1:
        raise click.UsageError(f"--name takes one URI, not {len(uris)}")
    cache = shell.open_cache()
    pushing = _Pushing(shell, cache, Clients(shell, options, cache.root), force=force, as_json=as_json)
    wanted = pushing.named(name, uris) if name else pushing.of_uris(uris) if uris else pushing.everything()
    title = wanted[0].uri if len(wanted) == 1 else "Pushing"
    with progress_bar(shell, title) as progress:
        failed = pushing.run(wanted, progress)
    if failed > 1:
        shell.note(f"{failed:,} failed")
    if is_all and not wanted and not as_json:
        shell.line("nothing is to be pushed")
    return 1 if failed else 0


class _Pushing:
    """Uploads one after the other, and says so; what fails does not stop the others."""

    def __init__(self, shell: Shell, cache: Cache, clients: Clients, *, force: bool, as_json: bool) -> None:
        self._shell, self._cache, self._clients = shell, cache, clients
        self._force = forced(force or None, "TO_CLOUD")
        self._as_json = as_json

    # --- what is meant ------------------------------------------------------------------------------------------------

    def of_uris(self, uris: Sequence[str]) -> list[_Wanted]:
        """Raises what an unknown scheme or an option for another cloud does."""
        wanted = []
        for path in self._clients.paths(uris):
            canonical = path.uri.canonical
            writes = [write for write in self._cache.pending.all() if write.uri == canonical]
            wanted.append(_Wanted(canonical, None, None, max((write.size for write in writes), default=0)))
        return wanted

    def named(self, name: str, uris: Sequence[str]) -> list[_Wanted]:
        """Raises click.ClickException where there is none of that name."""
        meant = [path.uri.canonical for path in self._clients.paths(uris)] if uris else None
        for write in self._cache.pending.all():
            if write.name == name and (meant is None or write.uri in meant):
                return [_Wanted(write.uri, write.key, write, write.size)]
        of_uri = f" of {uris[0]}" if uris else ""
        raise click.ClickException(f"no pending write{of_uri} has the name {name}; casstore pending lists what is")

    def everything(self) -> list[_Wanted]:
        """One for each URI and origin; what a process is uploading just now is left to it."""
        found: dict[Key, list[PendingWrite]] = {}
        for write in self._cache.pending.all():
            if write.state is PendingState.INCOMPLETE:
                continue
            if write.state is PendingState.UPLOADING and not self._cache.pending.is_interrupted(write):
                self._shell.note(f"{write.uri} is being uploaded by another process just now, and left to it")
                continue
            found.setdefault(write.key, []).append(write)
        return [_Wanted(key.uri, key, None, max(write.size for write in writes)) for key, writes in found.items()]

    # --- uploading ----------------------------------------------------------------------------------------------------

    def run(self, wanted: Sequence[_Wanted], progress: Callable[[Progress], None] | None) -> int:
        """How many failed."""
        total, done, failed = sum(item.size for item in wanted), 0, 0
        for number, item in enumerate(wanted):
            if progress is not None:
                progress(Progress(number, len(wanted), done, total, is_listing=False))
            try:
                self._push(item)
            except (CloudPathException, CasstoreError, OSError) as error:
                failed += 1
                self._say_failure(item, error)
            done += item.size
        return failed

    def _push(self, item: _Wanted) -> None:
        target = self._target(item)
        try:
            pushed = push(target, item.which, force=self._force)
        except CloudPathFileNotFoundError:
            if item.key is None or self._cache.pending.has(item.key):
                raise
            self._shell.note(f"{item.uri}: another process has dealt with it meanwhile")
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

    def _target(self, item: _Wanted) -> Location:
        """Raises PendingWriteError where what is pending is another origin's, or nothing is."""
        path: CloudPath = self._clients.path(item.uri)
        client = path.client
        if client.cache.unavailable is not None:
            raise client.cache.unavailable
        key = client.store_key(path.uri)
        if item.key is not None:
            origins = [item.key.origin]
        else:
            origins = sorted({write.key.origin for write in self._cache.pending.all() if write.uri == item.uri})
        if not origins:
            raise CloudPathFileNotFoundError(f"nothing is pending of {item.uri}; casstore pending lists what is")
        if key.origin not in origins:
            raise PendingWriteError(
                f"{item.uri} was written through {' and '.join(map(_server, origins))}, and this goes to "
                f"{_server(key.origin)}: {_option(origins[0])}"
            )
        return Location(client, key, path.uri.bucket, path.uri.key)

    def _say_failure(self, item: _Wanted, error: Exception) -> None:
        text = in_the_shell(self._shell, error)
        if self._as_json:
            self._shell.json_line({"uri": item.uri, **error_facts(self._shell, error)})
        self._shell.error(text if item.uri in text else f"{item.uri}: {text}")


def _server(origin: str) -> str:
    """The origin as the user knows it: ``s3@host:port`` is the endpoint ``host:port``."""
    provider, _, place = origin.partition("@")
    if not place:
        known = {"s3": "Amazon S3", "gs": "Google Cloud Storage", "file": "this machine's files"}
        return known.get(provider, provider)
    return place if ":" in place or provider == "azure" else origin


def _option(origin: str) -> str:
    provider, _, place = origin.partition("@")
    if provider == "azure":
        return f"give --account-url {'http' if ':' in place else 'https'}://{place}"
    if provider not in ("s3", "gs"):
        return "push it with path.push() of a client that reaches it"
    if ":" in place:
        return f"give --endpoint-url with the URL of {place}, such as http://{place}"
    named = "neither AWS_ENDPOINT_URL nor the profile names" if provider == "s3" else "no STORAGE_EMULATOR_HOST names"
    return f"leave out --endpoint-url, and see that {named} one"
