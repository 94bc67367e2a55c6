"""The core as the README shows it: a store, its runs, their checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from ckpt_tracker import Checkpoint, Run, Store
from ckpt_tracker.errors import InvalidOption
from ckpt_tracker.retention import Best, Last

STATE = {"model": {"w": np.arange(4.0)}, "optimizer": {"lr": 0.1}}


def test_the_readmes_core_example_works(tmp_path: Path, same: Callable[[object, object], bool]) -> None:
    """Each public name, used as written there."""
    with Store("checkpoints") as store:
        run = store.run("mnist", config={"lr": 1e-3})
        checkpoint = run.save(STATE, epoch=3, step=1200, metrics={"val_loss": 0.31})
        checkpoint.wait()
        assert checkpoint.ref == "mnist@v1"
        best, last = run.best("val_loss", mode="min"), run.last()
        assert best.ref == last.ref == "mnist@v1"
        assert same(STATE, best.load())
        assert same(STATE["model"], best.load("model"))
        assert store["mnist@best:val_loss:min"].metrics == {"val_loss": 0.31}
        assert [each.ref for each in run.checkpoints()] == ["mnist@v1"]
        assert [each.name for each in store.runs()] == ["mnist"]
        plan = run.plan(Last(2) | Best(3, "val_loss", mode="min"))
        assert [(each.checkpoint.ref, each.keep) for each in plan.decisions] == [("mnist@v1", True)]
        store.apply(plan)
        assert store.gc() == 0
        assert store.verify(deep=True).ok
    assert (tmp_path / "checkpoints" / "store.json").is_file()


def test_a_checkpoint_tells_everything_about_itself(store: Store) -> None:
    """The attributes that the design names, with their types."""
    before = datetime.now(timezone.utc)
    checkpoint = store.run("r").save(STATE, epoch=3, step=40, metrics={"loss": 0.5})
    assert isinstance(checkpoint, Checkpoint)
    assert (checkpoint.run, checkpoint.version, checkpoint.ref) == ("r", 1, "r@v1")
    assert (checkpoint.epoch, checkpoint.step, checkpoint.metrics) == (3, 40, {"loss": 0.5})
    assert checkpoint.sections == ("model", "optimizer")
    assert (checkpoint.nbytes, checkpoint.stored_bytes) == (32, 32)
    assert len(checkpoint.digest) == 64
    assert timedelta(0) <= checkpoint.created_at - before < timedelta(minutes=1)


def test_save_needs_nothing_but_a_state(store: Store) -> None:
    """Position and metrics may be left out."""
    checkpoint = store.run("r").save({"model": {}}).wait()
    found = store["r@last"]
    assert (found.epoch, found.step, found.metrics, found.ref) == (None, None, {}, checkpoint.ref)


def test_the_store_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$CKPT_TRACKER_STORE, where no path is given; else ./checkpoints."""
    with Store() as store:
        assert store.path == tmp_path / "checkpoints"
    monkeypatch.setenv("CKPT_TRACKER_STORE", str(tmp_path / "elsewhere"))
    with Store() as store:
        assert store.path == tmp_path / "elsewhere"
    with Store("given") as store:
        assert store.path == tmp_path / "given"


def test_a_store_keeps_its_place_when_the_working_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is meant from where the store was opened."""
    with Store("relative") as store:
        (tmp_path / "other").mkdir()
        monkeypatch.chdir(tmp_path / "other")
        store.run("r").save(STATE).wait()
        assert store["r@last"].verify().ok
    assert not (tmp_path / "other" / "relative").exists()


def test_a_store_can_be_moved(path: Path, tmp_path: Path) -> None:
    """Nothing in it knows where it lies."""
    with Store(path) as store:
        store.run("r").save(STATE).wait()
    os.rename(path, tmp_path / "moved")
    with Store(tmp_path / "moved") as store:
        assert store["r@last"].load("optimizer") == {"lr": 0.1}


def test_a_store_has_an_id_that_stays(path: Path) -> None:
    """And another store has another."""
    with Store(path) as store:
        first = store.id
    with Store(path) as store, Store("other") as other:
        assert store.id == first != other.id


def test_a_run_remembers_what_it_was_started_with(path: Path) -> None:
    """Config and environment are written once; opening the run again with another config does not change them."""
    with Store(path) as store:
        run = store.run("r", config={"lr": 1e-3, "shape": (2, 3), "device": Path("x")})
        assert isinstance(run, Run)
    with Store(path) as store:
        run = store.run("r", config={"lr": 5})
        assert run.config == {"lr": 1e-3, "shape": [2, 3], "device": "x"}
        assert run.record.environment["python"].count(".") == 2


def test_nothing_of_the_process_environment_is_recorded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hold secrets."""
    monkeypatch.setenv("SECRET_TOKEN", "hunter2hunter2")
    store.run("r").save(STATE).wait()
    assert not [file for file in store.path.rglob("*") if file.is_file() and b"hunter2" in file.read_bytes()]


def test_one_run_is_one_object_in_a_store(store: Store) -> None:
    """Asked for twice, found in the list: the same writer, the same lock."""
    run = store.run("r")
    assert store.run("r") is run
    assert store.runs() == [run]


def test_runs_are_listed_oldest_first(store: Store) -> None:
    """In the order in which they were started."""
    for name in ("b", "c", "a"):
        store.run(name)
    assert [run.name for run in store.runs()] == ["b", "c", "a"]


GOOD = ["a", "A.b_c-1", "x" * 100, "0", "-", "_", "last", "v1"]
BAD = ["", "a b", "a/b", "../a", "a@b", "ä", "x" * 101, ".", "..", ".hidden", "a\n", "a:b", "a\\b"]


@pytest.mark.parametrize("name", GOOD)
def test_a_good_run_name_is_taken(store: Store, name: str) -> None:
    """Letters, digits, dots, underscores and dashes."""
    store.run(name).save({"loop": {}}).wait()
    assert store[name].ref == f"{name}@v1"


@pytest.mark.parametrize("name", BAD)
def test_a_bad_run_name_is_refused(store: Store, name: str) -> None:
    """A name must be safe as a folder and free of the signs of a reference."""
    with pytest.raises(InvalidOption, match=r"is not a run name: expected 1 to 100 letters"):
        store.run(name)
    assert list((store.path / "runs").iterdir()) == []


BAD_STATES = {
    "list": [1],
    "tensor": np.ones(1),
    "number as section": {1: {}},
    "odd section": {"a b": {}},
    "none": None,
}


@pytest.mark.parametrize("state", BAD_STATES.values(), ids=BAD_STATES.keys())
def test_a_state_without_named_sections_is_refused(store: Store, state: object) -> None:
    """What a state looks like is said."""
    with pytest.raises(InvalidOption, match=r"a state is a dict of named sections, .*; found "):
        store.run("r").save(state)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["high", None, [1, 2], np.ones(2), {}, 10**400], ids=repr)
def test_a_metric_that_is_no_number_is_refused(store: Store, value: object) -> None:
    """Before anything is written."""
    with pytest.raises(InvalidOption, match=r"metric 'loss' is .*: expected one number"):
        store.run("r").save(STATE, metrics={"loss": value})  # type: ignore[dict-item]
    assert store.run("r").checkpoints() == []


def test_metrics_may_be_arrays_of_one_element(store: Store) -> None:
    """As frameworks give them."""
    metrics = {"a": np.float32(0.5), "b": np.array([2]), "c": True, "d": 3}
    checkpoint = store.run("r").save(STATE, metrics=metrics)  # type: ignore[arg-type]
    assert checkpoint.metrics == {"a": 0.5, "b": 2.0, "c": 1.0, "d": 3.0}


def test_epoch_and_step_may_be_numpy_integers(store: Store) -> None:
    """They are recorded as plain numbers."""
    checkpoint = store.run("r").save(STATE, epoch=np.int64(3), step=np.int32(7)).wait()  # type: ignore[arg-type]
    assert (type(checkpoint.epoch), checkpoint.epoch, checkpoint.step) == (int, 3, 7)


@pytest.mark.parametrize("value", ["3", 1.5, -1, 2**70], ids=repr)
def test_an_epoch_or_step_that_is_no_count_is_refused(store: Store, value: object) -> None:
    """At the call, and not by the writer in the background."""
    for position in ("epoch", "step"):
        with pytest.raises(InvalidOption, match=f"{position}=.*expected a whole number"):
            store.run("r").save(STATE, **{position: value})  # type: ignore[arg-type]
