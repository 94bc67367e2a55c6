"""`ckpt du`: what takes the space of a store, and what a retention would free."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from ckpt_tracker.cli import human
from ckpt_tracker.cli.command import command
from ckpt_tracker.cli.documents import Document
from ckpt_tracker.cli.opening import open_store

if TYPE_CHECKING:
    from ckpt_tracker.inspection.usage import RunUsage, SectionUsage, Usage
    from ckpt_tracker.records import Decision
    from ckpt_tracker.store import Store


@command(
    examples=[
        "ckpt du",
        'ckpt du --keep "last:1 best:3"',
        "ckpt du --json | jq '.runs | max_by(.own_bytes) | .run'",
    ],
)
@click.option("--keep", metavar="RETENTION", help="Another retention than each run's own; see `ckpt prune --help`.")
def du(keep: str | None, store: str | None, as_json: bool) -> None:
    """Tells what takes the space of the store, by run and by section. What is shared counts once.

    \b
    logical     what the checkpoints would take if each stood alone
    on disk     what the objects take that they need
    alone       of these, what nothing else needs: removing the run frees it
    prune       what `ckpt prune` would free: by each run's own retention, or
                by --keep
    """
    from ckpt_tracker.cli.output import emit_json
    from ckpt_tracker.inspection.usage import measure

    with open_store(store) as opened:
        usage = measure(opened.layout, opened.objects)
        pruning = [_pruning(opened, each.run, keep) for each in usage.runs]
        report = _Report(usage, pruning, _freed(opened, *pruning), opened.free_bytes(), keep)
        path = human.path(opened.path)
    if as_json:
        emit_json(report.document())
    else:
        _print(report, path)


@dataclass(frozen=True)
class _Pruning:
    """What a retention would do to one run."""

    keep: str | None
    decisions: tuple[Decision, ...]
    freed_bytes: int = 0


@dataclass(frozen=True)
class _Report:
    usage: Usage
    pruning: Sequence[_Pruning]
    prunable_bytes: int
    free_bytes: int
    keep: str | None

    def document(self) -> Document:
        both = zip(self.usage.runs, self.pruning, strict=True)
        runs = [{**vars(run), "keep": each.keep, "prunable_bytes": each.freed_bytes} for run, each in both]
        names = ("object_bytes", "trash_bytes", "unneeded_bytes")
        return {
            "runs": runs,
            "sections": [vars(each) for each in self.usage.sections],
            **{name: getattr(self.usage, name) for name in names},
            "prunable_bytes": self.prunable_bytes,
            "free_bytes": self.free_bytes,
        }


def _pruning(store: Store, name: str, keep: str | None) -> _Pruning:
    from ckpt_tracker.cli.kept import decisions, own_retention

    run = store.run_record(name)
    found = decisions(store, run, store.index.checkpoints(name), keep=keep)
    made = _Pruning(keep or own_retention(run), found)
    return _Pruning(made.keep, found, _freed(store, made))


def _freed(store: Store, *made: _Pruning) -> int:
    decisions = [decision for each in made for decision in each.decisions]
    removed = [each.checkpoint for each in decisions if not each.keep]
    stripped = [each.checkpoint for each in decisions if each.keep and each.weights_only]
    return store.reclaimer.freed_by(removed, stripped) if removed or stripped else 0


def _print(report: _Report, path: str) -> None:
    from ckpt_tracker.cli.output import note
    from ckpt_tracker.cli.tables import Column, print_rows

    usage = report.usage
    if not usage.runs:
        note(f"the store {path} has no runs yet")
        return
    Row = tuple["RunUsage", _Pruning]  # noqa: N806 - a type
    rows = sorted(zip(usage.runs, report.pruning, strict=True), key=lambda row: -row[0].own_bytes)
    runs: list[Column[Row]] = [
        Column("run", lambda row: row[0].run, text=True),
        Column("checkpoints", lambda row: str(row[0].checkpoints), spare=1),
        Column("logical", lambda row: human.size(row[0].nbytes), spare=2),
        Column("on disk", lambda row: human.size(row[0].needed_bytes)),
        Column("alone", lambda row: human.size(row[0].own_bytes)),
        Column("prune", lambda row: human.size(row[1].freed_bytes) if row[1].keep else human.NONE),
    ]
    sections: list[Column[SectionUsage]] = [
        Column("section", lambda each: human.printable(each.section), text=True),
        Column("logical", lambda each: human.size(each.nbytes)),
        Column("on disk", lambda each: human.size(each.needed_bytes)),
    ]
    print_rows(runs, rows)
    if usage.sections:
        click.echo()
        print_rows(sections, usage.sections)
    click.echo()
    _print_sum(report)


def _print_sum(report: _Report) -> None:
    from ckpt_tracker.cli.output import emit_pairs

    usage = report.usage
    logical = sum(each.nbytes for each in usage.runs)
    needed = usage.object_bytes - usage.trash_bytes - usage.unneeded_bytes
    part = "" if needed == usage.object_bytes else f" the {human.size(needed)} that checkpoints need would be"
    times = f",{part} {logical / needed:.1f} times that without sharing" if needed > 0 else ""
    lines = [("on disk", f"{human.size(usage.object_bytes)} in all{times}")]
    if usage.trash_bytes:
        lines.append(("trash", f"{human.size(usage.trash_bytes)} of it: ckpt trash --empty frees that"))
    if usage.unneeded_bytes:
        lines.append(("unneeded", f"{human.size(usage.unneeded_bytes)} of it: ckpt gc frees that"))
    if report.prunable_bytes:
        keeps = {each.keep for each in report.pruning if each.decisions}
        one = keeps.pop() if len(keeps) == 1 else None
        how = f"ckpt prune --keep {shlex.quote(one)}" if one else "ckpt prune RUN --keep …"
        lines.append(("prune", f"{human.size(report.prunable_bytes)} would be freed: {how} shows how"))
    elif usage.object_bytes and report.keep is None:
        lines.append(("prune", 'nothing, by the runs\' own retentions; try ckpt du --keep "last:1 best:3"'))
    lines.append(("free", f"{human.size(report.free_bytes)} on this file system"))
    emit_pairs(lines)
