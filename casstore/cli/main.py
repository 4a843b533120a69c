"""The command ``casstore``: what the store holds. Each command is a thin caller of `casstore.open`.

Other packages add commands (`casstore.cli_joins`), which find a `casstore.cli_output.Shell` in ``ctx.obj``.
"""

from __future__ import annotations

import atexit
import dataclasses
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

import casstore
from casstore.cli.clear import clear
from casstore.cli.doctor import doctor
from casstore.cli.gc import gc
from casstore.cli.pending import drop, pending_command
from casstore.cli.pins import pin, unpin
from casstore.cli.plugins import PluginGroup
from casstore.cli.shell import STOPPED, Column, Shell, age_text, describe, drop_stdout, prepare_streams, say
from casstore.cli.stats import count_text, stats
from casstore.cli.verify import verify
from casstore.config.units import format_size

if TYPE_CHECKING:
    from casstore import Usage

_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "m"))

_PIPE_CLOSED: Final = 141
"""128 and the number of the signal, as shells report programs that die of it."""


class _Commands(PluginGroup):
    """All commands, and the status of a reader who went away."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # Here, because click would make it the status of a failure.
            drop_stdout()
            raise click.exceptions.Exit(_PIPE_CLOSED) from None
        return result


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--dir", "directory", metavar="DIR", help="The store's directory.  [default: $CASSTORE_DIR, else the user's cache]"
)
@click.version_option(casstore.__version__, message="casstore %(version)s")
@click.pass_context
def command(ctx: click.Context, directory: str | None) -> None:
    """Objects from clouds, stored once by content: see what the store holds, and fill it."""
    if directory == "":
        raise click.BadParameter("names no directory", param_hint="--dir")
    ctx.obj = Shell(directory)


@command.command()
@click.argument("prefix", default="")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def ls(shell: Shell, prefix: str, as_json: bool) -> None:
    """List the entries whose URI starts with PREFIX, in the order of their URIs.

    Columns: size, how long ago the cloud confirmed it, the start of the digest, URI.
    """
    cache = shell.open_cache()
    if not as_json and sys.stdout.isatty():
        shell.line(f"{'SIZE':>9}  {'CHECKED':>7}  {'DIGEST':<12}  URI")
    now = time.time()
    # Line by line and not as a table: there may be millions, and `head` wants few.
    for entry in cache.entries(prefix):
        if as_json:
            shell.json_line(shell.facts(cache, entry))
        else:
            age = age_text(now - entry.validated.wall_ns / 1e9)
            shell.line(f"{format_size(entry.size):>9}  {age:>7}  {entry.digest.value.hex()[:12]}  {entry.uri}")


@command.command()
@click.argument("prefix", default="")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def du(shell: Shell, prefix: str, as_json: bool) -> None:
    """Show how much lies below PREFIX, by the next part of the path, before and after deduplication.

    What two lines share is counted in both, and once in the total.
    """
    from casstore.cli.facts import usage_by_child

    report = usage_by_child(shell.open_cache(), prefix)
    if as_json:
        children = [{"name": name, **_usage_facts(usage)} for name, usage in report.children.items()]
        shell.json_document({"prefix": prefix, "total": _usage_facts(report.total), "children": children})
        return
    columns = [
        Column("ENTRIES", is_number=True),
        Column("SIZE", is_number=True),
        Column("STORED", is_number=True),
        Column("RATIO", is_number=True),
        Column("URI"),
    ]
    rows = [_usage_row(usage, name) for name, usage in report.children.items()]
    shell.table(columns, rows, _usage_row(report.total, "total"))


def _usage_facts(usage: Usage) -> dict[str, Any]:
    return {**dataclasses.asdict(usage), "ratio": round(usage.ratio, 4)}


def _usage_row(usage: Usage, name: str) -> list[str]:
    ratio = f"{usage.ratio:.0%}" if usage.logical_bytes else "-"
    return [f"{usage.entries:,}", format_size(usage.logical_bytes), format_size(usage.stored_bytes), ratio, name]


@command.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def info(shell: Shell, as_json: bool) -> None:
    """Say where the store is, how full, and how it is set."""
    facts = shell.open_cache().info()
    if as_json:
        shell.json_document(facts)
        return
    counted, rules = facts.pop("statistics"), facts.pop("rules")
    assert isinstance(counted, dict)
    assert isinstance(rules, list)
    rows = [[name.replace("_", " "), _fact(name, facts[name])] for name in facts]
    rows += [[f"rule for {rule['prefix']}", _rule_text(rule)] for rule in rules]
    rows += [[name.replace("_", " "), count_text(name, counted[name])] for name in counted]
    shell.table([Column("FACT"), Column("VALUE")], rows)


def _fact(name: str, value: object) -> str:
    if value is None:
        return "no limit"
    if isinstance(value, int) and not isinstance(value, bool):
        if name == "max_age":
            return _duration(value)
        is_size = name.endswith("_bytes") or name in ("max_size", "min_free")
        return f"{format_size(value)} ({value:,} bytes)" if is_size else f"{value:,}"
    return str(value)


def _rule_text(rule: dict[str, Any]) -> str:
    return f"max size {_fact('max_size', rule['max_size'])}, max age {_fact('max_age', rule['max_age'])}"


def _duration(seconds: int) -> str:
    """In the largest unit that says it exactly, as it can be set."""
    exact = (f"{seconds // length}{unit}" for length, unit in _UNITS if seconds and seconds % length == 0)
    return next(exact, f"{seconds}s")


for _command in (clear, doctor, gc, stats, verify, pending_command, drop, pin, unpin):
    command.add_command(_command)


def run(arguments: list[str] | None = None) -> int:
    """Run one command line and return the exit status: 0, 1 where something failed, 2 for wrong usage, 130, 141.

    Known errors become one line on stderr; what is not known keeps its traceback.
    """
    prepare_streams()
    try:
        status = command.main(arguments, prog_name="casstore", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "casstore"
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            print(error.format_message(), file=sys.stderr)  # noqa: T201 (a whole page, and ours)
        else:
            say(f"{' '.join(error.format_message().split())} (see {path} --help)")
        return 2
    except click.ClickException as error:
        say(f"error: {error.format_message()}")
        return error.exit_code
    except BrokenPipeError:
        drop_stdout()
        return _PIPE_CLOSED
    except click.Abort:
        say("interrupted")
        return STOPPED
    except (casstore.CasstoreError, OSError) as error:
        say(f"error: {describe(error)}")
        return 1
    return status if isinstance(status, int) else 0


def main() -> NoReturn:
    """The entry point of the installed command."""
    status = run()
    if status == STOPPED:
        # Threads may be in the middle of large downloads, and leaving as usual would wait for them. What is complete is
        # committed; the rest is what a killed process leaves.
        atexit._run_exitfuncs()  # noqa: SLF001
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
