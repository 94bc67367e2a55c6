"""`ckpt watch`: a run's checkpoints as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import click

from ckpt_tracker.cli import human
from ckpt_tracker.cli.command import EXIT_STATUS, command
from ckpt_tracker.cli.opening import open_store
from ckpt_tracker.cli.params import RUN

if TYPE_CHECKING:
    from ckpt_tracker.records import CheckpointRecord, RunRecord
    from ckpt_tracker.store import Store

INTERRUPTED = max(EXIT_STATUS)


@command(
    examples=["ckpt watch mnist", "ckpt watch mnist --interval 10", "ckpt watch mnist --json | jq --unbuffered .ref"],
)
@click.argument("run", type=RUN)
@click.option(
    "--interval",
    metavar="SECONDS",
    type=click.FloatRange(min=0.05),
    default=1.0,
    show_default=True,
    help="How often to look.",
)
@click.pass_context
def watch(ctx: click.Context, run: str, interval: float, store: str | None, as_json: bool) -> None:
    """Shows the checkpoints of RUN as they come, until its training comes to its end, or Ctrl-C ends it.

    On a terminal it is a table that is drawn anew; in a pipe one line a checkpoint, the newest first of all. It only
    looks, and holds nothing up.
    """
    from ckpt_tracker.cli.output import on_terminal

    with open_store(store) as opened:
        states = _states(opened, opened.find_run(run).name, interval)
        try:
            if as_json:
                _tell(states, _json_line)
            elif on_terminal():
                _draw(states)
            else:
                _tell(states, _line)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


class _State:
    """What there is of the run at a moment."""

    def __init__(self, store: Store, name: str) -> None:
        found = store.index.run(name)
        self.run: RunRecord = found if found is not None else store.run_record(name)
        self.checkpoints = store.index.checkpoints(name)
        self.best = store.index.best(name, self.run.monitor) if self.run.monitor else None


def _states(store: Store, name: str, interval: float) -> Iterator[_State]:
    """One at each look; the last one when the run is finished."""
    from ckpt_tracker.files import catching_up

    while True:
        catching_up.bring_up_to_date(store.index, store.layout)
        state = _State(store, name)
        yield state
        if state.run.finished:
            return
        time.sleep(interval)


def _tell(states: Iterator[_State], line: Callable[[CheckpointRecord, _State], str]) -> None:
    """Prints the newest checkpoint, and each that comes, at once."""
    told: int | None = None
    for state in states:
        news = state.checkpoints[-1:] if told is None else [each for each in state.checkpoints if each.version > told]
        for record in news:
            click.echo(line(record, state))
        told = max([told or 0, *(each.version for each in news)])


def _json_line(record: CheckpointRecord, state: _State) -> str:
    import orjson

    from ckpt_tracker.cli.documents import checkpoint_document

    return orjson.dumps(checkpoint_document(record, best=record.version == state.best)).decode()


def _line(record: CheckpointRecord, state: _State) -> str:
    from ckpt_tracker.cli.checkpoint_table import marks, metric_order

    known = [f"{name} {getattr(record, name)}" for name in ("epoch", "step") if getattr(record, name) is not None]
    monitored = [state.run.monitor.metric] if state.run.monitor else []
    metrics = [f"{name}={human.number(record.metrics[name])}" for name in metric_order([record], monitored)]
    words = [record.ref, *known, *metrics, human.size(record.nbytes), marks(record, best=record.version == state.best)]
    return human.printable("  ".join(filter(None, words)))


def _draw(states: Iterator[_State]) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(), auto_refresh=False, redirect_stdout=False) as live:
        for state in states:
            live.update(Text.from_ansi("\n".join(_screen(state, height=live.console.height))), refresh=True)


def _screen(state: _State, *, height: int) -> list[str]:
    """What fits: the newest checkpoints below each other, and how the metric went."""
    from ckpt_tracker.cli.checkpoint_table import checkpoint_lines
    from ckpt_tracker.cli.trend import trend_line

    run, records = state.run, state.checkpoints
    if not records:
        return [f"{run.name}: no checkpoints yet"]
    shown = records[-max(1, height - 7) :]
    table = checkpoint_lines(shown, monitors={run.name: run.monitor}, best={run.name: state.best})
    trend = trend_line(records, run.monitor, best=state.best) if run.monitor else ""
    return [
        _headline(state),
        *([f"… {len(records) - len(shown)} older"] if len(shown) < len(records) else []),
        *table,
        trend,
    ]


def _headline(state: _State) -> str:
    now = datetime.now(timezone.utc)
    stored = human.size(sum(each.stored_bytes for each in state.checkpoints))
    last = f"the last {human.age(state.checkpoints[-1].created_at, now=now)}"
    end = ", finished" if state.run.finished else ""
    return f"{state.run.name}: {human.count(len(state.checkpoints), 'checkpoint')}, {last}, {stored} stored{end}"
