"""`ckpt metrics`: the metrics of a checkpoint, and adding what was measured after the training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ckpt_tracker.cli import human
from ckpt_tracker.cli.command import command
from ckpt_tracker.cli.opening import open_store
from ckpt_tracker.cli.params import REF
from ckpt_tracker.errors import InvalidOption

if TYPE_CHECKING:
    from ckpt_tracker.records import CheckpointRecord, Evaluation


@command(
    examples=[
        "ckpt metrics mnist@best",
        "ckpt metrics mnist@best add test_acc=0.93",
        "ckpt metrics mnist@v7 add test/acc=0.93 test/f1=0.91 --json | jq .metrics",
    ],
)
@click.argument("ref", type=REF)
@click.argument("action", type=click.Choice(["add"]), required=False)
@click.argument("values", metavar="[NAME=VALUE]...", nargs=-1)
def metrics(ref: str, action: str | None, values: tuple[str, ...], store: str | None, as_json: bool) -> None:
    """Shows all metrics of the checkpoint REF; with `add` it records what was measured after the training.

    What is added stands beside the training's own metrics, marked with the moment and the user, and counts like them:
    in `ckpt best`, in references, and in what retention keeps. It is appended to the run's events and never rewritten;
    of a metric that is added again the last value counts. What the training recorded itself stays as it is.
    """
    from ckpt_tracker.cli.output import emit_json

    if action and not values:
        raise InvalidOption("add takes what was measured: ckpt metrics REF add test_acc=0.93")
    with open_store(store) as opened:
        checkpoint = opened[ref]
        if action:
            checkpoint.add_metrics(dict(map(_parsed, values)))
    if as_json:
        emit_json({"ref": checkpoint.ref, "metrics": _documents(checkpoint.record)})
    else:
        _print(checkpoint.record)


def _parsed(text: str) -> tuple[str, float]:
    name, equals, value = text.rpartition("=")
    try:
        if not (name and equals):
            raise ValueError
        return name, float(value)
    except ValueError as error:
        raise InvalidOption(f"{text!r} is no metric: expected NAME=NUMBER, such as test_acc=0.93") from error


def _documents(record: CheckpointRecord) -> list[dict[str, object]]:
    later = {each.name: each for each in record.evaluations}
    return [{"name": name, "value": value, **_added(later.get(name))} for name, value in sorted(record.metrics.items())]


def _added(later: Evaluation | None) -> dict[str, object]:
    if later is None:
        return {"added_at": None, "by": None, "user": None}
    return {"added_at": later.at, "by": later.by, "user": later.user}


def _print(record: CheckpointRecord) -> None:
    from ckpt_tracker.cli.output import note
    from ckpt_tracker.cli.tables import Column, print_rows
    from ckpt_tracker.cli.trash import who

    if not record.metrics:
        note(f"{record.ref} has no metrics")
        return
    later = {each.name: each for each in record.evaluations}

    def origin(name: str) -> str:
        return (
            f"{later[name].at:%Y-%m-%d %H:%M} UTC, {who(later[name].by, later[name].user)}"
            if name in later
            else "training"
        )

    columns: list[Column[str]] = [
        Column("metric", human.printable, text=True),
        Column(record.ref, lambda name: human.number(record.metrics[name])),
        Column("recorded", origin, text=True),
    ]
    print_rows(columns, sorted(record.metrics))
