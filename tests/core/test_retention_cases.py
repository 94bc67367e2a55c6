"""Retention worked out by hand: budgets, weights only, equal times, thinning with a best, several runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone

import pytest

from ckpt_tracker.records import CheckpointRecord, Monitor
from ckpt_tracker.retention import decide, parse

NOW = datetime(2026, 11, 21, 12, 30, tzinfo=timezone.utc)  # a Saturday
_CHECKPOINT = re.compile(r"(?P<loss>[^@*#!]+)(@(?P<age>[^*#!]+))?(\*(?P<size>\d+))?(#(?P<tag>\w+))?(?P<pin>!)?")


def _history(text: str, *, run: str = "r") -> list[CheckpointRecord]:
    """`LOSS@AGE*SIZE#TAG!` for each: hours ago (the last 1, one before the other), 10 bytes, no tag, no pin."""
    words = text.split()
    found = []
    for version, word in enumerate(words, start=1):
        match = _CHECKPOINT.fullmatch(word)
        assert match, word
        age = float(match["age"] or len(words) + 1 - version)
        found.append(
            CheckpointRecord(
                run=run,
                version=version,
                epoch=version - 1,
                step=10 * version,
                metrics={} if match["loss"] == "-" else {"loss": float(match["loss"])},
                created_at=NOW - timedelta(hours=age),
                digest="",
                nbytes=int(match["size"] or 10),
                stored_bytes=0,
                sections=("model", "optimizer"),
                tags=(match["tag"],) if match["tag"] else (),
                pinned=bool(match["pin"]),
            )
        )
    return found


def _kept(keep: str, records: list[CheckpointRecord], monitors: Mapping[str, Monitor] | None = None) -> str:
    decisions = decide(parse(keep), records, now=NOW, monitors=monitors)
    names = {each.checkpoint.run for each in decisions}
    return " ".join(
        f"{each.checkpoint.run if len(names) > 1 else ''}{each.checkpoint.version}{'w' if each.weights_only else ''}"
        for each in decisions
        if each.keep
    )


FIVE = "0.5 0.1 0.4 0.3 0.2"
CASES: dict[str, tuple[str, str, str]] = {
    # ties and equal times
    "a tie goes to the earlier": ("best:1:loss:min", "0.3 0.1 0.1", "2"),
    "all are equal": ("best:2:loss:max", "0.5 0.5 0.5", "1 2"),
    "zero and minus zero are equal": ("best:1:loss:min", "0 -0.0 0", "1"),
    "of equal times the later version is the last": ("last:1", "1@2 1@2", "2"),
    "of equal times the later version stands for the hour": ("within:3hours:hour", "1@2 1@2 1@2", "3"),
    "of equal times the later version is dropped last": ("every:1epoch cap:20B", "1@2 1@2 1@2", "2 3"),
    "the edge of a span is inside": ("within:2hours", "1@2 1@2.1", "1"),
    "a clock that went back": ("last:1", "1@1 1@5", "2"),
    "a clock that went back, within an hour": ("within:2hours:hour", "1@1 1@1.5", "2"),
    "a time to come is recent": ("within:1hours", "1@-5", "1"),
    # missing and odd metrics
    "missing ones are kept beside the best": ("best:2:loss:min", "- 0.5 -", "1 2 3"),
    "missing ones are worth less than ranked ones": ("best:1:loss:min cap:10B", "- 0.5 -", "2"),
    "nan alone is nothing": ("best:1:loss:min", "nan nan", ""),
    "nan and infinity among others": ("last:1 best:1:loss:min", "nan inf 0.7 nan", "3 4"),
    "nan for the lowest and the highest": ("best:1:loss:min best:1:loss:max", "nan 0.5 0.1 nan", "2 3"),
    "the best of zero and less": ("best:2:loss:max", "-1 -0.5 0 -inf", "2 3"),
    "a metric that all lack": ("best:2:loss:min", "- - - -", "3 4"),
    "a metric that the newest lacks": ("last:1 best:1:loss:min", "0.1 0.2 -", "1 3"),
    # expressions
    "an expression": ("best:1:2*loss-1:max", FIVE, "1"),
    "the nearest to a value": ("best:2:abs(loss-0.25):min", FIVE, "4 5"),
    "a tie of an expression": ("best:1:abs(loss-0.375):min", "1 0.5 2 0.25", "2"),
    "later ones count more": ("best:1:loss-0.02*step:min", FIVE, "5"),
    "a condition": ("'best:1:loss where epoch >= 2:min'", FIVE, "5"),
    "a condition that none meets": ("'best:1:loss where loss < 0:min' last:1", FIVE, "5"),
    "a division by zero": ("best:2:1/loss:max", "0 0.5 0.1", "2 3"),
    "infinity, turned into a number": ("best:1:1/loss:min", "0.5 inf 0.25", "1"),
    "logarithms of negatives": ("best:3:log(loss):min", "-1 0 0.5 1", "3 4"),
    "an expression that lacks a metric": ("best:1:loss+acc:min", "0.5 0.1 0.4", "3"),
    "by size": ("best:1:size_mb:min last:1", "1*30 1*5 1*20", "2 3"),
    # a budget
    "a budget that holds all": ("last:5 cap:50B", FIVE, "1 2 3 4 5"),
    "one byte less": ("last:5 cap:49B", FIVE, "2 3 4 5"),
    "a budget for one": ("last:5 cap:10B", FIVE, "5"),
    "a budget smaller than the newest": ("last:5 cap:9B", FIVE, ""),
    "a tag stays in any budget": ("last:5 cap:1B", "1#paper 1 1", "1"),
    "a tag counts first": ("last:5 cap:30B", "1#paper 1 1 1 1", "1 4 5"),
    "a pin counts first": ("last:5 cap:30B", "1! 1 1 1 1", "1 4 5"),
    "last and best, room for all": ("last:2 best:2:loss:min cap:30B", FIVE, "2 4 5"),
    "last and best, room for the first of each": ("last:2 best:2:loss:min cap:20B", FIVE, "2 5"),
    "last and best, room for one": ("last:2 best:2:loss:min cap:10B", FIVE, "5"),
    "the best before the oldest": ("every:1epoch best:1:loss:min cap:30B", FIVE, "2 4 5"),
    "a newest too large for the budget": ("last:3 cap:25B", "1 1 1*30", ""),
    "a newest that leaves no room": ("last:3 cap:35B", "1 1 1*30", "3"),
    "a newest that leaves room for a small one": ("last:3 cap:35B", "1 1*5 1*30", "2 3"),
    "a small one never stands in for a more valuable one": ("last:3 cap:25B", "1*5 1*20 1*10", "3"),
    "what costs nothing is not dropped": ("last:3 cap:10B", "1*0 1*20 1*10", "1 3"),
    "beside the budget": ("last:1 (every:1epoch cap:20B)", FIVE, "4 5"),
    "a best beside the budget": ("best:1:loss:min (last:5 cap:10B)", FIVE, "2 5"),
    "a budget in a budget": ("(last:3 cap:20B) best:2:loss:min cap:30B", FIVE, "2 4 5"),
    "the smaller budget counts": ("((last:5 cap:40B) cap:20B)", FIVE, "4 5"),
    # thinning with a best
    "one a day, and the best": ("within:1days:day best:1:loss:min", "0.1@30 0.5@20 0.4@3 0.3@1", "1 2 4"),
    "one a week, and the best": ("within:7days:week best:1:loss:max", "1@160 3@100 2@40 0@1", "1 2 4"),
    "one an hour, the best, the last": (
        "within:3hours:hour best:1:loss:min last:1",
        "0.5@2.5 0.1@2 0.4@1.5 0.3@1 0.2@0.5",
        "2 4 5",
    ),
    "one an hour in a budget": ("within:3hours:hour cap:20B", "1@2.5 1@2 1@1.5 1@1 1@0.5", "4 5"),
    # weights only
    "weights of the best": ("last:1 best:2:loss:min:weights", FIVE, "2w 5"),
    "weights of all that is kept": ("best:2:loss:min:weights", FIVE, "2w 5w"),
    "what is tagged stays whole": ("best:2:loss:min:weights", "0.5 0.1#paper 0.4 0.3 0.2", "2 5w"),
    "what is pinned stays whole": ("best:2:loss:min:weights", "0.5 0.1! 0.4 0.3 0.2", "2 5w"),
    "what another keeps stays whole": ("best:1:loss:min best:2:loss:min:weights", FIVE, "2 5w"),
    "weights of every other epoch": ("every:2epochs:weights last:1", FIVE, "2w 4w 5"),
    "weights of the recent": ("within:2hours:weights last:1", FIVE, "4w 5"),
    "weights in a budget": ("last:1 best:3:loss:min:weights cap:20B", FIVE, "2w 5"),
}


@pytest.mark.parametrize(("keep", "history", "expected"), CASES.values(), ids=CASES.keys())
def test_retention_keeps_what_was_worked_out_by_hand(keep: str, history: str, expected: str) -> None:
    """Versions in their order; `w` stands for weights only."""
    assert _kept(keep, _history(history)) == expected


SEVERAL: dict[str, tuple[str, str]] = {
    "each its last": ("last:1", "a3 b2"),
    "each its best": ("best:1:loss:min", "a2 b2"),
    "each by its own monitor": ("best:1", "a2 b1"),
    "the last of each before any run's second": ("last:2 cap:20B", "a3 b2"),
    "the second of the run with the later version": ("last:2 cap:30B", "a2 a3 b2"),
    "room for all": ("last:2 cap:40B", "a2 a3 b1 b2"),
    "room for one": ("last:1 cap:10B", "a3"),
}


@pytest.mark.parametrize(("keep", "expected"), SEVERAL.values(), ids=SEVERAL.keys())
def test_several_runs_are_decided_together(keep: str, expected: str) -> None:
    """Counts are for each run, a cap is for all; the newest of both are of one time."""
    records = [*_history("0.5 0.1 0.4", run="a"), *_history("0.9 0.8", run="b")]
    assert _kept(keep, records, {"a": Monitor("loss", "min"), "b": Monitor("loss", "max")}) == expected


def test_what_is_shared_counts_once() -> None:
    """Each has 5 bytes of its own, and all have the same 20: four of them take 40."""
    records = _history("1 1 1 1 1")
    keep = parse("last:5 cap:40B")
    decisions = decide(
        keep, records, now=NOW, footprint=lambda record, weights_only=False: {"common": 20, record.ref: 5}
    )
    assert [each.checkpoint.version for each in decisions if each.keep] == [2, 3, 4, 5]


def test_weights_count_as_what_they_are() -> None:
    """A third of the bytes: the newest whole, and the weights of three others."""
    records = _history(FIVE)
    keep = parse("last:1 every:1epoch:weights cap:60B")
    decisions = decide(
        keep, records, now=NOW, footprint=lambda record, weights_only=False: {record.ref: 10 if weights_only else 30}
    )
    assert [(each.checkpoint.version, each.weights_only) for each in decisions if each.keep] == [
        (2, True),
        (3, True),
        (4, True),
        (5, False),
    ]


def test_the_order_of_dropping_is_told() -> None:
    """1 goes first; what spoke for it is told too."""
    decisions = decide(parse("last:3 best:1:loss:min cap:10B"), _history(FIVE), now=NOW)
    assert {each.checkpoint.version: each.reasons for each in decisions if each.reasons} == {
        2: ("dropped-3 cap:10B (best-1 loss=0.1)",),
        3: ("dropped-1 cap:10B (last-3)",),
        4: ("dropped-2 cap:10B (last-2)",),
        5: ("last-1",),
    }


def test_what_is_kept_always_counts_first_and_stays_whole() -> None:
    """As a tracker's newest: here it takes the whole budget."""
    records = _history("0.1 0.5*100")
    (best, newest) = decide(parse("best:1:loss:min:weights cap:50B"), records, now=NOW, always={("r", 2): "newest"})
    assert (best.keep, best.reasons) == (False, ("dropped-1 cap:50B (best-1 loss=0.1)",))
    assert (newest.keep, newest.reasons, newest.weights_only) == (True, ("newest",), False)


@pytest.mark.parametrize("sections", [("model",), ("model", "ema"), ("weights", "optimizer")])
def test_what_has_nothing_to_give_up_stays_as_it_is(sections: tuple[str, ...]) -> None:
    """Weights alone, or a state without a section `model`: nobody knows which part of it is weights."""
    (record,) = _history("0.1")
    bare = CheckpointRecord(**{**vars(record), "sections": sections})
    (decision,) = decide(parse("last:1:weights"), [bare], now=NOW)
    assert (decision.keep, decision.weights_only) == (True, False)
