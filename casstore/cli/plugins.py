"""Commands of other packages: they join ``casstore`` through an entry-point group, or extend a command that is there.

Each entry of the group ``casstore.commands`` is a sequence of `click.Command`. One whose name is taken extends the
command of that name (an `ExtensibleCommand` one): its options are added, and its callback, which gets the shell and
those options, gives a `ReportSection` of the report, or None where it was not asked for one. So a check that needs a
cloud is reported by the command that people know, and this package knows no cloud.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Final, Protocol, cast

import click

from casstore.cli.shell import Shell, say

GROUP: Final = "casstore.commands"

_PART: Final = "casstore.part"


class ReportSection(Protocol):
    """What an extension found: *facts* in types that JSON has, and whether anything is wrong."""

    facts: Mapping[str, Any]
    is_wrong: bool

    def show(self, shell: Shell) -> None:
        """Say it to people."""
        ...


class PluginGroup(click.Group):
    """Commands of this package, and those that other packages bring, which are imported only when they are needed."""

    _joined: dict[str, click.Command] | None = None

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names."""
        return sorted({*super().list_commands(ctx), *self.joined()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """This package's own first."""
        return super().get_command(ctx, cmd_name) or self.joined().get(cmd_name)

    def joined(self) -> dict[str, click.Command]:
        """What other packages bring, by name."""
        if self._joined is None:
            # Imported here: `casstore ls` needs neither the search nor what it finds.
            from importlib.metadata import entry_points

            self._joined = {}
            for point in entry_points(group=GROUP):
                try:
                    self._joined |= {command.name or point.name: command for command in point.load()}
                except Exception as error:  # noqa: BLE001 (somebody else's code, without which the rest works)
                    say(f"warning: the commands of {point.value} cannot be loaded: {error!r}")
        return self._joined


class ExtensibleCommand(click.Command):
    """A command that another package may extend; its callback asks `extension_report` for what that found."""

    def _extension(self, ctx: click.Context) -> click.Command | None:
        parent = None if ctx.parent is None else ctx.parent.command
        return parent.joined().get(self.name or "") if isinstance(parent, PluginGroup) else None

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Its own, then the extension's, then ``--help``."""
        own = super().get_params(ctx)
        extension = self._extension(ctx)
        count = len(self.params)
        return [*own[:count], *([] if extension is None else extension.params), *own[count:]]

    def invoke(self, ctx: click.Context) -> Any:
        """Its own callback gets its own parameters."""
        extension = self._extension(ctx)
        if extension is not None and extension.callback is not None:
            theirs = {name: ctx.params.pop(name) for param in extension.params if (name := param.name)}
            ctx.meta[_PART] = functools.partial(ctx.invoke, extension.callback, **theirs)
        return super().invoke(ctx)


def extension_report(ctx: click.Context) -> ReportSection | None:
    """What the extension finds, now; None where there is none, or it was not asked for anything."""
    find = ctx.meta.get(_PART)
    return None if find is None else cast("ReportSection | None", find())
