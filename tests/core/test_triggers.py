"""Triggers: at which points of a training a checkpoint is due."""

from __future__ import annotations

import pytest

from ckpt_tracker.errors import InvalidOption
from ckpt_tracker.triggers import Schedule, Trigger, parse

TEXTS = {
    "1 epoch": Trigger(1, "epoch"),
    "10 epochs": Trigger(10, "epoch"),
    "500 steps": Trigger(500, "step"),
    "1step": Trigger(1, "step"),
    "10 minutes": Trigger(10, "minute"),
    "1.5 hours": Trigger(90, "minute"),
    "30 seconds": Trigger(0.5, "minute"),
    "  2   epochs ": Trigger(2, "epoch"),
}


@pytest.mark.parametrize(("text", "expected"), TEXTS.items(), ids=TEXTS.keys())
def test_a_trigger_is_text(text: str, expected: Trigger) -> None:
    """A number and a unit, singular or plural."""
    assert parse(text) == (expected,)


def test_there_may_be_several() -> None:
    """In the order given."""
    assert parse(["1 epoch", "10 minutes"]) == (Trigger(1, "epoch"), Trigger(10, "minute"))


WRONG = ["", "epoch", "1", "0 epochs", "-1 steps", "1.5 epochs", "0.5 steps", "1 day", "1 epoch 2", "nan minutes"]


@pytest.mark.parametrize("every", [*WRONG, [], [""], ["1 epoch", 5], 5, None, 1.5, b"1 epoch"], ids=repr)
def test_what_is_no_trigger_is_refused(every: object) -> None:
    """With an example of each form."""
    with pytest.raises(InvalidOption, match=r"every=.*(expected|write for example)"):
        parse(every)  # type: ignore[arg-type]


def test_a_trigger_reads_as_it_is_written() -> None:
    """Its text is the reason that a checkpoint records."""
    shown = [str(parse(text)[0]) for text in ("1 epoch", "10 epochs", "1 step", "2.5 minutes")]
    assert shown == ["1 epoch", "10 epochs", "1 step", "2.5 minutes"]


def test_epochs_count_finished_ones() -> None:
    """Every 10 epochs: 9, 19, ..."""
    schedule = Schedule(parse("10 epochs"))
    assert [epoch for epoch in range(30) if schedule.due(epoch=epoch, step=epoch)] == [9, 19, 29]


def test_an_epoch_trigger_is_never_due_inside_an_epoch() -> None:
    """Where no epoch has ended there is none to count."""
    schedule = Schedule(parse("1 epoch"))
    assert not any(schedule.due(step=step) for step in range(100))
    assert not schedule.within_epochs


def _saved_steps(schedule: Schedule, steps: range) -> list[int]:
    saved = []
    for step in steps:
        if schedule.due(step=step):
            saved.append(step)
            schedule.saved(step=step)
    return saved


def test_steps_are_due_at_multiples() -> None:
    """Whatever step the training started from."""
    schedule = Schedule(parse("5 steps"))
    schedule.start(step=0)
    assert _saved_steps(schedule, range(1, 17)) == [5, 10, 15]
    schedule.start(step=7)
    assert _saved_steps(schedule, range(8, 17)) == [10, 15]


def test_a_step_that_is_passed_over_is_due_at_the_next() -> None:
    """With gradient accumulation or several optimizers, steps come in twos."""
    schedule = Schedule(parse("5 steps"))
    schedule.start(step=0)
    assert _saved_steps(schedule, range(2, 22, 2)) == [6, 10, 16, 20]


def test_a_step_is_due_once() -> None:
    """Not again at the end of its epoch."""
    schedule = Schedule(parse(["5 steps", "1 epoch"]))
    schedule.start(step=0)
    assert schedule.due(step=5) == "5 steps"
    schedule.saved(step=5)
    assert schedule.due(step=5) is None
    assert schedule.due(step=5, epoch=0) == "1 epoch"


def test_minutes_are_counted_from_the_last_checkpoint() -> None:
    """Whichever trigger took it."""
    now = [0.0]
    schedule = Schedule(parse(["10 minutes", "1 epoch"]), clock=lambda: now[0])
    now[0] = 599.0
    assert schedule.due(step=1) is None
    now[0] = 600.0
    assert schedule.due(step=2) == "10 minutes"
    schedule.saved(step=2)
    now[0] = 900.0
    assert schedule.due(epoch=0, step=3) == "1 epoch"
    schedule.saved(step=3)
    now[0] = 1400.0
    assert schedule.due(step=4) is None
    now[0] = 1500.0
    assert schedule.due(step=4) == "10 minutes"
    assert schedule.within_epochs


def test_the_first_trigger_that_is_due_is_the_reason() -> None:
    """In the order given."""
    schedule = Schedule(parse(["1 epoch", "1 step"]))
    assert schedule.due(epoch=0, step=1) == "1 epoch"
