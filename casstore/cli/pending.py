"""``casstore pending`` and ``casstore drop``: writes that were not uploaded.

``casstore push`` is a plug-in of another package, since an upload needs a server.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from casstore.cli.facts import pending_facts
from casstore.cli.plugins import push_options
from casstore.cli.shell import Shell, age_text, json_lines_option, yes_option
from casstore.config.units import format_size

if TYPE_CHECKING:
    from casstore.cache import Cache
    from casstore.pending.records import PendingWrite

_INDENT: Final = " " * 33
_INTERRUPTED: Final = "interrupted"
_PUSH: Final = ("casstore push {options}{it}", "upload, unless the object has changed since")
_FORCE: Final = ("casstore push --force {options}{it}", "upload, and overwrite the object")
_DROP: Final = (
    ("casstore drop --save-to PATH {it}", "move the bytes to a local file"),
    ("casstore drop {it}", "discard the bytes for good"),
)
_BLOCKED: Final = "not uploaded; this machine refuses to read or write the URI until you push or drop it"
_STATES: Final = {
    "failed": (_BLOCKED, (_PUSH, _FORCE, *_DROP)),
    "edit": (f"a local copy was changed outside the API, {_BLOCKED}", (_PUSH, _FORCE, *_DROP)),
    "incomplete": (
        "kept; does not block reads or writes; skipped by `push --all`",
        (("casstore push {options}{it}", "upload the incomplete bytes, unless the object has changed since"), *_DROP),
    ),
    "unreadable": (f"the record is damaged, or of a newer casstore; {_BLOCKED}", _DROP),
    _INTERRUPTED: (
        "its process died during the upload, which may have reached the server",
        (("casstore push {options}{it}", "check, and upload if it did not reach the server"), *_DROP),
    ),
    "uploading": ("being uploaded by another process", (("casstore pending", "check again shortly"),)),
}
"""By state: its meaning, and the commands that resolve it."""
_ALL: Final = {
    **dict.fromkeys(("failed", "edit", _INTERRUPTED), ("casstore push --all {options}", "upload all, as below")),
    "incomplete": ("casstore push --all --incomplete {options}", "upload all, as below"),
}
"""The first command if several writes have the state."""


@click.command("pending")
@click.argument("prefix", default="")
@json_lines_option
@click.pass_context
def pending_command(ctx: click.Context, prefix: str, as_json: bool) -> None:
    """List pending writes, and how to resolve them.

    PREFIX selects the URIs that start with it. A write is pending if its upload failed or was interrupted, or if its
    file was never closed. So is a local copy that was changed, and a file that a tool made at a local path. This
    command sends no requests.
    """
    shell: Shell = ctx.obj
    cache = shell.open_cache()
    cache.record_local()
    writes = [write for write in cache.pending.all() if write.uri.startswith(prefix)]
    facts = [pending_facts(cache, write) for write in writes]
    if as_json:
        for fact in facts:
            shell.json_line(fact)
    else:
        for write, fact in zip(writes, facts, strict=True):
            fact["push_options"] = write.push_options or push_options(ctx, write.key.origin)
        if prefix and not facts:
            shell.note_no_match("pending", prefix)
        else:
            _show(shell, facts, [(time.time_ns() - write.created_ns) / 1e9 for write in writes])
    for write in cache.pending.unidentified():
        shell.note(
            f"warning: {cache.pending.record_path(write)}: the record of a pending write is unreadable; its URI is "
            f"unknown and blocked, its bytes are in {cache.pending.path(write)}: `casstore drop --save-to PATH --name "
            f"{write.name}` moves them to a file, `casstore drop --name {write.name}` discards them"
        )


def _show(shell: Shell, facts: Sequence[dict[str, Any]], ages: Sequence[float]) -> None:
    if not facts:
        shell.line("nothing is pending")
        return
    shell.line(f"{'SIZE':>9}  {'AGE':>5}  {'STATE':<11}  URI")
    for fact, age in zip(facts, ages, strict=True):
        shell.line(f"{format_size(fact['size']):>9}  {age_text(age):>5}  {_state(fact):<11}  {fact['uri']}")
        shell.line(f"{_INDENT}{fact['why']}")
        if fact["source"] is not None:
            shell.line(f"{_INDENT}source: {fact['source']}")
        shell.line(f"{_INDENT}bytes: {fact['path']}")
    named = [fact for fact in facts if "--name" in _argument(fact, facts)]
    for state, (meaning, hints) in _STATES.items():
        matching = [fact for fact in facts if _state(fact) == state]
        if matching:
            shell.line("")
            shell.line(f"{state}: {meaning}")
        for options in dict.fromkeys(fact["push_options"] for fact in matching):
            of_server = [fact for fact in matching if fact["push_options"] == options]
            it = _argument(of_server[0], facts) if len(of_server) == 1 else "URI"
            if len(of_server) > 1 and any(fact in named for fact in of_server):
                it = "(URI or --name NAME)"
            ways = hints if len(of_server) == 1 or state not in _ALL else [_ALL[state], *hints]
            texts = [(text.format(it=it, options=options and f"{options} "), effect) for text, effect in ways]
            commands = [(shell.command(text.rstrip()), effect) for text, effect in texts]
            width = max(len(command) for command, _ in commands)
            for command, effect in commands:
                shell.line(f"    {command:<{width}}  # {effect}")
    if len(named) > 1:
        shell.line("")
        shell.line("use the name if the URI is ambiguous or cannot be typed:")
        for fact in named:
            shell.line(f"    --name {fact['name']}  # {_state(fact)}, {format_size(fact['size'])}, {fact['uri']}")


def _state(fact: dict[str, Any]) -> str:
    return _INTERRUPTED if fact["interrupted"] else str(fact["state"])


def _argument(fact: dict[str, Any], facts: Sequence[dict[str, Any]]) -> str:
    """Return the argument of a command: the URI, or the name if the URI is ambiguous or cannot be typed."""
    is_alone = sum(other["uri"] == fact["uri"] for other in facts) == 1
    return shlex.quote(fact["uri"]) if is_alone and fact["uri"].isprintable() else f"--name {fact['name']}"


@click.command()
@click.argument("uris", nargs=-1, metavar="[URI]...")
@click.option("--all", "is_all", is_flag=True, help="Discard all pending writes.")
@click.option("--name", metavar="NAME", help="Discard the pending write with this name, if a URI has several.")
@click.option("--save-to", metavar="PATH", help="Move the bytes of one write to this file, atomically; does not ask.")
@yes_option
@json_lines_option
@click.pass_obj
def drop(
    shell: Shell, uris: tuple[str, ...], is_all: bool, name: str | None, save_to: str | None, yes: bool, as_json: bool
) -> int:
    """Discard the pending writes of these URIs for good.

    There is no other copy of these bytes: the command lists what it will discard, and asks. --name selects one of
    several writes of a URI.

    \b
    Examples:
      casstore drop s3://bucket/log.txt
      casstore drop --save-to mine.txt s3://bucket/log.txt
    """
    _check_usage(uris, save_to, name, is_all=is_all)
    cache = shell.open_cache()
    writes, missing = _select(cache, uris, name)
    if writes and save_to is None and not (yes or sys.stdin.isatty()):
        raise click.UsageError("cannot ask without a terminal: add --yes to discard, or --save-to PATH to keep")
    for text in missing:
        shell.error(f"{text}: `casstore pending` lists the pending writes")
    if save_to is not None:
        _check_single(cache, writes, save_to)
    elif writes and not yes:
        _confirm(shell, writes, lists=not as_json)
    failed = bool(missing)
    for write in writes:
        try:
            _drop(shell, cache, write, save_to, as_json=as_json)
        except OSError as error:  # a CasstoreError of `discard_pending` is one, too
            failed = True
            shell.error(f"{write.uri}: still pending: {shell.describe(error)}")
    return 1 if failed else 0


def _check_usage(uris: Sequence[str], save_to: str | None, name: str | None, *, is_all: bool) -> None:
    if is_all + bool(uris) + bool(name) == 0:
        raise click.UsageError("no URI was given: `casstore pending` lists them; --all discards all pending writes")
    if is_all and (uris or name or save_to):
        raise click.UsageError("--all cannot be combined with a URI, --name or --save-to")
    for option, given in (("--name", name), ("--save-to", save_to)):
        if given and len(dict.fromkeys(uris)) > 1:
            raise click.UsageError(f"{option} takes one URI, not {len(uris)}")
    if save_to == "":
        raise click.UsageError("--save-to is empty: use the path of a file")


def _select(cache: Cache, uris: Sequence[str], name: str | None) -> tuple[list[PendingWrite], list[str]]:
    """Return the selected writes (all of them without a URI or name), and a message for each that does not exist."""
    cache.record_local()
    writes, missing = [*cache.pending.all(), *_identify(cache, uris)], []
    if uris:
        known = {write.uri for write in writes}
        missing = [f"{uri}: nothing is pending" for uri in dict.fromkeys(uris) if uri not in known]
        writes = [write for write in writes if write.uri in uris]
    if name is not None and not missing:
        writes = [write for write in writes if write.name == name]
        if not writes:
            missing = [f"{uris[0] if uris else name}: no pending write has the name {name}"]
    return writes, missing


def _identify(cache: Cache, uris: Sequence[str]) -> list[PendingWrite]:
    """Return the writes without a readable record, with their URI if they are of a cached object of *uris*."""
    unidentified = cache.pending.unidentified()
    cached = (entry.key for uri in uris for entry in cache.entries(uri) if entry.uri == uri) if unidentified else ()
    keys = {key.name: key for key in cached}
    return [dataclasses.replace(write, key=keys.get(write.key.name, write.key)) for write in unidentified]


def _check_single(cache: Cache, writes: Sequence[PendingWrite], save_to: str) -> None:
    contents: list[PendingWrite] = []
    for write in writes:
        if not any(write.key == one.key and cache.pending.have_same_bytes(write, one) for one in contents):
            contents.append(write)
    if len(contents) > 1:
        listed = "; ".join(f"--name {write.name} ({write.state}, {write.size} bytes)" for write in contents)
        raise click.UsageError(f"{save_to} cannot take {len(contents)} different writes: select one with {listed}")


def _confirm(shell: Shell, writes: Sequence[PendingWrite], *, lists: bool) -> None:
    if lists:
        for write in writes:
            shell.line(f"{'discard':<9} {format_size(write.size):>9}  {write.uri}: {write.why}")
        sys.stdout.flush()
    count = "1 write" if len(writes) == 1 else f"{len(writes):,} writes"
    size = format_size(sum(write.size for write in writes))
    shell.confirm(f"Discard {count} ({size}) for good? There is no other copy of these bytes.")


def _drop(shell: Shell, cache: Cache, write: PendingWrite, save_to: str | None, *, as_json: bool) -> None:
    facts = pending_facts(cache, write)
    if not cache.discard_pending(write, save_to):
        shell.note(f"{write.uri}: another process has resolved it in the meantime")
        return
    saved = None if save_to is None else os.path.abspath(save_to)
    if as_json:
        shell.json_line({**facts, "saved_to": saved})
    else:
        verb, where = ("discarded", "") if saved is None else ("saved", f": {saved}")
        shell.line(f"{verb:<9} {format_size(write.size):>9}  {write.uri}{where}")
