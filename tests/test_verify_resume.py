"""A real PyTorch training, killed and started again: it resumes exactly, or what it lost is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ckpt_tracker.testing import assert_exact_resume

SCRIPT = Path(__file__).parent / "scripts" / "resuming_torch.py"


def failure(lost, *, kill_after):
    """What is said of the training that loses something."""
    with pytest.raises(AssertionError) as failed:
        assert_exact_resume([sys.executable, SCRIPT, lost], kill_after=kill_after)
    return str(failed.value)


def test_a_training_that_hands_everything_over_resumes_exactly():
    """At a random moment: shuffled by a generator of its own, with dropout, BatchNorm, a schedule and an average."""
    report = assert_exact_resume([sys.executable, SCRIPT], seed=2)

    assert report.kills[0].resumed_from == f"toy@v{report.kills[0].after}"
    assert report.compared >= 1
    assert report.notes == ()


LOST = {
    "generator": (
        3,
        "holds the random generator numpy Generator (PCG64) `RNG in resuming_torch.py`",
        'extra={"RNG": ...}',
    ),
    "order": (3, "holds the random generator torch.Generator `DataLoader.generator`", "tracker.batches(loader)"),
    "scheduler": (3, "holds the scheduler ExponentialLR `scheduler in main()`", "scheduler="),
    "buffer": (3, "holds the buffer (persistent=False) Tensor `Centred.mean`", "persistent=True"),
    "average": (3, "holds the weights' average AveragedModel `average in main()`", "ema="),
}


@pytest.mark.parametrize("lost", LOST)
def test_what_is_not_handed_over_is_named(lost):
    """A generator, a scheduler, the average of the weights: as the one cause, with the keyword that takes it."""
    kill_after, cause, remedy = LOST[lost]
    told = failure(lost, kill_after=kill_after)

    assert cause in told
    assert told.count("likely cause") == 1
    assert remedy in told


def test_a_training_that_nobody_seeded_is_no_failure_to_resume():
    """Two whole trainings differ already, and the generator is named."""
    told = failure("seed", kill_after=1)

    assert told.startswith("not deterministic")
    assert "torch's own generator: in another state in each training" in told
