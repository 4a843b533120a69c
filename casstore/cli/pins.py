"""``casstore pin`` and ``casstore unpin``: which objects are never evicted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from casstore.cli.facts import pin_facts
from casstore.cli.shell import Shell, age_text, json_lines_option
from casstore.config.units import format_size
from casstore.errors import NotHeldError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from casstore.cache import Cache
    from casstore.eviction.pins import Pin

_names_argument = click.argument("names", nargs=-1, metavar="[URI-OR-PREFIX]...")


@click.command()
@_names_argument
@json_lines_option
@click.pass_obj
def pin(shell: Shell, names: tuple[str, ...], as_json: bool) -> int:
    """Protect objects from eviction, or list the pins.

    Pins each URI, and what is cached now below each prefix (which ends in a slash). Without arguments, lists the pins.
    A pin belongs to the URI, and so to newer versions too. Objects that are cached below a prefix later are not pinned.

    \b
    Examples:
      casstore pin s3://bucket/models/
      casstore pin
    """
    cache = shell.open_cache()
    if names:
        return _apply(shell, cache, "pinned", names, cache.pin, as_json=as_json)
    pins = list(cache.pins())
    _show(shell, cache, "", pins, as_json=as_json)
    if not (pins or as_json):
        shell.line("nothing is pinned")
    for path in cache.unreadable_pins():
        shell.note(f"warning: {path}: the pin cannot be read, and stays in force: remove the file to unpin")
    return 0


@click.command()
@_names_argument
@json_lines_option
@click.pass_obj
def unpin(shell: Shell, names: tuple[str, ...], as_json: bool) -> int:
    """Remove pins, so that the objects can be evicted again.

    Takes URIs, and prefixes that end in a slash.
    """
    if not names:
        raise click.UsageError("no URI or prefix was given: `casstore pin` lists what is pinned")
    cache = shell.open_cache()
    return _apply(shell, cache, "unpinned", names, cache.unpin, as_json=as_json)


def _apply(
    shell: Shell, cache: Cache, verb: str, names: Sequence[str], work: Callable[[str], list[Pin]], *, as_json: bool
) -> int:
    """Call *work* for each name; a failure does not stop the others."""
    failed = False
    for name in dict.fromkeys(names):
        try:
            pins = work(name)
        except NotHeldError as error:
            failed = True
            shell.error(shell.describe(error))
            continue
        _show(shell, cache, verb, pins, as_json=as_json)
    return 1 if failed else 0


def _show(shell: Shell, cache: Cache, verb: str, pins: Sequence[Pin], *, as_json: bool) -> None:
    now = time.time_ns()
    for one in pins:
        facts = pin_facts(cache, one)
        if as_json:
            shell.json_line(facts)
            continue
        size = "-" if facts["size"] is None else format_size(facts["size"])
        lead = f"{verb:<8} " if verb else ""
        shell.line(f"{lead}{size:>9}  {age_text((now - one.since_ns) / 1e9):>4}  {one.uri}")
