"""Signals and errors during a Lightning training: what is saved, how it ends, and what a restart makes of it."""

import signal

import pytest
from lightning_processes import trainings

from ckpt_tracker import Store

EMA = {"callbacks": ["EMAWeightAveraging"]}
ACCUMULATING = {"trainer": {"accumulate_grad_batches": 3}}
TWO_VALIDATIONS = {"scheduler": "plateau", "trainer": {"val_check_interval": 2}}
# in the last epoch the training is through, and the signal is raised again after it
ENDINGS = {"last": -signal.SIGTERM, "SIGTERM": 143, "SIGUSR1": 138, "SIGINT": 1}

# what is trained, where the signal comes, (reason, inside a validation, step) of the emergency checkpoint
INTERRUPTED = {
    "inside an epoch": ({}, ["train", 1, 1, "SIGTERM"], ("SIGTERM", False, 6)),
    "before the first step": ({}, ["train", 0, 0, "SIGUSR1"], ("SIGUSR1", False, 1)),
    "by the keyboard": ({}, ["train", 1, 1, "SIGINT"], ("KeyboardInterrupt", False, 6)),
    "gathering gradients": (ACCUMULATING, ["train", 1, 0, "SIGTERM"], ("SIGTERM", False, 3)),
    "in the last batch": ({}, ["train", 1, 3, "SIGTERM"], ("SIGTERM", True, 8)),
    "in a validation": ({"scheduler": "plateau"}, ["validation", 1, 2, "SIGTERM"], ("SIGTERM", True, 8)),
    "in the last of a validation": ({}, ["validation", 1, 3, "SIGTERM"], ("SIGTERM", True, 8)),
    "in a validation inside an epoch": (TWO_VALIDATIONS, ["validation", 1, 1, "SIGTERM"], ("SIGTERM", True, 6)),
    "in a validation of averaged weights": (EMA, ["validation", 1, 1, "SIGTERM"], ("SIGTERM", True, 8)),
    "in a validation, with workers": (
        {"workers": 2, "generator": True},
        ["validation", 1, 1, "SIGTERM"],
        ("SIGTERM", True, 8),
    ),
    "in a validation, from a stream": (
        {"data": "stream", "trainer": {"val_check_interval": 2}},
        ["validation", 1, 1, "SIGTERM"],
        ("SIGTERM", True, 6),
    ),
    "as a validation ends": ({}, ["validation end", 1, 0, "SIGTERM"], ("SIGTERM", False, 8)),
    "as an epoch ends": ({}, ["epoch end", 1, 0, "SIGTERM"], ("SIGTERM", False, 8)),
    "as the last epoch ends": ({}, ["epoch end", 3, 0, "SIGTERM"], ("SIGTERM", False, 16)),
}


def newest(store):
    """Why the newest checkpoint was taken, and whether inside a validation."""
    with Store(store, create=False) as opened:
        last = opened["run@last"]
        return last.reason, last.load("loop")["redo"], last.step


@pytest.mark.parametrize("name", INTERRUPTED)
def test_a_training_that_was_told_to_stop_goes_on_exactly(name, tmp_path):
    """It saves at the next consistent point, ends as the signal asks, and a restart leaves what a whole one does."""
    case, disturb, expected = INTERRUPTED[name]
    process = trainings()
    whole = process.whole(case, tmp_path)

    status, _ = process.fit(case, tmp_path / "told", seed=1, disturb=[disturb])
    ending = ENDINGS["last" if disturb[1] == 3 else disturb[-1]]
    assert (status, newest(tmp_path / "told")) == (ending, expected), process.errors()

    status, resumed = process.fit(case, tmp_path / "told", seed=2)
    assert status == 0, process.errors()
    assert {key: resumed.get(key) for key in whole} == whole


def test_a_second_signal_ends_at_once(tmp_path):
    """Nothing is waited for."""
    process = trainings()
    status, _ = process.fit({}, tmp_path / "store", seed=1, disturb=[["train", 1, 1, "SIGTERM SIGTERM"]])

    with Store(tmp_path / "store", create=False) as store:
        reasons = {each.reason for each in store.run("run").checkpoints()}

    assert status == -signal.SIGTERM
    assert reasons <= {"1 epoch"}


def test_a_training_with_a_handler_of_its_own_goes_on(tmp_path):
    """The script decides how its training ends; the checkpoint is taken all the same, in a validation too."""
    process = trainings()
    whole = process.whole({}, tmp_path)
    disturb = [["train", 1, 1, "SIGTERM"], ["validation", 2, 1, "SIGTERM"]]
    status, digests = process.fit({"handler": True}, tmp_path / "own", seed=1, disturb=disturb)
    with Store(tmp_path / "own", create=False) as store:
        reasons = [each.reason for each in store.run("run").checkpoints()]

    assert status == 0
    assert reasons == ["1 epoch", "SIGTERM", "1 epoch", "SIGTERM", "1 epoch", "1 epoch"]
    assert {key: digests.get(key) for key in whole} == whole


def test_an_error_in_a_validation_costs_no_training(tmp_path):
    """The state from before the validation is saved, and a restart, with the cause gone, begins it again."""
    process = trainings()
    whole = process.whole({"scheduler": "plateau"}, tmp_path)
    case = {"scheduler": "plateau"}
    status, _ = process.fit(case, tmp_path / "failed", seed=1, disturb=[["validation", 1, 2, "error"]])
    assert (status, newest(tmp_path / "failed")) == (1, ("exception", True, 8)), process.errors()

    _, resumed = process.fit(case, tmp_path / "failed", seed=2)
    assert {key: resumed.get(key) for key in whole} == whole


@pytest.mark.parametrize(
    ("case", "breaks_at"), [({}, 52), ({"workers": 2}, 12), ({"data": "stream"}, 84)], ids=["here", "workers", "stream"]
)
def test_an_error_of_the_data_loader_costs_no_step(case, breaks_at, tmp_path):
    """All steps that were done are in the checkpoint, and the batch that could not be had is fetched again."""
    process = trainings()
    whole = process.whole(case, tmp_path)
    # each worker counts for itself
    status, _ = process.fit(case, tmp_path / "failed", seed=1, breaks_at=breaks_at)
    assert status == 1
    assert newest(tmp_path / "failed")[:2] == ("exception", False), process.errors()

    _, resumed = process.fit(case, tmp_path / "failed", seed=2)
    assert {key: resumed.get(key) for key in whole} == whole


def test_an_error_of_the_data_loader_at_an_epochs_begin_saves_nothing(tmp_path):
    """The epoch's end was saved, and there is nothing to add."""
    process = trainings()
    whole = process.whole({}, tmp_path)
    status, _ = process.fit({}, tmp_path / "failed", seed=1, breaks_at=65)
    assert (status, newest(tmp_path / "failed")) == (1, ("1 epoch", False, 8)), process.errors()

    assert process.fit({}, tmp_path / "failed", seed=2) == [0, whole]


def test_an_error_in_a_step_saves_nothing(tmp_path):
    """The state is then somewhere between two steps."""
    process = trainings()
    status, _ = process.fit({}, tmp_path / "failed", seed=1, disturb=[["train", 1, 2, "error"]])

    assert status == 1
    assert newest(tmp_path / "failed") == ("1 epoch", False, 4)
