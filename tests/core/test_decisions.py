"""Decisions with their reasons, as golden files: `pytest tests/core/test_decisions.py --update` writes them anew."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from ckpt_tracker.records import CheckpointRecord, Decision, Monitor
from ckpt_tracker.retention import decide, parse

FOLDER = Path(__file__).parent / "decisions"
NOW = datetime(2026, 11, 21, 12, 30, tzinfo=timezone.utc)
MONITORS = {"mnist": Monitor("val_loss", "min"), "gan": Monitor("fid", "min")}
WHOLE = ("model", "optimizer", "loop")


def _record(run: str, version: int, metrics: dict[str, float], **fields: object) -> CheckpointRecord:
    """An epoch every two hours, the last two hours ago; 10 bytes each."""
    values: dict[str, object] = {
        "created_at": NOW - timedelta(hours=2 * (13 - version)),
        "sections": WHOLE,
        "nbytes": 10,
        **fields,
    }
    return CheckpointRecord(
        run=run,
        version=version,
        epoch=version - 1,
        step=100 * version,
        metrics=metrics,
        digest="",
        stored_bytes=0,
        **values,  # type: ignore[arg-type]
    )


LOSSES = [0.9, 0.5, math.nan, 0.3, 0.3, 0.4, math.inf, 0.25, 0.6, 0.25, 0.7, 0.35]
MNIST = [
    _record("mnist", 1, {"val_loss": 0.9}, tags=("baseline",)),
    _record("mnist", 2, {"val_loss": 0.5}, pinned=True),
    *(_record("mnist", version, {"val_loss": LOSSES[version - 1]}) for version in range(3, 12)),
    _record("mnist", 12, {"train_loss": 0.1}),
]
GAN = [_record("gan", version, {"fid": 30.0 - version}, nbytes=4) for version in (10, 11, 12)]
STRIPPED = _record("mnist", 4, {"val_loss": 0.3}, sections=("model",), nbytes=3, full_digest="00")

POLICIES = [
    "last:2",
    "last:3 best:2",
    "best:9",
    "best:1:train_loss:min",
    "every:4epochs last:1",
    "every:300steps",
    "within:9hours best:1",
    "within:7days:day best:1",
    "within:1days:hour",
    "tagged",
    "last:2 best:3:weights",
    "last:2:weights best:2 every:3epochs:weights",
    "last:3 best:3 every:4epochs cap:70B",
    "last:2 (every:1epoch cap:50B)",
    "last:1 best:3:weights cap:45B",
    "last:5 cap:1B",
    "last:1 best:2:1/val_loss:max",
    "best:2:val_loss+epoch/100:min 'best:1:step where val_loss < 0.4:max'",
    "best:2:log(val_loss-0.3):min:weights last:2",
]


def _line(decision: Decision) -> str:
    verdict = "keep" if decision.keep else "remove"
    verdict += " weights" if decision.weights_only else ""
    return f"{decision.checkpoint.ref:9} {verdict:12} {', '.join(decision.reasons)}".rstrip()


def _text(keep: str, records: list[CheckpointRecord]) -> str:
    decisions = decide(parse(keep), records, now=NOW, monitors=MONITORS)
    return "\n".join([keep, *map(_line, decisions), ""])


def _file(keep: str) -> Path:
    return FOLDER / f"{''.join(each if each.isalnum() else '_' for each in keep)}.txt"


@pytest.mark.parametrize("keep", POLICIES)
def test_decisions_are_those_that_somebody_has_read(keep: str, golden: Callable[[Path, str], None]) -> None:
    """Of one run whose newest checkpoint lacks the metric, with NaN, infinity, ties, a tag and a pin."""
    golden(_file(keep), _text(keep, MNIST))


def test_weights_that_hold_nan_are_kept_by_others_alone(golden: Callable[[Path, str], None]) -> None:
    """Of two with the best loss, one that is kept for another reason, and one that is not."""
    broken = {8: {"model.fc.weight": "nan"}, 9: {"model.a": "inf", "model.b": "inf"}, 12: {"model.a": "nan"}}
    records = [replace(each, nonfinite=broken.get(each.version, {})) for each in MNIST]
    golden(_file("broken"), _text("last:1 best:3 every:8epochs cap:60B", records))


def test_a_plan_for_several_runs_shares_the_cap(golden: Callable[[Path, str], None]) -> None:
    """Each run's first before any run's second; of equal rank the newer."""
    golden(_file("two runs"), _text("last:3 best:2 cap:48B", [*GAN, *MNIST]))


def test_what_has_its_weights_only_already_loses_nothing_more(golden: Callable[[Path, str], None]) -> None:
    """So a plan that is applied changes nothing when it is made again."""
    records = [STRIPPED if each.version == 4 else each for each in MNIST]
    golden(_file("stripped"), _text("last:1 best:5:weights", records))


def test_every_golden_file_is_of_a_test() -> None:
    """One that nobody compares says nothing."""
    names = {_file(keep).name for keep in [*POLICIES, "two runs", "stripped", "broken"]}
    assert {path.name for path in FOLDER.iterdir()} == names
