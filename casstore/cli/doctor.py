"""``casstore doctor``: check that this machine is fit for a store."""

from __future__ import annotations

import dataclasses

import click

from casstore.cli.plugins import ExtensibleCommand, run_extension
from casstore.cli.shell import Column, Shell, json_document_option


@click.command(cls=ExtensibleCommand)
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
        columns = [Column("CHECK"), Column("STATE"), Column("FOUND"), Column("WHAT TO DO")]
        shell.table(columns, [[check["name"], check["state"], check["found"], check["advice"]] for check in checks])
    return 1 if is_wrong else 0
