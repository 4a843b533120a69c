"""``casstore pending`` and ``casstore drop``: what was written here and is not in the cloud.

Uploading takes a cloud: ``casstore push`` joins from elsewhere.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from casstore.cli.shell import Shell, age_text
from casstore.config.units import format_size

if TYPE_CHECKING:
    from casstore.cache import Cache
    from casstore.cli.facts import PendingFacts
    from casstore.pending.records import PendingWrite

_INDENT: Final = " " * 33
_INTERRUPTED: Final = "interrupted"
_PUSH: Final = ("casstore push {it}", "uploads it, if the object is still the version that it started from")
_FORCE: Final = ("casstore push --force {it}", "uploads it over whatever is there")
_REST: Final = (
    ("casstore drop --save-to PATH {it}", "moves it to a local file"),
    ("casstore drop {it}", "discards it for good"),
)
_FAILED: Final = "not in the cloud; the URI is neither read nor written here until you decide"
_WAYS: Final = {
    "failed": (_FAILED, (_PUSH, _FORCE, *_REST)),
    "edit": (f"a local copy that was changed outside the API, {_FAILED}", (_PUSH, _FORCE, *_REST)),
    "incomplete": (
        "kept, and in nobody's way; push --all leaves it out",
        (("casstore push {it}", "uploads it as it is, if nobody has changed the object"), *_REST),
    ),
    _INTERRUPTED: (
        "its process died in the middle, and it is not known whether it arrived",
        (("casstore push {it}", "finds out, and uploads it if it did not arrive"), *_REST),
    ),
    "uploading": ("a process is at it just now", (("casstore pending", "says in a moment what became of it"),)),
}
"""By what is shown as the state: what it means, and each way on with what it does."""


@click.command("pending")
@click.argument("prefix", default="")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def pending_command(shell: Shell, prefix: str, as_json: bool) -> None:
    """List what was written here to URIs that start with PREFIX and is not in the cloud, and how to go on.

    Failed and interrupted uploads, local copies that were changed, files that were never closed. Asks no cloud.
    """
    from casstore.cli.facts import pending_facts

    cache = shell.open_cache()
    writes = [write for write in cache.pending.all() if write.uri.startswith(prefix)]
    facts = [pending_facts(cache, write) for write in writes]
    if as_json:
        for fact in facts:
            shell.json_line(fact)
    else:
        _show(shell, facts, [(time.time_ns() - write.created_ns) / 1e9 for write in writes])
    for path in cache.pending.unreadable():
        shell.note(
            f"warning: {path} cannot be read, so it is not known what the bytes beside it belong to: it is damaged, or "
            f"of a newer casstore. They are in {path.removesuffix('.json')}.data; to be rid of them, remove both files"
        )


def _show(shell: Shell, facts: Sequence[PendingFacts], ages: Sequence[float]) -> None:
    if not facts:
        shell.line("nothing is pending")
        return
    shell.line(f"{'SIZE':>9}  {'AGE':>5}  {'STATE':<11}  URI")
    for fact, age in zip(facts, ages, strict=True):
        shell.line(f"{format_size(fact['size']):>9}  {age_text(age):>5}  {_state(fact):<11}  {fact['uri']}")
        shell.line(f"{_INDENT}{fact['why']}")
        if fact["source"] is not None:
            shell.line(f"{_INDENT}it came from {fact['source']}")
        shell.line(f"{_INDENT}the bytes: {fact['path']}")
    for state, (meaning, ways) in _WAYS.items():
        its = [fact for fact in facts if _state(fact) == state]
        if not its:
            continue
        it = _spelled(its[0], facts) if len(its) == 1 else "URI"
        if len(its) > 1 and any("--name" in _spelled(fact, facts) for fact in its):
            it = "(URI or --name NAME)"
        shell.line("")
        shell.line(f"{state}: {meaning}")
        commands = [(command.format(it=it), does) for command, does in ways]
        width = max(len(command) for command, _ in commands)
        for command, does in commands:
            shell.line(f"    {command:<{width}}  # {does}")
    _show_names(shell, facts)


def _show_names(shell: Shell, facts: Sequence[PendingFacts]) -> None:
    named = [fact for fact in facts if "--name" in _spelled(fact, facts)]
    if len(named) < 2:
        return
    shell.line("")
    shell.line("by name, since the URI alone does not say which:")
    for fact in named:
        shell.line(f"    --name {fact['name']}  # {_state(fact)}, {format_size(fact['size'])}, {fact['uri']}")


def _state(fact: PendingFacts) -> str:
    return _INTERRUPTED if fact["interrupted"] else fact["state"]


def _spelled(fact: PendingFacts, facts: Sequence[PendingFacts]) -> str:
    """How a command names it: by its URI, unless that cannot be typed, or others are pending of it."""
    is_alone = sum(other["uri"] == fact["uri"] for other in facts) == 1
    return shlex.quote(fact["uri"]) if is_alone and fact["uri"].isprintable() else f"--name {fact['name']}"


@click.command()
@click.argument("uris", nargs=-1, metavar="[URI]...")
@click.option("--all", "is_all", is_flag=True, help="Everything that is pending.")
@click.option("--name", metavar="NAME", help="The one with this name, of several of a URI.")
@click.option(
    "--save-to",
    metavar="PATH",
    help="First move the bytes to this file, which is replaced as a whole; takes one write, and does not ask.",
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def drop(
    shell: Shell,
    uris: tuple[str, ...],
    is_all: bool,
    name: str | None,
    save_to: str | None,
    yes: bool,
    as_json: bool,
) -> int:
    """Discard what is pending of these URIs, for good: nobody else has these bytes.

    Shows what goes, and asks. All that is pending of a URI goes, unless --name picks one.
    """
    _check_usage(uris, save_to, name, is_all=is_all)
    if save_to is None and not (yes or sys.stdin.isatty()):
        raise click.UsageError("there is no terminal to ask at: say --yes to discard, or --save-to PATH to keep")
    cache = shell.open_cache()
    writes, missing = _chosen(cache, uris, name)
    for text in missing:
        shell.error(f"{text}; casstore pending lists what is")
    if save_to is not None:
        _check_one(writes, save_to)
    elif writes and not yes:
        _ask(shell, writes, lists=not as_json)
    failed = _Dropping(shell, cache, as_json=as_json).run(writes, save_to)
    return 1 if missing or failed else 0


def _check_usage(uris: Sequence[str], save_to: str | None, name: str | None, *, is_all: bool) -> None:
    if is_all + bool(uris) + bool(name) == 0:
        raise click.UsageError("name URIs as `casstore pending` lists them, or say --all")
    if is_all and (uris or name or save_to):
        raise click.UsageError("--all goes with no URI, no --name and no --save-to")
    for option, given in (("--name", name), ("--save-to", save_to)):
        if given and len(dict.fromkeys(uris)) > 1:
            raise click.UsageError(f"{option} takes one URI, not {len(uris)}")
    if save_to == "":
        raise click.UsageError("--save-to names no file")


def _chosen(cache: Cache, uris: Sequence[str], name: str | None) -> tuple[list[PendingWrite], list[str]]:
    """What is meant (without a URI or a name: everything), and what is said of what there is not."""
    writes, missing = list(cache.pending.all()), []
    if uris:
        known = {write.uri for write in writes}
        missing = [f"nothing is pending of {uri}" for uri in dict.fromkeys(uris) if uri not in known]
        writes = [write for write in writes if write.uri in uris]
    if name is not None and not missing:
        writes = [write for write in writes if write.name == name]
        if not writes:
            missing = [f"no pending write{f' of {uris[0]}' if uris else ''} has the name {name}"]
    return writes, missing


def _check_one(writes: Sequence[PendingWrite], save_to: str) -> None:
    contents = {(write.key, write.digest): write for write in writes}
    if len(contents) > 1:
        listed = "; ".join(f"--name {write.name} ({write.state}, {write.size} bytes)" for write in contents.values())
        raise click.UsageError(f"{len(contents)} different writes do not fit into {save_to}: choose one of {listed}")


def _ask(shell: Shell, writes: Sequence[PendingWrite], *, lists: bool) -> None:
    if lists:
        for write in writes:
            shell.line(f"{'goes':<9} {format_size(write.size):>9}  {write.uri}: {write.why}")
        sys.stdout.flush()
    what = "1 write" if len(writes) == 1 else f"{len(writes):,} writes"
    size = format_size(sum(write.size for write in writes))
    shell.confirm(f"Discard {what} of {size} for good? Nobody else has these bytes.")


class _Dropping:
    """Drops one after the other, and says so; what fails does not stop the others."""

    def __init__(self, shell: Shell, cache: Cache, *, as_json: bool) -> None:
        self._shell, self._cache, self._as_json = shell, cache, as_json

    def run(self, writes: Sequence[PendingWrite], save_to: str | None) -> int:
        """How many failed."""
        failed = 0
        for write in writes:
            try:
                self._drop(write, save_to)
            except OSError as error:  # those of casstore among them
                failed += 1
                self._shell.error(f"{write.uri} is still pending: {self._shell.describe(error)}")
        return failed

    def _drop(self, write: PendingWrite, save_to: str | None) -> None:
        from casstore.cli.facts import pending_facts

        facts = pending_facts(self._cache, write)
        if not self._cache.discard_pending(write, save_to):
            self._shell.note(f"{write.uri}: somebody has dealt with it meanwhile")
            return
        saved = None if save_to is None else os.path.abspath(save_to)
        if self._as_json:
            self._shell.json_line({**facts, "saved_to": saved})
        else:
            where = "" if saved is None else f" is now {saved}"
            self._shell.line(
                f"{'discarded' if saved is None else 'saved':<9} {format_size(write.size):>9}  {write.uri}{where}"
            )
