"""``casstore doctor``: whether this machine is fit for a store, and what to do about what is not; status 1 if anything
is wrong.
"""

from __future__ import annotations

import click

from casstore.cli.plugins import ExtensibleCommand, extension_report
from casstore.cli.shell import Column, Shell


@click.command(cls=ExtensibleCommand)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> int:
    """Look at the store's directory, its file system and index, and at the packages that are installed.

    Says what to do about each thing that is not as it should be. Makes no store. The status is 1 if anything is wrong.
    """
    from casstore.doctor import examine

    shell: Shell = ctx.obj
    part = extension_report(ctx)
    checks = [
        {"name": check.name, "state": check.state.value, "found": check.found, "advice": check.advice}
        for check in examine(shell.directory)
    ]
    checks += [] if part is None else part.facts["checks"]
    is_wrong = any(check["state"] == "wrong" for check in checks)
    if as_json:
        shell.json_document({"is_good": not is_wrong, "checks": checks})
    else:
        columns = [Column("CHECK"), Column("STATE"), Column("FOUND"), Column("WHAT TO DO")]
        shell.table(columns, [[check["name"], check["state"], check["found"], check["advice"]] for check in checks])
    return 1 if is_wrong else 0
