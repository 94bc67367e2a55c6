"""Retention, worked out by hand: which checkpoints a policy keeps, and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

import pytest

from ckpt_tracker import Store
from ckpt_tracker.errors import InvalidOption
from ckpt_tracker.records import CheckpointRecord, Mode, Monitor
from ckpt_tracker.retention import (
    Best,
    Every,
    Last,
    Retention,
    Tagged,
    Union,
    Within,
    checked,
    decide,
    parse,
)

NAN, INF = math.nan, math.inf
NOW = datetime(2026, 11, 21, 12, 30, tzinfo=timezone.utc)


def _records(
    losses: Sequence[float | None], *, tags: dict[int, tuple[str, ...]] | None = None, minutes: float = 60
) -> list[CheckpointRecord]:
    """Versions from 1, epochs from 0, ten steps an epoch; the newest is as old as one interval."""
    return [
        CheckpointRecord(
            run="r",
            version=number,
            epoch=number - 1,
            step=10 * number,
            metrics={} if loss is None else {"loss": loss},
            created_at=NOW - timedelta(minutes=minutes * (len(losses) + 1 - number)),
            digest="",
            nbytes=0,
            stored_bytes=0,
            sections=(),
            tags=(tags or {}).get(number, ()),
        )
        for number, loss in enumerate(losses, start=1)
    ]


def _kept(keep: Retention, records: Sequence[CheckpointRecord]) -> list[int]:
    return [each.checkpoint.version for each in decide(keep, records, now=NOW) if each.keep]


MIN: Mode = "min"
MAX: Mode = "max"
FIVE = [0.5, 0.1, 0.4, 0.3, 0.2]

CASES: dict[str, tuple[Retention, list[float | None], list[int]]] = {
    "last 1": (Last(1), [*FIVE], [5]),
    "last 2": (Last(2), [*FIVE], [4, 5]),
    "last of fewer": (Last(9), [*FIVE], [1, 2, 3, 4, 5]),
    "last of none": (Last(1), [], []),
    "best 1 min": (Best(1, "loss", MIN), [*FIVE], [2]),
    "best 1 max": (Best(1, "loss", MAX), [*FIVE], [1]),
    "best 2 min": (Best(2, "loss", MIN), [*FIVE], [2, 5]),
    "best of fewer": (Best(9, "loss", MIN), [*FIVE], [1, 2, 3, 4, 5]),
    "a tie goes to the earlier": (Best(1, "loss", MIN), [0.3, 0.1, 0.1, 0.1], [2]),
    "a tie at the edge": (Best(2, "loss", MAX), [0.3, 0.5, 0.3, 0.3], [1, 2]),
    "all equal": (Best(2, "loss", MAX), [1.0, 1.0, 1.0], [1, 2]),
    "nan first (M10)": (Best(1, "loss", MIN), [NAN, 0.9, 0.5, 0.7], [3]),
    "nan among the best two (M11)": (Best(2, "loss", MIN), [0.9, 0.5, NAN, 0.7], [2, 4]),
    "nan for max": (Best(1, "loss", MAX), [0.5, NAN], [1]),
    "infinities": (Best(2, "loss", MAX), [INF, 0.5, -INF, 0.1], [2, 4]),
    "only nan": (Best(2, "loss", MIN), [NAN, NAN], []),
    "only nan, with last": (Best(2, "loss", MIN) | Last(1), [NAN, NAN], [2]),
    "missing is kept as not ranked": (Best(1, "loss", MIN), [0.5, None, 0.1], [2, 3]),
    "the newest missing, as many as the best": (Best(2, "loss", MIN), [None, None, None, None], [3, 4]),
    "a misspelt metric fills no disk": (Best(1, "los", MIN), [*FIVE], [5]),
    "large and small": (Best(1, "loss", MIN), [1e308, -1e308, 5e-324], [2]),
    "every 2 epochs": (Every(epochs=2), [*FIVE], [2, 4]),
    "every epoch": (Every(epochs=1), [*FIVE], [1, 2, 3, 4, 5]),
    "every 10 epochs of 5": (Every(epochs=10), [*FIVE], []),
    "every 20 steps": (Every(steps=20), [*FIVE], [2, 4]),
    "every 15 steps": (Every(steps=15), [*FIVE], [3]),
    "within 3 hours": (Within(hours=3), [*FIVE], [3, 4, 5]),
    "within 90 minutes": (Within(hours=1.5), [*FIVE], [5]),
    "within a day": (Within(days=1), [*FIVE], [1, 2, 3, 4, 5]),
    "one per day": (Within(days=2, one_per="day"), [*FIVE], [5]),
    "last or best": (Last(1) | Best(1, "loss", MIN), [*FIVE], [2, 5]),
    "last or best, the same": (Last(1) | Best(1, "loss", MIN), [0.5, 0.1], [2]),
    "two bests": (Best(1, "loss", MIN) | Best(1, "loss", MAX), [*FIVE], [1, 2]),
    "three of them": (Last(1) | Best(1, "loss", MIN) | Every(epochs=3), [*FIVE], [2, 3, 5]),
    "tagged alone": (Tagged(), [*FIVE], []),
}


@pytest.mark.parametrize(("keep", "losses", "expected"), CASES.values(), ids=CASES.keys())
def test_a_policy_keeps_what_was_worked_out_by_hand(
    keep: Retention, losses: list[float | None], expected: list[int]
) -> None:
    """Versions, epochs, hours and losses as given."""
    assert _kept(keep, _records(losses)) == expected


def test_one_per_hour_keeps_the_newest_of_each() -> None:
    """Checkpoints of every 20 minutes, at :10, :30 and :50, seen at 12:30."""
    records = _records([0.1] * 9, minutes=20)
    kept = _kept(Within(days=1, one_per="hour"), records)
    hours = [(each.created_at.hour, each.created_at.minute) for each in records if each.version in kept]
    assert hours == [(9, 50), (10, 50), (11, 50), (12, 10)]


def test_one_per_week_begins_on_monday() -> None:
    """As ISO 8601 counts: Sunday the 15th is another week than Monday the 16th."""
    records = _records([0.1] * 8, minutes=24 * 60)
    kept = [each.created_at.day for each in records if each.version in _kept(Within(days=30, one_per="week"), records)]
    assert kept == [15, 20]


def test_a_missing_epoch_or_step_is_in_no_every() -> None:
    """A save without a position is kept by others, or by nobody."""
    record = CheckpointRecord("r", 1, None, None, {}, NOW, "", 0, 0, ())
    assert _kept(Every(epochs=1), [record]) == []
    assert _kept(Every(steps=1) | Last(1), [record]) == [1]


def test_a_tag_keeps_whatever_the_policy_says() -> None:
    """`Tagged` is always implied."""
    assert _kept(Last(1), _records([*FIVE], tags={2: ("paper", "v1.0")})) == [2, 5]


REASONS = {
    1: (),
    2: ("best-1 loss=0.1",),
    3: ("every-3-epochs",),
    4: ("last-2",),
    5: ("last-1", "best-2 loss=0.2", "tag:a,b"),
}


def test_decisions_carry_every_reason() -> None:
    """For people: which of the policies keeps it, and its rank there."""
    keep = Last(2) | Best(2, "loss", MIN) | Every(epochs=3)
    decisions = decide(keep, _records([*FIVE], tags={5: ("a", "b")}), now=NOW)
    assert {each.checkpoint.version: each.reasons for each in decisions} == REASONS


def test_an_unranked_checkpoint_says_so() -> None:
    """It might be the best; nobody knows."""
    (decision,) = decide(Best(1, "loss", MIN), _records([None]), now=NOW)
    assert (decision.keep, decision.reasons) == (True, ("not ranked: no loss",))


def test_decisions_are_oldest_first_and_leave_the_records_alone() -> None:
    """Whatever order they came in."""
    records = _records([*FIVE])
    shuffled = [records[index] for index in (3, 0, 4, 1, 2)]
    before = list(shuffled)
    decisions = decide(Last(2), shuffled, now=NOW)
    assert [each.checkpoint.version for each in decisions] == [1, 2, 3, 4, 5]
    assert [each.keep for each in decisions] == [False, False, False, True, True]
    assert shuffled == before


INVALID = {
    "last 0": lambda: Last(0),
    "last -1": lambda: Last(-1),
    "last of a float": lambda: Last(1.5),  # type: ignore[arg-type]
    "last of a bool": lambda: Last(True),
    "best 0": lambda: Best(0),
    "best without mode": lambda: Best(1, "loss"),
    "best without metric": lambda: Best(1, mode="min"),
    "best auto": lambda: Best(1, "loss", "auto"),  # type: ignore[arg-type]
    "every nothing": Every,
    "every both": lambda: Every(epochs=1, steps=1),
    "every 0": lambda: Every(epochs=0),
    "within nothing": Within,
    "within 0": lambda: Within(hours=0),
    "within less": lambda: Within(days=-1),
    "one per year": lambda: Within(days=1, one_per="year"),  # type: ignore[arg-type]
    "within nan": lambda: Within(hours=NAN),
    "within for ever": lambda: Within(days=INF),
    "within a text": lambda: Within(hours="3"),  # type: ignore[arg-type]
    "best by nothing": lambda: Best(1, " ", "min"),
    "best by a number": lambda: Best(1, 5, "min"),  # type: ignore[arg-type]
    "best by half an expression": lambda: Best(1, "0.7*loss -", "min"),
    "best by a condition": lambda: Best(1, "loss < 0.4", "min"),
    "best by a function that is none": lambda: Best(1, "ln(loss)", "min"),
    "a union of nothing": lambda: Union(()),
    "a cap of nothing": lambda: Last(1).capped(0),
    "a cap below nothing": lambda: Last(1).capped(-5),
    "a cap of less than a byte": lambda: Last(1).capped("0.5B"),
    "a cap without a unit": lambda: Last(1).capped("20"),
    "a cap of a float": lambda: Last(1).capped(1e9),  # type: ignore[arg-type]
    "a cap of something else": lambda: Last(1).capped("20 sheep"),
}


@pytest.mark.parametrize("make", INVALID.values(), ids=INVALID.keys())
def test_a_policy_that_makes_no_sense_is_refused_when_it_is_made(make: object) -> None:
    """And not at the end of the first epoch."""
    with pytest.raises(InvalidOption):
        make()  # type: ignore[operator]


TEXTS: dict[str, Retention] = {
    "last:3": Last(3),
    "best:2": Best(2),
    "best:5:val_loss:min": Best(5, "val_loss", "min"),
    "best:1:a:b:max": Best(1, "a:b", "max"),
    "every:10epochs": Every(epochs=10),
    "every:1epoch": Every(epochs=1),
    "every:500steps": Every(steps=500),
    "within:24hours": Within(hours=24),
    "within:0.5days": Within(days=0.5),
    "within:7days:hour": Within(days=7, one_per="hour"),
    "tagged": Tagged(),
    "last:2 best:3": Last(2) | Best(3),
    "  last:2\tbest:3:loss:max  every:1step ": Last(2) | Best(3, "loss", "max") | Every(steps=1),
    "best:1:'val loss':min": Best(1, "val loss", "min"),
    "best:1:0.7*acc-0.3*log(loss):max": Best(1, "0.7*acc-0.3*log(loss)", "max"),
    "'best:2:f1 where loss < 0.4:max:weights' last:1": Best(2, "f1 where loss < 0.4", "max").weights_only() | Last(1),
    "('best:1:(a + b)/2:max' cap:1MB)": Best(1, "(a + b)/2", "max").capped("1MB"),
    "best:1:`a(b)`:min": Best(1, "`a(b)`", "min"),
    "best:5:weights": Best(5).weights_only(),
    "best:5:weights:min": Best(5, "weights", "min"),
    "last:2 best:5:loss:min:weights": Last(2) | Best(5, "loss", "min").weights_only(),
    "last:1:weights every:2epochs:weights": (Last(1) | Every(epochs=2)).weights_only(),
    "last:9 cap:20GB": Last(9).capped(20 * 10**9),
    "cap:1.5kB last:9 best:2": (Last(9) | Best(2)).capped(1500),
    "last:9 cap:2GiB": Last(9).capped("2 GiB"),
    "last:2 (best:9 cap:1MB)": Last(2) | Best(9).capped("1MB"),
    "( last:2 ) (best:9)": Last(2) | Best(9),
    "((last:9 cap:2MB) cap:1MB)": Last(9).capped("2MB").capped("1MB"),
    "last:9:weights cap:1MB": Last(9).capped("1MB").weights_only(),
}


@pytest.mark.parametrize(("text", "expected"), TEXTS.items(), ids=TEXTS.keys())
def test_a_policy_may_be_text(text: str, expected: Retention) -> None:
    """For the command line and config files."""
    assert parse(text) == expected


WRONG = ["", " ", "last", "last:", "last:x", "last:0", "last:1:2", "best:1:loss", "best:1:loss:low", "first:1"]
WRONG += ["every:10", "every:xepochs", "within:3", "within:1days:year", "tagged:x", "last:2,best:1", "last:-1"]
WRONG += ["weights", "last:weights", "last:1:weight", "last:1 'best:1", "()", "within:infdays", "within:nanhours"]


@pytest.mark.parametrize("keep", TEXTS.values(), ids=TEXTS.keys())
def test_a_policy_writes_itself_as_text(keep: Retention) -> None:
    """For the events, and for `ckpt why`."""
    assert parse(str(keep)) == keep


def test_a_cap_writes_the_shortest_size() -> None:
    """Exact, in whatever unit."""
    sizes = {20 * 10**9: "20GB", 1500: "1500B", 2**31: "2GiB", 10**6: "1MB", 7: "7B", 10**15: "1PB"}
    assert {size: str(Last(1).capped(size)) for size in sizes} == {
        size: f"last:1 cap:{text}" for size, text in sizes.items()
    }


CAPS = ["cap:20GB", "last:1 cap:20", "last:1 cap:1GB cap:2GB", "last:1 cap:-1GB", "last:1 (", "last:1)", "last:1 cap:"]


@pytest.mark.parametrize("text", CAPS)
def test_a_cap_or_parentheses_that_mean_nothing_are_refused(text: str) -> None:
    """A cap alone says how much to keep, and not what."""
    with pytest.raises(InvalidOption, match=r"a cap of|one cap|without|says how much"):
        parse(text)


def test_what_is_no_retention_is_refused() -> None:
    """Neither a policy nor text."""
    with pytest.raises(InvalidOption, match="expected a retention such as"):
        checked(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unsupported operand"):
        Last(1) | 3  # type: ignore[operator]


@pytest.mark.parametrize("text", WRONG)
def test_text_that_is_no_policy_is_refused(text: str) -> None:
    """With the forms that there are, or what is wrong with the number."""
    with pytest.raises(InvalidOption, match=r"not a retention|empty retention|keeps 1 checkpoint"):
        parse(text)


def test_best_takes_the_monitor_where_it_names_no_metric() -> None:
    """Also inside a union; one that names its own keeps it."""
    keep = (Last(1) | Best(2) | Best(1, "acc", "max")).bound_to(Monitor("loss", "min"))
    assert keep == Last(1) | Best(2, "loss", "min") | Best(1, "acc", "max")


def test_best_without_metric_and_monitor_is_refused() -> None:
    """What to write is said."""
    with pytest.raises(InvalidOption, match=r'write Best\(2, "val_loss", mode="min"\)'):
        (Last(1) | Best(2)).bound_to(None)


def test_a_store_plans_for_all_its_runs(store: Store) -> None:
    """Each run by its own checkpoints, and by its own monitor."""
    for name in ("a", "b"):
        for epoch in range(3):
            store.run(name).save({"loop": {}}, epoch=epoch, metrics={"loss": float(epoch)}).wait()
    store.record_event("a", "start", monitor="loss", mode="min")
    store.record_event("b", "start", monitor="loss", mode="max")
    plan = store.plan("best:1")
    assert [each.checkpoint.ref for each in plan.decisions if each.keep] == ["a@v1", "b@v3"]
    assert [each.ref for each in plan.removed] == ["a@v2", "a@v3", "b@v1", "b@v2"]


def test_the_moment_of_a_plan_can_be_given(store: Store) -> None:
    """A day later nothing is recent any more."""
    run = store.run("r")
    run.save({"loop": {}}).wait()
    later = datetime.now(timezone.utc) + timedelta(days=2)
    assert [each.keep for each in run.plan(Within(days=1)).decisions] == [True]
    assert [each.keep for each in run.plan(Within(days=1), now=later).decisions] == [False]
