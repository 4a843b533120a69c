"""The command ``casstore``. Each subcommand is a thin caller of `casstore.open`.

Other packages add commands: see `casstore.cli.plugins`.
"""

from __future__ import annotations

import atexit
import dataclasses
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

import casstore
from casstore.cli.clear import clear
from casstore.cli.facts import usage_by_child, usage_facts
from casstore.cli.gc import gc
from casstore.cli.pending import drop, pending_command
from casstore.cli.pins import pin, unpin
from casstore.cli.plugins import ExtensibleCommand, PluginGroup, run_extension
from casstore.cli.shell import (
    AGE_UNITS,
    INTERRUPTED,
    Shell,
    age_text,
    describe,
    drop_stdout,
    json_document_option,
    json_lines_option,
    prepare_streams,
    say,
)
from casstore.cli.stats import count_text, stats
from casstore.cli.verify import verify
from casstore.config.units import format_size

if TYPE_CHECKING:
    from casstore import Usage

_PIPE_CLOSED: Final = 141
"""The status that shells report for SIGPIPE: 128 and the signal's number."""


class _Commands(PluginGroup):
    """All commands; a closed pipe ends each with status 141."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # Caught here, since click would exit with status 1.
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
    """Cache cloud objects in a local store that keeps equal contents once.

    \b
    Examples:
      casstore get s3://bucket/photos/cat.png
      casstore ls s3://bucket/photos/
      casstore gc --max-size 50GB
    """
    if directory == "":
        raise click.BadParameter("the value is empty: use a directory", param_hint="--dir")
    ctx.obj = Shell(directory)


@command.command()
@click.argument("prefix", default="")
@json_lines_option
@click.pass_obj
def ls(shell: Shell, prefix: str, as_json: bool) -> None:
    """List the cached objects whose URI starts with PREFIX.

    They are sorted by URI. Columns: size, time since the server last confirmed the version, start of the digest, URI.
    """
    cache = shell.open_cache()
    if not as_json and sys.stdout.isatty():
        shell.line(f"{'SIZE':>9}  {'CHECKED':>7}  {'DIGEST':<12}  URI")
    now, is_empty = time.time(), True
    # Not a table, which needs all rows first: there may be millions of entries, and `head` reads few.
    for entry in cache.entries(prefix):
        is_empty = False
        if as_json:
            shell.json_line(shell.facts(cache, entry))
        else:
            age = age_text(now - entry.validated.wall_ns / 1e9)
            shell.line(f"{format_size(entry.size):>9}  {age:>7}  {entry.digest.value.hex()[:12]}  {entry.uri}")
    if is_empty and prefix and not as_json:
        shell.note_no_match("cached", prefix)


@command.command()
@click.argument("prefix", default="")
@json_document_option
@click.pass_obj
def du(shell: Shell, prefix: str, as_json: bool) -> None:
    """Show the disk usage below PREFIX.

    Prints a line for each directory and object directly below PREFIX, with its size before and after deduplication.
    Content that two lines share counts in both, and once in the total.
    """
    children = usage_by_child(shell.open_cache(), prefix)
    total = children.pop("")
    if prefix and not total.entries and not as_json:
        shell.note_no_match("cached", prefix)
    if as_json:
        facts = [{"name": name, **usage_facts(usage)} for name, usage in children.items()]
        shell.json_document({"prefix": prefix, "total": usage_facts(total), "children": facts})
        return
    numbers = ("ENTRIES", "SIZE", "STORED", "RATIO")
    rows = [_usage_row(usage, name) for name, usage in children.items()]
    shell.table((*numbers, "URI"), rows, _usage_row(total, "total"), numbers)


def _usage_row(usage: Usage, name: str) -> list[str]:
    ratio = f"{usage.ratio:.0%}" if usage.logical_bytes else "-"
    return [f"{usage.entries:,}", format_size(usage.logical_bytes), format_size(usage.stored_bytes), ratio, name]


@command.command()
@json_document_option
@click.pass_obj
def info(shell: Shell, as_json: bool) -> None:
    """Show the store's directory, usage and settings."""
    facts = shell.open_cache().info()
    if as_json:
        shell.json_document(facts)
        return
    counts, rules = facts.pop("statistics"), facts.pop("rules")
    assert isinstance(counts, dict)
    assert isinstance(rules, list)
    rows = [[name.replace("_", " "), _fact(name, facts[name])] for name in facts]
    for rule in rules:
        limits = [f"{name.replace('_', ' ')} {_fact(name, rule[name])}" for name in ("max_size", "max_age")]
        rows.append([f"rule for {rule['prefix']}", ", ".join(limits)])
    rows += [[name.replace("_", " "), count_text(name, counts[name])] for name in counts]
    shell.table(("FACT", "VALUE"), rows)


def _fact(name: str, value: object) -> str:
    if value is None:
        return "no limit"
    if isinstance(value, int) and not isinstance(value, bool):
        if name == "max_age":
            # In the largest unit that is exact, as the setting accepts it.
            exact = (f"{value // length}{unit}" for length, unit in AGE_UNITS if value and value % length == 0)
            return next(exact, f"{value}s")
        is_size = name.endswith("_bytes") or name in ("max_size", "min_free")
        return f"{format_size(value)} ({value:,} bytes)" if is_size else f"{value:,}"
    return str(value)


@command.command(cls=ExtensibleCommand)
@json_document_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> int:
    """Check that this machine is fit for a store.

    Checks the store's directory, its file system, its index and the installed packages. Each URI is checked too:
    whether its server can be reached, and with --write, whether it supports conditional writes. Prints a fix for each
    problem, creates no store, and exits with status 1 if anything is wrong.

    \b
    Examples:
      casstore doctor
      casstore doctor s3://bucket/tmp/ --write
    """
    from casstore.doctor import examine

    shell: Shell = ctx.obj
    remote_checks = run_extension(ctx) or []
    checks = [*map(dataclasses.asdict, examine(shell.directory)), *remote_checks]
    is_wrong = any(check["state"] == "wrong" for check in checks)
    if as_json:
        shell.json_document({"is_good": not is_wrong, "checks": checks})
    else:
        rows = [[check["name"], check["state"], check["found"], check["advice"]] for check in checks]
        shell.table(("CHECK", "STATE", "FOUND", "WHAT TO DO"), rows)
    return 1 if is_wrong else 0


for _command in (clear, gc, stats, verify, pending_command, drop, pin, unpin):
    command.add_command(_command)


def run(arguments: list[str] | None = None) -> int:
    """Run a command line; return its exit status: 0, 1 (failure), 2 (usage), 130 (interrupt), 141 (closed pipe).

    Known errors become one line on stderr; others keep their traceback.
    """
    prepare_streams()
    try:
        status = command.main(arguments, prog_name="casstore", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "casstore"
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            print(error.format_message(), file=sys.stderr)  # noqa: T201 (the help page)
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
        return INTERRUPTED
    except (casstore.CasstoreError, OSError) as error:
        say(f"error: {describe(error)}")
        return 1
    return status if isinstance(status, int) else 0


def main() -> NoReturn:
    status = run()
    if status == INTERRUPTED:
        # A normal exit would wait for threads with large downloads. Complete ones are committed; the rest is what a
        # killed process leaves. A second interrupt ends it now.
        signal.signal(signal.SIGINT, lambda *_: os._exit(status))
        atexit._run_exitfuncs()  # noqa: SLF001 (the interpreter has no public name for it)
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
