"""`ckpt diff`: what two checkpoints differ in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import click

from ckpt_tracker.cli import human
from ckpt_tracker.cli.command import command
from ckpt_tracker.cli.opening import open_store
from ckpt_tracker.cli.params import REF

if TYPE_CHECKING:
    from ckpt_tracker.cli.diff_report import Report
    from ckpt_tracker.comparison import Difference
    from ckpt_tracker.guard import Change
    from ckpt_tracker.records import CheckpointRecord

_SHOWN = 20


@command(
    examples=[
        "ckpt diff mnist@best mnist@last",
        "ckpt diff mnist@v3 mnist-lr3e-4@v3 --section model --all",
        "ckpt diff mnist@v1 mnist@v2 --json | jq '.differences[] | {path, l2: .distance.relative_l2}'",
    ],
)
@click.argument("a", type=REF)
@click.argument("b", type=REF)
@click.option("--section", metavar="NAME", help="Compare only this section of the states.")
@click.option("--all", "everything", is_flag=True, help="On a terminal too, list every tensor that changed.")
def diff(a: str, b: str, section: str | None, everything: bool, store: str | None, as_json: bool) -> None:
    """Compares the checkpoints A and B: metrics, config, code, environment, and their states tensor by tensor.

    Which tensors changed is known from their hashes; those alone are read, a stretch at a time, so that it takes
    hardly any memory. The one that changed most comes first.

    \b
    differing   how many of its elements are not the same, bit by bit
    L2          the length of the change, relative to that of the tensor in A
    largest     the largest change of an element
    NaN, Inf    how many there are in A and in B
    """
    from ckpt_tracker.cli.diff_report import compare
    from ckpt_tracker.cli.output import emit_json, progress_bar

    with open_store(store) as opened, progress_bar("comparing") as progress:
        first, second = opened[a].record, opened[b].record
        report = compare(opened, first, second, section=section, progress=progress)
    if as_json:
        emit_json(report.document())
    else:
        _print(report, everything=everything)


def _print(report: Report, *, everything: bool) -> None:
    from ckpt_tracker.cli.output import emit_pairs, on_terminal

    now = datetime.now(timezone.utc)
    emit_pairs((label, human.printable(text)) for label, text in _lines(report, now=now))
    tensors = [each for each in report.found if each.is_tensor]
    shown = tensors[:_SHOWN] if on_terminal() and not everything else tensors
    if shown:
        click.echo()
        _print_tensors(shown)
    if len(shown) < len(tensors):
        click.echo(f"and {len(tensors) - len(shown)} more: --all lists them")


def _lines(report: Report, *, now: datetime) -> Iterator[tuple[str, str]]:
    yield "A", _end(report.first, now=now)
    yield "B", _end(report.second, now=now)
    metrics = [f"{name}: {human.number(one)} → {human.number(two)}" for name, (one, two) in report.metrics().items()]
    yield from _listed("metrics", metrics)
    yield from _listed("config", list(map(_change, report.config)))
    yield from _listed("code", list(map(_change, report.code)))
    yield from _listed("environment", list(map(_change, report.environment)))
    yield "state", _state(report)
    values = [each for each in report.found if not each.is_tensor]
    told = [f"{each.path}: {_value(each.first)} → {_value(each.second)}" for each in values]
    if told:
        yield from _listed("values", told)


def _end(record: CheckpointRecord, *, now: datetime) -> str:
    known = [f"{name} {getattr(record, name)}" for name in ("epoch", "step") if getattr(record, name) is not None]
    return ", ".join([record.ref, *known, human.age(record.created_at, now=now), human.size(record.nbytes)])


def _state(report: Report) -> str:
    count = human.count(report.tensors, "tensor")
    if report.equal:
        return f"bit-equal, {count}"
    if not report.found:
        return f"bit-equal in that section, {count}"
    return f"{report.changed} of {count} changed" if report.changed else f"no tensor of {report.tensors} changed"


def _listed(label: str, texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The label in front of the first of several lines."""
    for index, text in enumerate(texts or ["the same"]):
        yield "" if index else label, text


def _change(change: Change) -> str:
    return f"{change.name}: {_value(change.was)} → {_value(change.now)}"


def _value(value: object) -> str:
    return "not there" if value is None else human.compact(value)


def _print_tensors(found: Sequence[Difference]) -> None:
    from ckpt_tracker.cli.tables import Column, print_rows

    columns: list[Column[Difference]] = [
        Column("tensor", lambda each: human.printable(each.path), text=True),
        Column("type", _types, text=True, spare=2),
        Column("differing", _differing, spare=1),
        Column("L2", lambda each: _measure(each, "relative_l2")),
        Column("largest", lambda each: _measure(each, "max_absolute")),
        Column("NaN, Inf", _not_finite, text=True),
    ]
    print_rows(columns, found)


def _types(each: Difference) -> str:
    if each.first == each.second:
        return each.first or human.NONE
    return f"{_value(each.first)} → {_value(each.second)}"


def _differing(each: Difference) -> str:
    if each.distance is None:
        return "only in B" if each.first is None else "only in A" if each.second is None else "other type"
    return f"{each.distance.differing / max(1, each.distance.elements):.1%}"


def _measure(each: Difference, name: str) -> str:
    return human.NONE if each.distance is None else f"{getattr(each.distance, name):.2g}"


def _not_finite(each: Difference) -> str:
    """`NaN 0 → 3`."""
    if each.distance is None:
        return ""
    counts = {"NaN": each.distance.nans, "Inf": each.distance.infs}
    return ", ".join(f"{name} {before} → {now}" for name, (before, now) in counts.items() if before or now)
