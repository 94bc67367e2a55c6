"""`ckpt verify`: whether the bytes on disk are those that were written."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from ckpt_tracker.cli import human
from ckpt_tracker.cli.command import command
from ckpt_tracker.cli.opening import open_store
from ckpt_tracker.cli.params import RUN

if TYPE_CHECKING:
    from ckpt_tracker.records import Finding, VerifyReport


@command(
    examples=["ckpt verify", "ckpt verify mnist --deep", "ckpt verify --deep --json | jq '.findings[].ref'"],
)
@click.argument("run", type=RUN, required=False)
@click.option("--deep", is_flag=True, help="Read every byte, and compare its hash.")
@click.pass_context
def verify(ctx: click.Context, run: str | None, deep: bool, store: str | None, as_json: bool) -> None:
    """Checks every checkpoint of RUN, or the whole store: manifests, events, the index, and that the objects are there
    in their size.

    With --deep also every byte of every object. Nothing is changed; each damage is named with the checkpoint it
    concerns, the file it is in, and what of the checkpoint still loads, and the exit code is 5 then. `ckpt repair`
    puts right what can be.
    """
    from ckpt_tracker.cli.documents import finding_document
    from ckpt_tracker.cli.output import emit_json, progress_bar
    from ckpt_tracker.errors import Damaged

    started = time.monotonic()
    with open_store(store) as opened, progress_bar("verifying") as progress:
        names = [opened.find_run(run).name] if run else None
        report = opened.verify(deep=deep, runs=names, progress=progress)
    if as_json:
        counts = {"checkpoints": report.checkpoints, "objects": report.objects, "bytes_read": report.bytes_read}
        found, lost = (list(map(finding_document, each)) for each in (report.findings, report.lost))
        emit_json({"ok": report.ok, "deep": deep, **counts, "findings": found, "lost": lost})
    else:
        _print(report, deep=deep, seconds=time.monotonic() - started)
    if not report.ok:
        ctx.exit(Damaged.exit_code)


def _print(report: VerifyReport, *, deep: bool, seconds: float) -> None:
    from ckpt_tracker.cli.output import on_terminal

    for finding in report.findings:
        click.echo(_told(finding))
    for finding in report.lost:
        click.echo(f"known: {_told(finding)}")
    how = f"{human.size(report.bytes_read)} read and hashed" if deep else "sizes only, --deep reads every byte"
    if deep and on_terminal():
        how += f", {human.size(report.bytes_read / seconds)}/s"
    looked = f"{human.count(report.checkpoints, 'checkpoint')}, {human.count(report.objects, 'object')} ({how})"
    click.echo(f"{looked}: {_summary(report)}")


def problem(finding: Finding) -> str:
    """What a finding is about, with the file."""
    where = "" if str(finding.path) in finding.problem else f" ({human.path(finding.path)})"
    return human.printable(human.relative(finding.problem)) + where


def _told(finding: Finding) -> str:
    text = problem(finding)
    if "object" in finding.kind:
        text += f"; still loads: {', '.join(finding.loads) or 'nothing'}"
    return f"{finding.ref}: {text}" if finding.ref else text


def _summary(report: VerifyReport) -> str:
    damaged = len({finding.ref for finding in report.findings if "@" in finding.ref})
    others = len({finding.path for finding in report.findings if "@" not in finding.ref})
    found = [f"{human.count(damaged, 'checkpoint')} damaged"] if damaged else []
    if others:
        found.append(f"{human.count(others, 'other file')} damaged")
    return ", ".join(found) or "nothing is damaged"
