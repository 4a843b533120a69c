"""Commands of other packages, found through the entry-point group ``casstore.commands``.

Each entry point is a sequence of `click.Command`. A command whose name exists already extends that command, which must
be an `ExtensibleCommand`: its options are added, and its callback returns more results for the command to report. So
``casstore doctor`` and ``verify`` can check a server that this package knows nothing of.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import click

from casstore.cli.shell import say

GROUP: Final = "casstore.commands"

_EXTENSION: Final = "casstore.extension"


class PluginGroup(click.Group):
    """This package's commands, and plug-ins, which are imported only when needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self.plugins})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or self.plugins.get(cmd_name)

    @property
    def plugins(self) -> dict[str, click.Command]:
        return _load_plugins()


@functools.cache
def _load_plugins() -> dict[str, click.Command]:
    # Imported here: `casstore ls` needs no plug-in.
    from importlib.metadata import entry_points

    found: dict[str, click.Command] = {}
    for point in entry_points(group=GROUP):
        try:
            found |= {command.name or point.name: command for command in point.load()}
        except Exception as error:  # noqa: BLE001 (a broken plug-in must not break other commands)
            say(f"warning: {point.value}: the plug-in cannot be loaded: {error!r}{_explain()}")
    return found


def _explain() -> str:
    """Return how to mend an installation that was overwritten, as the end of a message; empty if it was not."""
    from casstore.installation import find_damage

    damage = find_damage()
    return f": {': '.join(damage)}" if damage is not None else ""


class ExtensibleCommand(click.Command):
    """A command that another package may extend; its callback calls `run_extension`."""

    def _extension(self, ctx: click.Context) -> click.Command | None:
        parent = None if ctx.parent is None else ctx.parent.command
        return parent.plugins.get(self.name or "") if isinstance(parent, PluginGroup) else None

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return its own parameters, then the extension's, then ``--help``."""
        own = super().get_params(ctx)
        extension = self._extension(ctx)
        count = len(self.params)
        return [*own[:count], *([] if extension is None else extension.params), *own[count:]]

    def invoke(self, ctx: click.Context) -> Any:
        """Call its own callback with its own parameters only."""
        extension = self._extension(ctx)
        if extension is not None and extension.callback is not None:
            theirs = {name: ctx.params.pop(name) for param in extension.params if (name := param.name)}
            ctx.meta[_EXTENSION] = functools.partial(ctx.invoke, extension.callback, **theirs)
        return super().invoke(ctx)


def push_options(ctx: click.Context, origin: str) -> str:
    """Return the options by which ``push``, a plug-in, reaches the server of *origin*, if it needs any and knows them.

    The plug-in is loaded only if *origin* names an endpoint.
    """
    if "@" not in origin or ctx.parent is None or not isinstance(ctx.parent.command, PluginGroup):
        return ""
    push = ctx.parent.command.plugins.get("push")
    options: Callable[[str], str] | None = getattr(push, "options_of", None)
    return options(origin) if options is not None else ""


def run_extension(ctx: click.Context) -> Any:
    """Call the extension; return its result, or None without an extension."""
    run = ctx.meta.get(_EXTENSION)
    return None if run is None else run()
