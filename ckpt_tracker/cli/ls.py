"""`ckpt ls`: the checkpoints of a run, of several, or of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ckpt_tracker.cli import human
from ckpt_tracker.cli.command import command
from ckpt_tracker.cli.opening import open_store
from ckpt_tracker.cli.params import METRIC, RUN

if TYPE_CHECKING:
    from ckpt_tracker.cli.checkpoint_table import Reasons
    from ckpt_tracker.records import CheckpointRecord, RunRecord
    from ckpt_tracker.store import Store

_MOST_EXPLAINED = 1000


@command(
    examples=[
        "ckpt ls mnist",
        "ckpt ls --sort val_loss -n 3",
        'ckpt ls mnist --where "epoch > 5 and val_loss < 0.4"',
        "ckpt ls mnist --columns epoch,val_loss,size,why",
        "ckpt ls mnist --json | jq '.[] | select(.best) | .ref'",
    ],
)
@click.argument("names", type=RUN, metavar="[RUN]...", nargs=-1)
@click.option(
    "--sort",
    "key",
    type=METRIC,
    metavar="KEY",
    help="By a metric, a column or an expression, lowest first; what has no value comes last.",
)
@click.option("--where", metavar="CONDITION", help='Only what it holds of, such as "epoch > 5 and val_loss < 0.4".')
@click.option("--desc", is_flag=True, help="Highest first, or newest first.")
@click.option(
    "-n", "--limit", metavar="N", type=click.IntRange(min=1), help="The first N with --sort, else the last N."
)
@click.option("--columns", metavar="A,B,…", help="These columns, in this order.")
def ls(
    names: tuple[str, ...],
    key: str | None,
    where: str | None,
    desc: bool,
    limit: int | None,
    columns: str | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Lists the checkpoints of each RUN, or of all runs by name, oldest first.

    The metric that the run monitors stands first, and `best` is by it.

    \b
    size     what a checkpoint holds
    new      what it added to the store: an unchanged tensor is stored once
    shared   what the store had already
    stall    how long the training waited for it
    tags     its tags, and whether it is best, pinned, or weights only
    why      why the run's retention keeps it; `ckpt why REF` tells more. Left
             out of more than 1,000, unless --columns names it

    Conditions and expressions are those of `ckpt best`. More columns are: created, write (how long writing took),
    reason (why it was saved), kind, sections, digest.
    """
    from ckpt_tracker.cli.checkpoint_table import print_checkpoints
    from ckpt_tracker.cli.ordering import arranged
    from ckpt_tracker.cli.output import emit_json, note

    only = [each.strip() for each in columns.split(",") if each.strip()] if columns else []
    with open_store(store) as opened:
        runs = _runs(opened, names)
        records = [record for run in runs for record in opened.index.checkpoints(run.name)]
        best = best_versions(opened, runs)
        reasons = _reasons(opened, runs, records, only)
        found = _matching(records, where) if where else records
        shown = arranged(found, key=key, descending=desc, limit=limit)
        if as_json:
            emit_json(_document(shown, best, reasons))
        elif shown:
            monitors = {run.name: run.monitor for run in runs}
            print_checkpoints(
                shown, monitors=monitors, best=best, by_ref=len(set(names)) != 1, reasons=reasons, only=only
            )
            _print_trend(runs, records, best)
        else:
            note(_nothing(opened, names, where if records else None))


def _matching(records: Sequence[CheckpointRecord], condition: str) -> Sequence[CheckpointRecord]:
    from ckpt_tracker.criteria import matching

    return matching(records, condition)


def _nothing(store: Store, names: Sequence[str], condition: str | None) -> str:
    what = f"run {' and '.join(names)}" if names else f"the store {human.path(store.path)}"
    return f"{what} has no checkpoint where {condition}" if condition else f"{what} has no checkpoints yet"


def best_versions(store: Store, runs: Sequence[RunRecord]) -> dict[str, int | None]:
    """The best version of each run by its own monitor; None where it has no best."""
    return {run.name: store.index.best(run.name, run.monitor) if run.monitor else None for run in runs}


def _runs(store: Store, names: Sequence[str]) -> list[RunRecord]:
    if not names:
        return sorted(store.index.runs(), key=lambda run: run.name)
    return [store.index.run(name) or store.find_run(name).record for name in dict.fromkeys(names)]


def _reasons(
    store: Store, runs: Sequence[RunRecord], records: Sequence[CheckpointRecord], only: Sequence[str]
) -> Reasons | None:
    """None where they are not asked for, or no run has a retention."""
    from ckpt_tracker.cli.kept import decisions, own_retention

    wanted = "why" in only if only else len(records) <= _MOST_EXPLAINED
    if not wanted or ("why" not in only and not any(map(own_retention, runs))):
        return None
    by_run = ((run, [each for each in records if each.run == run.name]) for run in runs)
    found = (decision for run, own in by_run for decision in decisions(store, run, own))
    return {(each.checkpoint.run, each.checkpoint.version): each.reasons for each in found}


def _document(
    records: Sequence[CheckpointRecord], best: dict[str, int | None], reasons: Reasons | None
) -> list[dict[str, object]]:
    from ckpt_tracker.cli.documents import checkpoint_document

    return [
        {
            **checkpoint_document(each, best=each.version == best[each.run]),
            "reasons": None if reasons is None else reasons.get((each.run, each.version), ()),
        }
        for each in records
    ]


def _print_trend(runs: Sequence[RunRecord], records: Sequence[CheckpointRecord], best: dict[str, int | None]) -> None:
    """Of one run, on a terminal: how the metric went that it monitors."""
    from ckpt_tracker.cli.output import on_terminal
    from ckpt_tracker.cli.trend import trend_line

    if len(runs) == 1 and runs[0].monitor and on_terminal() and len(records) > 2:
        line = trend_line(records, runs[0].monitor, best=best[runs[0].name])
        if line:
            click.echo(f"\n{line}")
