"""`ckpt best`: the best checkpoint of a run, or of several."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ckpt_tracker.cli.command import command
from ckpt_tracker.cli.opening import open_store
from ckpt_tracker.cli.params import METRIC, RUN
from ckpt_tracker.errors import InvalidOption

if TYPE_CHECKING:
    from ckpt_tracker.records import Monitor
    from ckpt_tracker.store import Store


@command(
    examples=[
        "ckpt best mnist",
        "ckpt best mnist --metric val_acc --mode max --tie last",
        'ckpt best mnist --metric "0.7*val_acc - 0.3*log(size_mb)" --mode max',
        'ckpt best --across-runs --metric "val_f1 where val_loss < 0.4" --mode max',
        "ckpt best mnist --json | jq -r .ref",
    ],
)
@click.argument("runs", type=RUN, metavar="[RUN]...", nargs=-1)
@click.option("--across-runs", is_flag=True, help="The best of all RUNs together; of all runs where none is named.")
@click.option(
    "--metric",
    type=METRIC,
    metavar="M",
    help="A metric or an expression to rank by.  [default: the metric that the run monitors]",
)
@click.option("--mode", type=click.Choice(["min", "max"]), help="Whether a lower or a higher value is better.")
@click.option(
    "--tie", type=click.Choice(["first", "last"]), default="first", help="Which of equal ones.  [default: first]"
)
@click.option("--min-delta", type=float, default=0.0, metavar="D", help="What is better by D or less counts as equal.")
def best(
    runs: tuple[str, ...],
    across_runs: bool,
    metric: str | None,
    mode: str | None,
    tie: str,
    min_delta: float,
    store: str | None,
    as_json: bool,
) -> None:
    """Shows the best checkpoint of RUN, by any metric that it was saved with or that was added later.

    NaN, infinite and missing values never win, nor do weights that hold NaN or infinities.

    An expression has metrics, numbers, + - * / ** and parentheses, and abs, exp, log, log10, log2, max, min, sqrt; and
    behind `where` a condition of comparisons, and, or, not. Besides metrics it knows epoch, step, version, size_mb
    (what the checkpoint holds) and stored_mb (what it added). A name that has spaces or brackets in it stands in
    backquotes, unless it is alone.
    """
    from ckpt_tracker.cli.checkpoint_table import print_checkpoints
    from ckpt_tracker.cli.documents import checkpoint_document, monitor_document
    from ckpt_tracker.cli.output import emit_json

    with open_store(store) as opened:
        terms = {"tie": tie, "min_delta": min_delta}
        if across_runs:
            monitor = _common(opened, runs, metric, mode)
            record = opened.best(monitor.metric, monitor.mode, runs=runs or None, **terms).record  # type: ignore[arg-type]
        else:
            run = _only(opened, runs)
            monitor = _monitor(opened, run, metric, mode)
            record = opened.find_run(run).best(monitor.metric, monitor.mode, **terms).record  # type: ignore[arg-type]
        if as_json:
            emit_json({**checkpoint_document(record, best=True), "monitor": monitor_document(monitor)})
        else:
            chosen = {record.run: record.version}
            print_checkpoints([record], monitors={record.run: monitor}, best=chosen, by_ref=True)


def _only(store: Store, runs: tuple[str, ...]) -> str:
    """The run that is named; or the one that there is."""
    known = tuple(store.index.run_names())
    names = runs or known
    if len(names) != 1:
        some = ", ".join([*known[:10], *["…"] * (len(known) > 10)]) or "none"
        raise InvalidOption(f"best is of one RUN, or with --across-runs of several; there are: {some}")
    return names[0]


def _common(store: Store, runs: tuple[str, ...], metric: str | None, mode: str | None) -> Monitor:
    from ckpt_tracker.choosing import common_monitor
    from ckpt_tracker.selection import check_monitor

    records = [store.find_run(name).record for name in runs] or store.index.runs()
    return check_monitor(metric, mode) or common_monitor(records)


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
