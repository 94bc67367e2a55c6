"""Deleting: nothing that a checkpoint needs is ever freed, and what cannot be known is left."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ckpt_tracker import Checkpoint, Store
from ckpt_tracker.errors import CheckpointGone, CheckpointNotFound, Damaged, InvalidOption
from ckpt_tracker.files.objects import SMALL
from ckpt_tracker.records import Plan
from ckpt_tracker.retention import Last

LARGE = 2 * SMALL


def _state(*seeds: int) -> dict[str, object]:
    weights = {f"w{seed}": np.random.default_rng(seed).integers(0, 256, LARGE, dtype=np.uint8) for seed in seeds}
    return {"model": weights}


def _objects(store: Store) -> set[str]:
    return set(store.objects.names())


def _keep(store: Store, run: str, count: int) -> Plan:
    return store.run(run).plan(Last(count))


def _age_trash(store: Store, *, days: float) -> None:
    then = time.time() - days * 24 * 3600
    for path in store.layout.trash.rglob("*.json"):
        os.utime(path, (then, then))


@pytest.fixture
def saved(store: Store) -> list[Checkpoint]:
    """Three checkpoints: object 0 is in all of them, 1, 2 and 3 in one each."""
    run = store.run("r")
    return [run.save(_state(0, epoch), epoch=epoch).wait() for epoch in (1, 2, 3)]


def test_a_plan_counts_what_would_be_freed(store: Store, saved: list[Checkpoint]) -> None:
    """Objects that a kept checkpoint needs as well are not in it."""
    assert _keep(store, "r", 1).freed_bytes == 2 * LARGE
    assert _keep(store, "r", 3).freed_bytes == 0


def test_a_plan_deletes_nothing(store: Store, saved: list[Checkpoint], contents: Callable[..., object]) -> None:
    """It is a value."""
    before = contents(store.layout.runs)
    _keep(store, "r", 1)
    assert contents(store.layout.runs) == before


def test_apply_moves_checkpoints_to_the_trash(store: Store, saved: list[Checkpoint]) -> None:
    """They are found no more; their objects stay for a day."""
    store.apply(_keep(store, "r", 1))
    assert [each.version for each in store.run("r").checkpoints()] == [3]
    assert sorted(path.name for path in (store.layout.trash / "r").iterdir()) == ["000001.json", "000002.json"]
    assert store.gc() == 0
    assert len(_objects(store)) == 4


def test_a_held_checkpoint_that_was_removed_is_gone(store: Store, saved: list[Checkpoint]) -> None:
    """Loading it says that it was deleted, looking it up that there is none."""
    store.apply(_keep(store, "r", 1))
    with pytest.raises(CheckpointGone, match="r@v1 has no manifest any more: it was deleted"):
        saved[0].load()
    with pytest.raises(CheckpointNotFound, match="'r@v1' matches no checkpoint"):
        store["r@v1"]


def test_gc_frees_the_trash_of_yesterday(store: Store, saved: list[Checkpoint]) -> None:
    """Only what nothing else needs."""
    store.apply(_keep(store, "r", 1))
    _age_trash(store, days=1.01)
    assert store.gc() == 2 * LARGE
    assert list(store.layout.trash.rglob("*.json")) == []
    assert store["r@v3"].verify().ok
    assert len(_objects(store)) == 2


def test_a_plan_applied_twice_changes_nothing(store: Store, saved: list[Checkpoint]) -> None:
    """What is not there any more is not moved again."""
    plan = _keep(store, "r", 1)
    store.apply(plan)
    store.apply(plan)
    assert [each.version for each in store.run("r").checkpoints()] == [3]


def test_a_plan_that_would_empty_a_run_is_refused(store: Store, saved: list[Checkpoint]) -> None:
    """Also where it was made before others were removed; nothing is moved then, in no run."""
    store.run("s").save(_state(4)).wait()
    everything = store.plan("last:1")
    store.run("r").save(_state(5)).wait()
    store.apply(_keep(store, "r", 1))
    other = [each for each in everything.decisions if each.checkpoint.run == "s"]
    empties = Plan(tuple(type(each)(each.checkpoint, keep=False, reasons=()) for each in other))
    with pytest.raises(InvalidOption, match="the plan would leave run 's' without any checkpoint"):
        store.apply(empties)
    assert [each.version for each in store.run("s").checkpoints()] == [1]


def test_gc_deletes_what_no_checkpoint_needs(store: Store, saved: list[Checkpoint]) -> None:
    """An object that a killed save left behind, and its file in `tmp/`."""
    orphan = store.objects.path("ab" + "0" * 62)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"x" * 1000)
    (store.layout.tmp / "half").write_bytes(b"y" * 100)
    assert store.gc() == 1100
    assert not orphan.exists()
    assert list(store.layout.tmp.iterdir()) == []
    assert store.verify(deep=True).ok


def test_gc_on_a_clean_store_frees_nothing(store: Store, saved: list[Checkpoint]) -> None:
    """Every object is needed."""
    before = _objects(store)
    assert store.gc() == 0
    assert _objects(store) == before


def test_gc_spares_what_another_run_needs(store: Store, saved: list[Checkpoint]) -> None:
    """Runs share objects."""
    other = store.run("s").save(_state(1)).wait()
    store.evict(_keep(store, "r", 1))
    store.gc()
    assert other.verify().ok
    assert len(_objects(store)) == 3


UNREADABLE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[:-1],
    "flipped": lambda data: data.replace(b"model", b"modem"),
    "newer": lambda data: data.replace(b'"format":1', b'"format":2'),
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("damage", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_gc_fails_closed_on_a_manifest_that_cannot_be_read(
    store: Store, saved: list[Checkpoint], contents: Callable[..., object], damage: Callable[[bytes], bytes]
) -> None:
    """What it needs is not known, so nothing at all is deleted: no object, no trash, nothing in `tmp/`."""
    store.apply(_keep(store, "r", 2))
    _age_trash(store, days=2)
    (store.layout.tmp / "half").write_bytes(b"y")
    manifest = store.layout.manifests("r") / "000002.json"
    manifest.write_bytes(damage(manifest.read_bytes()))
    before = contents(store.layout.root)
    with pytest.raises((Damaged, RuntimeError), match=r"manifest .*000002\.json"):
        store.gc()
    after = contents(store.layout.root)
    locks = {"locks/store", "locks/turnstile"}
    assert {name: data for name, data in after.items() if name not in locks} == {  # type: ignore[attr-defined]
        name: data
        for name, data in before.items()
        if name not in locks  # type: ignore[attr-defined]
    }


def test_an_unreadable_manifest_in_the_old_trash_does_not_block_gc(store: Store, saved: list[Checkpoint]) -> None:
    """It is on its way out."""
    store.apply(_keep(store, "r", 2))
    (store.layout.trash / "r" / "000001.json").write_bytes(b"")
    _age_trash(store, days=2)
    assert store.gc() == LARGE


def test_evicted_checkpoints_are_freed_at_once(store: Store, saved: list[Checkpoint]) -> None:
    """A disk must not fill with what retention gave up."""
    assert store.evict(_keep(store, "r", 1)) == 2 * LARGE
    assert [each.version for each in store.run("r").checkpoints()] == [3]
    assert len(_objects(store)) == 2
    assert list(store.layout.trash.iterdir()) == []


def test_freeing_is_postponed_while_another_save_is_under_way(store: Store, saved: list[Checkpoint]) -> None:
    """The objects may be what that save has just found there; the next eviction frees them."""
    with store.lock.writing():
        assert store.evict(_keep(store, "r", 2)) == 0
    assert [each.version for each in store.run("r").checkpoints()] == [2, 3]
    assert len(_objects(store)) == 4
    assert store.evict(_keep(store, "r", 2)) == LARGE


def test_an_unreadable_manifest_elsewhere_stops_freeing_and_not_forgetting(
    store: Store, saved: list[Checkpoint], caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is freed, which is said once with the way out, and yet the index says what is there."""
    store.run("s").save(_state(9)).wait()
    (store.layout.manifests("s") / "000001.json").write_bytes(b"")
    plan = _keep(store, "r", 1)
    assert plan.freed_bytes == 0
    caplog.clear()
    assert [store.evict(plan), store.evict(plan)] == [0, 0]
    (message,) = caplog.messages
    assert message.startswith("no space is freed: manifest ")
    assert message.endswith("see `ckpt repair`")
    assert [each.version for each in store.run("r").checkpoints()] == [3]
    assert len(_objects(store)) == 5


def test_versions_are_never_given_twice(path: Path) -> None:
    """Neither after an eviction nor after a restart."""
    with Store(path) as store:
        run = store.run("r")
        assert [run.save(_state(seed)).version for seed in range(3)] == [1, 2, 3]
        store.evict(run.plan(Last(1)))
        assert run.save(_state(4)).version == 4
        store.evict(run.plan(Last(1)))
    with Store(path) as store:
        assert store.run("r").save(_state(5)).version == 5


def test_a_removed_newest_version_is_not_given_again(path: Path) -> None:
    """The event that removed it is remembered, though no manifest tells of it any more."""
    with Store(path) as store:
        run = store.run("r")
        for seed in range(3):
            run.save(_state(seed), metrics={"loss": float(seed)}).wait()
        store.apply(run.plan("best:1:loss:min"))
        assert [each.version for each in run.checkpoints()] == [1]
    with Store(path) as store:
        assert store.run("r").save(_state(9)).version == 4


def test_a_tag_keeps_a_checkpoint(store: Store, saved: list[Checkpoint]) -> None:
    """Whatever the policy says."""
    store.run("r").tag("paper", saved[0])
    store.evict(_keep(store, "r", 1))
    assert [each.version for each in store.run("r").checkpoints()] == [1, 3]
