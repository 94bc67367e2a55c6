"""`ckpt best`: the best checkpoint of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ckpt_tracker.cli.command import command
from ckpt_tracker.cli.documents import CHECKPOINT_KEYS
from ckpt_tracker.cli.opening import open_store
from ckpt_tracker.errors import InvalidOption

if TYPE_CHECKING:
    from ckpt_tracker.records import Monitor
    from ckpt_tracker.store import Store


@command(
    examples=["ckpt best mnist", "ckpt best mnist --metric val_acc --mode max", "ckpt best mnist --json | jq -r .ref"],
    document=f"One checkpoint: {CHECKPOINT_KEYS} (true), monitor {{metric, mode}} (what was asked for).",
)
@click.argument("run")
@click.option("--metric", metavar="M", help="The metric to rank by.  [default: the one that the run monitors]")
@click.option("--mode", type=click.Choice(["min", "max"]), help="Whether a lower or a higher value is better.")
def best(run: str, metric: str | None, mode: str | None, store: str | None, as_json: bool) -> None:
    """Shows the best checkpoint of RUN, by any metric that it was saved with.

    NaN, infinite and missing values never win; of equal ones it is the earlier.
    """
    from ckpt_tracker.cli.checkpoint_table import print_checkpoints
    from ckpt_tracker.cli.documents import checkpoint_document, monitor_document
    from ckpt_tracker.cli.output import emit_json

    with open_store(store) as opened:
        monitor = _monitor(opened, run, metric, mode)
        record = opened.find_run(run).best(monitor.metric, monitor.mode).record
        if as_json:
            emit_json({**checkpoint_document(record, best=True), "monitor": monitor_document(monitor)})
        else:
            print_checkpoints([record], monitors={run: monitor}, best={run: record.version}, by_ref=True)


def _monitor(store: Store, run: str, metric: str | None, mode: str | None) -> Monitor:
    from ckpt_tracker.records import Monitor

    own = store.find_run(run).record.monitor
    known = ", ".join(store.index.metric_names(run)) or "none"
    if metric is None:
        if own is None or mode is not None:
            reason = f"run {run!r} monitors no metric" if own is None else f"--mode {mode} is about no metric"
            raise InvalidOption(f"{reason}: name one with --metric and --mode; there are: {known}")
        return own
    if mode is None:
        if own is None or own.metric != metric:
            raise InvalidOption(
                f"--metric {metric} needs --mode min (lower is better) or --mode max (higher is better)"
            )
        return own
    return Monitor(metric, "min" if mode == "min" else "max")
