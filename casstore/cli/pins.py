"""``casstore pin`` and ``casstore unpin``: what is never evicted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from casstore.cli.shell import Shell, age_text
from casstore.config.units import format_size
from casstore.errors import NotHeldError

if TYPE_CHECKING:
    from collections.abc import Callable

    from casstore.cache import Cache
    from casstore.eviction.pins import Pin

_NAMES = click.argument("names", nargs=-1, metavar="[URI-OR-PREFIX]...")
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")


@click.command()
@_NAMES
@_JSON
@click.pass_obj
def pin(shell: Shell, names: tuple[str, ...], as_json: bool) -> int:
    """Never evict these URIs, nor what is held now below these prefixes (which end in a slash); list what is pinned.

    Without a name it lists. A pin is of the URI: a newer version is pinned like the one before. What is fetched below
    a prefix later is not pinned.
    """
    cache = shell.open_cache()
    if names:
        return _Pinning(shell, cache, as_json=as_json).run("pinned", names, cache.pin)
    pins = list(cache.pins())
    _Pinning(shell, cache, as_json=as_json).show("", pins)
    if not (pins or as_json):
        shell.line("nothing is pinned")
    for path in cache.unreadable_pins():
        shell.note(f"warning: {path} cannot be read, so it is not known what it pins; it holds. Remove it to unpin")
    return 0


@click.command()
@_NAMES
@_JSON
@click.pass_obj
def unpin(shell: Shell, names: tuple[str, ...], as_json: bool) -> int:
    """Give up the pins of these URIs, and of all URIs below these prefixes (which end in a slash)."""
    if not names:
        raise click.UsageError("name URIs as `casstore pin` lists them, or prefixes that end in a slash")
    cache = shell.open_cache()
    return _Pinning(shell, cache, as_json=as_json).run("unpinned", names, cache.unpin)


class _Pinning:
    """One name after the other; what fails does not stop the others."""

    def __init__(self, shell: Shell, cache: Cache, *, as_json: bool) -> None:
        self._shell, self._cache, self._as_json = shell, cache, as_json

    def run(self, verb: str, names: tuple[str, ...], work: Callable[[str], list[Pin]]) -> int:
        failed = False
        for name in dict.fromkeys(names):
            try:
                pins = work(name)
            except NotHeldError as error:
                failed = True
                self._shell.error(self._shell.describe(error))
                continue
            self.show(verb, pins)
        return 1 if failed else 0

    def show(self, verb: str, pins: list[Pin]) -> None:
        from casstore.cli.facts import pin_facts

        now = time.time_ns()
        for one in pins:
            facts = pin_facts(self._cache, one)
            if self._as_json:
                self._shell.json_line(facts)
                continue
            size = "not held" if facts["size"] is None else format_size(facts["size"])
            lead = f"{verb:<8} " if verb else ""
            self._shell.line(f"{lead}{size:>9}  {age_text((now - one.since_ns) / 1e9):>4}  {one.uri}")
