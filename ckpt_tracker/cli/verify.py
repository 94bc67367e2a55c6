"""`ckpt verify`: whether the bytes on disk are those that were written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ckpt_tracker.cli import human
from ckpt_tracker.cli.command import command
from ckpt_tracker.cli.opening import open_store

if TYPE_CHECKING:
    from ckpt_tracker.records import VerifyReport


@command(
    examples=["ckpt verify", "ckpt verify mnist --deep", "ckpt verify --deep --json | jq '.findings[].ref'"],
    document=(
        "ok, deep, checkpoints and objects (how many were looked at), bytes_read, findings "
        "[{ref, path, problem}]; the exit code is 5 where ok is false."
    ),
)
@click.argument("run", required=False)
@click.option("--deep", is_flag=True, help="Read every byte, and compare its hash.")
@click.pass_context
def verify(ctx: click.Context, run: str | None, deep: bool, store: str | None, as_json: bool) -> None:
    """Checks every checkpoint of RUN, or of all runs: its manifest, and that its objects are there in their size.

    With --deep also every byte of every object. Nothing is changed; each damage is named with the checkpoint it
    concerns and the file it is in, and the exit code is 5 then.
    """
    from ckpt_tracker.cli.documents import finding_document
    from ckpt_tracker.cli.output import emit_json, progress_bar
    from ckpt_tracker.errors import Damaged

    with open_store(store) as opened, progress_bar("verifying") as progress:
        names = [opened.find_run(run).name] if run else None
        report = opened.verify(deep=deep, runs=names, progress=progress)
    if as_json:
        counts = {"checkpoints": report.checkpoints, "objects": report.objects, "bytes_read": report.bytes_read}
        emit_json({"ok": report.ok, "deep": deep, **counts, "findings": [*map(finding_document, report.findings)]})
    else:
        _print(report, deep=deep)
    if not report.ok:
        ctx.exit(Damaged.exit_code)


def _print(report: VerifyReport, *, deep: bool) -> None:
    for finding in report.findings:
        where = "" if str(finding.path) in finding.problem else f" ({human.path(finding.path)})"
        click.echo(f"{finding.ref}: {human.printable(human.relative(finding.problem))}{where}")
    how = f"{human.size(report.bytes_read)} read and hashed" if deep else "sizes only, --deep reads every byte"
    looked = f"{human.count(report.checkpoints, 'checkpoint')}, {human.count(report.objects, 'object')} ({how})"
    damaged = len({finding.ref for finding in report.findings})
    found = f"{human.count(damaged, 'checkpoint')} damaged" if damaged else "nothing is damaged"
    click.echo(f"{looked}: {found}")
