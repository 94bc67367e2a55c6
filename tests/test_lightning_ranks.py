"""Lightning on two ranks: one writes, each gets back what it had of its own, and they decide together."""

import signal

import pytest
from lightning_processes import trainings

from ckpt_tracker import Store

WITHIN = {"every": ["1 epoch", "1 step"]}


def on_two(**case):
    """A training on two ranks, with schedulers, callbacks and BatchNorm that differ between them."""
    trainer = {"devices": 2, "strategy": "ddp", "max_epochs": 3, **case.pop("trainer", {})}
    return {"scheduler": "plateau", "sync": False, "ddp": {"broadcast_buffers": False}, "trainer": trainer, **case}


def went_on(case, folder, *, first, ended):
    """What is left by a training that was ended so and begun again, and by a whole one."""
    process = trainings()
    status, whole = process.fit(case, folder / "whole", seed=1)
    assert status == [0, 0], process.errors()
    status, _ = process.fit(case, folder / "ended", seed=1, **first)
    assert status == ended, process.errors()
    status, resumed = process.fit(case, folder / "ended", seed=5)
    assert status == [0, 0], process.errors()
    return {key: resumed.get(key) for key in whole}, whole


@pytest.mark.parametrize(
    ("case", "kill"),
    [
        (on_two(scheduler="drifting"), [2, 1]),
        (on_two(**WITHIN), [1, 1]),
        (on_two(scheduler="onecycle", sync=True, ddp={}), [1, 1]),
    ],
    ids=["an epoch's end", "inside an epoch", "nothing differs"],
)
def test_killed_ranks_leave_the_same_checkpoints(case, kill, tmp_path):
    """Random states, data, scheduler, callbacks and buffers: each rank has its own again."""
    resumed, whole = went_on(case, tmp_path, first={"kill": kill}, ended=[-signal.SIGKILL] * 2)

    assert resumed == whole


def test_what_ranks_have_of_their_own_is_in_the_checkpoint(tmp_path):
    """And nothing of what they have alike."""
    process = trainings()
    process.fit(on_two(), tmp_path / "own", seed=1)
    process.fit(on_two(scheduler="step", sync=True, ddp={}), tmp_path / "alike", seed=1)
    with Store(tmp_path / "own") as store:
        first, second = store["run@epoch:0"].load("ranks")
    with Store(tmp_path / "alike") as store:
        sections = store["run@epoch:0"].sections

    assert first == []
    assert {"state_dict", "lr_schedulers", "callbacks"} <= {path[0] for path, _ in second}
    assert "ranks" not in sections


@pytest.mark.parametrize("rank", [0, 1])
def test_the_death_of_one_rank_is_survived(rank, tmp_path):
    """The other one fails, and all of them begin again."""
    ended = [1, 1]
    ended[rank] = -signal.SIGKILL
    resumed, whole = went_on(on_two(), tmp_path, first={"kill": [2, 1], "rank": rank}, ended=ended)

    assert resumed == whole


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("where", ["train", "validation"])
def test_a_signal_to_one_rank_is_one_to_all(rank, where, tmp_path):
    """They save at the same step, and leave together."""
    first = {"disturb": [[where, 1, 1, "SIGTERM"]], "rank": rank}
    resumed, whole = went_on(on_two(), tmp_path, first=first, ended=[143, 143])
    with Store(tmp_path / "ended") as store:
        reasons = [(each.reason, each.step) for each in store.run("run").checkpoints() if each.reason == "SIGTERM"]

    assert resumed == whole
    assert reasons == [("SIGTERM", 4)]


def test_a_signal_to_both_ranks_is_one(tmp_path):
    """As a batch system sends it."""
    disturb = [["train", 1, 0, "SIGTERM"]]
    resumed, whole = went_on(on_two(), tmp_path, first={"disturb": disturb}, ended=[143, 143])

    assert resumed == whole


def test_another_number_of_ranks_is_refused(tmp_path):
    """Each has random states and data of its own."""
    process = trainings()
    process.fit(on_two(), tmp_path, seed=1)
    alone = on_two(trainer={"devices": 1, "max_epochs": 4})
    status, _ = process.fit(alone, tmp_path, seed=1)

    assert status == 1
    assert "world_size: 2 before, 1 now" in process.errors()
