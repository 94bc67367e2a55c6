"""Checkpoints of weights only: what they keep and lose, that they are never half of either, and who may resume."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ckpt_tracker import Checkpoint, Store
from ckpt_tracker.disk import filesystem
from ckpt_tracker.errors import CheckpointGone, CheckpointNotFound, StateMismatch
from ckpt_tracker.files import objects as object_files
from ckpt_tracker.files.objects import SMALL
from ckpt_tracker.tracker import Tracker

LARGE = 2 * SMALL
KEEP = "last:1 best:9:loss:min:weights"


def _bytes(seed: int) -> object:
    return np.random.default_rng(seed).integers(0, 256, LARGE, dtype=np.uint8)


def _state(seed: int) -> dict[str, object]:
    """Each third of it large; small tensors and plain values besides."""
    small = np.full(5, seed, dtype=np.float32)
    moments = {"m": _bytes(100 + seed), "v": _bytes(200 + seed), "step": np.array(seed)}
    return {
        "optimizer": moments,
        "model": {"w": _bytes(seed), "small": small, "tied": small, "scale": 2.5},
        "loop": {"seed": seed},
        "architecture": {"class": "Linear", "bias": 100 - small},
    }


def _save(store: Store, count: int = 3) -> list[Checkpoint]:
    run = store.run("r", {"lr": 0.1})
    return [run.save(_state(seed), epoch=seed, metrics={"loss": seed / 10}).wait() for seed in range(count)]


@pytest.fixture
def saved(store: Store) -> list[Checkpoint]:
    """Three checkpoints that share no large object."""
    return _save(store)


def test_the_weights_stay_and_the_rest_goes(
    store: Store, saved: list[Checkpoint], same: Callable[[object, object], bool]
) -> None:
    """What predictions need is bit for bit what it was, tied weights stay tied; two thirds are freed."""
    assert store.evict(store.plan(KEEP)) == 2 * 2 * LARGE
    found = store["r@v1"]
    state = found.load()
    assert same({name: _state(0)[name] for name in ("model", "architecture")}, state)
    assert state["model"]["small"] is state["model"]["tied"]
    assert (found.weights_only, found.sections, found.nbytes) == (True, ("model", "architecture"), LARGE + 40)
    assert (found.epoch, dict(found.metrics), found.created_at) == (0, {"loss": 0.0}, saved[0].created_at)
    assert same(_state(2), store["r@v3"].load())
    assert store.verify(deep=True).ok


def test_the_digest_is_that_of_the_weights(store: Store, saved: list[Checkpoint]) -> None:
    """As if only they had been saved; what it was when it was whole is remembered."""
    store.evict(store.plan(KEEP))
    weights = {name: _state(0)[name] for name in ("model", "architecture")}
    alone = store.run("s").save(weights).wait()
    record = store["r@v1"].record
    assert (record.digest, record.full_digest) == (alone.digest, saved[0].digest)


def test_it_is_the_same_after_the_index_is_lost(store: Store, saved: list[Checkpoint], path: Path) -> None:
    """The manifest says it."""
    store.evict(store.plan(KEEP))
    expected = [each.record for each in store.run("r").checkpoints()]
    store.close()
    (path / "index.sqlite").unlink()
    with Store(path) as again:
        assert [each.record for each in again.run("r").checkpoints()] == expected


@pytest.mark.parametrize("back", [False, True], ids=["stripped", "restored"])
def test_an_index_that_is_behind_learns_of_it(store: Store, saved: list[Checkpoint], path: Path, *, back: bool) -> None:
    """A process that died before it told the index, or that has an index of its own."""
    if back:
        store.apply(store.plan(KEEP))
    store.close()
    shutil.copy(path / "index.sqlite", path.parent / "old.sqlite")
    with Store(path) as again:
        again.undo() if back else again.evict(again.plan(KEEP))
        expected = [each.record for each in again.run("r").checkpoints()]
    os.replace(path.parent / "old.sqlite", path / "index.sqlite")
    with Store(path) as again:
        assert [each.record for each in again.run("r").checkpoints()] == expected
        assert [each.weights_only for each in again.run("r").checkpoints()] == [not back, not back, False]


def test_a_plan_applied_twice_strips_once(store: Store, saved: list[Checkpoint]) -> None:
    """Neither the same plan nor a new one finds more to take."""
    plan = store.plan(KEEP)
    assert [each.version for each in plan.stripped] == [1, 2]
    store.evict(plan)
    before = [each.record for each in store.run("r").checkpoints()]
    assert store.evict(plan) == 0
    assert store.plan(KEEP).stripped == ()
    assert [each.record for each in store.run("r").checkpoints()] == before


def test_a_plan_counts_what_stripping_frees(store: Store, saved: list[Checkpoint]) -> None:
    """Exactly: the small tensors of the optimizer lie in one object with those of the model."""
    plan = store.plan(KEEP)
    assert plan.freed_bytes == 2 * 2 * LARGE
    assert store.evict(plan) == plan.freed_bytes


def test_a_person_can_have_the_rest_back(
    store: Store, saved: list[Checkpoint], same: Callable[[object, object], bool]
) -> None:
    """Until the trash is emptied; then the weights are all there is."""
    store.apply(store.plan(KEEP))
    assert store["r@v1"].weights_only
    assert [(each.checkpoint.ref, each.stripped) for each in store.trash()] == [("r@v1", True), ("r@v2", True)]
    assert [each.ref for each in store.undo()] == ["r@v1", "r@v2"]
    assert same(_state(0), store["r@v1"].load())
    assert store["r@v1"].record == saved[0].record
    store.apply(store.plan(KEEP))
    assert store.empty_trash() == 2 * 2 * LARGE
    assert store["r@v1"].verify().ok
    with pytest.raises(CheckpointNotFound):
        store.undo()


def test_what_is_stripped_and_then_removed_comes_back_whole(store: Store, saved: list[Checkpoint]) -> None:
    """The trash keeps the fuller one of the two."""
    store.apply(store.plan(KEEP))
    store.remove(store["r@v1"])
    assert [(each.checkpoint.ref, each.stripped) for each in store.trash()] == [("r@v1", False), ("r@v2", True)]
    assert [each.ref for each in store.undo("r@v1")] == ["r@v1"]
    assert store["r@v1"].record == saved[0].record


def test_a_held_checkpoint_says_what_is_gone(
    store: Store, saved: list[Checkpoint], same: Callable[[object, object], bool]
) -> None:
    """Never a part of a state as if it were all of it."""
    store.evict(store.plan(KEEP))
    for section in (None, "optimizer"):
        with pytest.raises(CheckpointGone, match="r@v1 holds its weights only by now, in model, architecture"):
            saved[0].load(section)
    assert same(_state(0)["model"], saved[0].load("model"))


def test_a_state_without_a_model_stays_whole(store: Store) -> None:
    """Nobody knows which part of it is weights."""
    run = store.run("r")
    for seed in range(2):
        run.save({"generator": {"w": _bytes(seed)}, "loop": {}}, epoch=seed).wait()
    plan = store.plan("last:9:weights")
    assert (plan.stripped, plan.removed, plan.freed_bytes) == ((), (), 0)


@pytest.fixture
def stripped(path: Path) -> Path:
    """A run of which only the middle one is whole: the newest has its weights only."""
    with Store(path) as store:
        _save(store)
        store.evict(store.plan("best:9:loss:max:weights"))
        store.run("r").save(_state(3), epoch=3, metrics={"loss": 0.3}).wait()
        store.run("r").save(_state(4), epoch=4, metrics={"loss": 0.4}).wait()
        store.run("r").tag("whole", store["r@v4"])
        store.evict(store.plan("best:9:loss:max:weights"))
    return path


def test_a_training_resumes_from_the_newest_whole_one(stripped: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And says which it passed over."""
    tracker = Tracker(stripped, "r")
    resumed = tracker.begin()
    tracker.close()
    assert resumed is not None
    assert resumed.ref == "r@v4"
    assert "r@v5 is skipped: it holds its weights only" in caplog.messages


@pytest.mark.parametrize("resume", ["last", "best", "r@v5"])
def test_a_training_that_names_weights_is_told_what_they_are(stripped: Path, resume: str) -> None:
    """It must not go on with a fresh optimizer as if nothing had happened."""
    tracker = Tracker(stripped, "r", monitor="loss", mode="max", resume=resume)
    with pytest.raises(
        StateMismatch, match=r"r@v5 holds its weights only \(model, architecture; .*resume='auto' takes"
    ):
        tracker.begin()


def test_a_run_of_weights_alone_does_not_start_anew_by_itself(path: Path) -> None:
    """Somebody would think that it went on."""
    with Store(path) as store:
        _save(store)
        store.evict(store.plan("last:9:weights"))
    with pytest.raises(StateMismatch, match="resume='never' starts from scratch"):
        Tracker(path, "r").begin()
    tracker = Tracker(path, "r", resume="never")
    assert tracker.begin() is None
    tracker.close()


def test_a_tracker_strips_what_its_retention_says(path: Path) -> None:
    """At once, and never its newest, though that is kept for its weights only."""
    tracker = Tracker(path, "r", monitor="loss", mode="max", keep="best:3:weights")
    tracker.begin()
    for epoch in range(5):
        newest = tracker.save(_state(epoch), epoch=epoch, step=epoch, metrics={"loss": epoch / 10}).wait()
        assert set(newest.load()) == set(_state(0))
    tracker.close()
    with Store(path) as store:
        assert [(each.version, each.weights_only) for each in store.run("r").checkpoints()] == [
            (3, True),
            (4, True),
            (5, False),
        ]
        assert len(list(store.objects.names())) == 3 + 3 + 2
        assert store.verify(deep=True).ok


# -- a kill at any moment ------------------------------------------------------------------------------------


def _dies_at(last: int, path: Path, act: Callable[[Store], object]) -> bool:
    """Does it in a forked process that dies at its step of that number; False where it comes to its end before."""
    child = os.fork()
    if not child:
        with Store(path) as store:
            store.index.runs()
            steps = itertools.count(1)

            def counted(call: Callable[..., object]) -> Callable[..., object]:
                def step(*arguments: object, **named: object) -> object:
                    return os._exit(9) if next(steps) == last else call(*arguments, **named)

                return step

            for name in ("replace", "unlink", "fsync"):
                setattr(os, name, counted(getattr(os, name)))
            act(store)
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize(
    "act", [lambda store: store.evict(store.plan(KEEP)), lambda store: store.apply(store.plan(KEEP))]
)
def test_a_kill_at_any_step_leaves_each_checkpoint_whole_or_stripped(
    path: Path, act: Callable[[Store], object], same: Callable[[object, object], bool]
) -> None:
    """One of the two, verified, also after a gc; and the one that was not concerned as it was."""
    with Store(path) as store:
        _save(store)
    shutil.copytree(path, path.parent / "before")
    weights = {name: _state(0)[name] for name in ("model", "architecture")}
    seen, step, died = [], 0, True
    while died:
        step += 1
        died = _dies_at(step, path, act)
        with Store(path) as store:
            store.gc()
            first = store["r@v1"]
            assert same(weights if first.weights_only else _state(0), first.load())
            assert same(_state(2), store["r@v3"].load())
            assert store.verify(deep=True).ok
        seen.append(first.weights_only)
        shutil.rmtree(path)
        shutil.copytree(path.parent / "before", path)
    assert step > 5
    assert seen == sorted(seen)
    assert set(seen) == {False, True}


def test_a_save_trusts_no_object_that_its_stripped_forerunner_gave_up(
    store: Store, saved: list[Checkpoint], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may have made it again, and not have come to sync it: then this save does."""
    with Store(path) as other:
        objects = {name: other.objects.path(name).read_bytes() for name in other.reclaimer.footprint(saved[2].record)}
        other.apply(other.plan("last:1:weights"))
        other.empty_trash()
        given_up = [other.objects.path(name) for name in objects if other.objects.size(name) is None]
        for each in given_up:
            each.write_bytes(objects[each.name])
    synced: list[Path] = []
    monkeypatch.setattr(object_files, "sync_path", lambda each: (synced.append(each), filesystem.sync_path(each)))
    again = store.run("r").save(_state(2)).wait()
    assert len(given_up) == 2
    assert set(given_up) <= set(synced)
    assert again.verify().ok
