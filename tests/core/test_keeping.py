"""Carrying plans out: alone, with what was marked meanwhile kept; tags, pins, removal, and having it all back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckpt_tracker import Checkpoint, Store
from ckpt_tracker.disk.filesystem import FileLock
from ckpt_tracker.errors import CheckpointGone, CheckpointNotFound, InvalidOption, StoreReadOnly
from ckpt_tracker.records import Decision, Plan
from ckpt_tracker.retention import Best, Last
from ckpt_tracker.tracker import Tracker


def _save(store: Store, run: str, count: int) -> list[Checkpoint]:
    """Losses that fall, and a large tensor of their own."""
    tensors = [np.random.default_rng(seed).random(20_000) for seed in range(count)]
    return [
        store.run(run).save({"model": {"w": w}}, epoch=epoch, metrics={"loss": 1 - epoch / 10}).wait()
        for epoch, w in enumerate(tensors)
    ]


@pytest.fixture
def saved(store: Store) -> list[Checkpoint]:
    """Four checkpoints of run r."""
    return _save(store, "r", 4)


def _versions(store: Store, run: str = "r") -> list[int]:
    return [each.version for each in store.run(run).checkpoints()]


@pytest.mark.parametrize("mark", ["tag", "pin"])
@pytest.mark.parametrize("act", [Store.apply, Store.evict])
def test_what_was_marked_since_the_plan_was_made_stays(
    store: Store, saved: list[Checkpoint], path: Path, mark: str, act: Callable[[Store, Plan], object]
) -> None:
    """Also by another process."""
    plan = store.plan("last:1")
    with Store(path) as other:
        run = other.run("r")
        run.tag("paper", other["r@v2"]) if mark == "tag" else run.pin(other["r@v2"])
    act(store, plan)
    assert _versions(store) == [2, 4]


def test_apply_returns_what_was_done(store: Store, saved: list[Checkpoint]) -> None:
    """With the reason of what stayed after all, without what was gone, and with the bytes that are left to free."""
    plan = store.plan("last:1")
    assert plan.freed_bytes == 3 * 160_000
    store.remove(store["r@v1"])
    store.run("r").tag("paper", saved[1])
    done = store.apply(plan)
    assert [each.ref for each in done.removed] == ["r@v3"]
    assert [each.reasons for each in done.decisions if each.checkpoint.version == 2] == [("tag:paper",)]
    assert (plan.freed_bytes, done.freed_bytes) == (3 * 160_000, 160_000)


def test_two_plans_never_empty_a_run_between_them(store: Store, saved: list[Checkpoint], path: Path) -> None:
    """Each alone would leave one; the second is refused."""
    first, second = store.plan("last:1"), store.plan("best:1:loss:max")
    with Store(path) as other:
        other.apply(first)
    with pytest.raises(InvalidOption, match="the plan would leave run 'r' without any checkpoint"):
        store.apply(Plan(tuple(each for each in second.decisions if each.checkpoint.version == 4)))
    assert _versions(store) == [4]


@pytest.fixture
def free(store: Store) -> Callable[[], bool]:
    """Whether another process could remove, restore or mark something now."""

    def ask() -> bool:
        lock = FileLock(store.layout.locks / "retention")
        return lock.acquire(wait=False) and lock.release() is None

    return ask


ACTS: dict[str, Callable[[Store], Any]] = {
    "apply": lambda store: store.apply(store.plan("last:1")),
    "evict": lambda store: store.evict(store.plan("last:1")),
    "remove": lambda store: store.remove(store["r@v1"]),
    "tag": lambda store: store.run("r").tag("a", store["r@v1"]),
    "untag": lambda store: store.run("r").untag("old"),
    "pin": lambda store: store.run("r").pin(store["r@v1"]),
    "unpin": lambda store: store.run("r").unpin(store["r@v2"]),
    "undo": lambda store: store.undo(),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
def test_nobody_else_can_act_between_the_look_and_the_deed(
    store: Store,
    saved: list[Checkpoint],
    free: Callable[[], bool],
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[Store], Any],
) -> None:
    """Whatever removes, restores or marks holds one lock for all of it, while it tells the run's events."""
    from ckpt_tracker.files.events import EventLog

    store.run("r").tag("old", saved[3])
    store.run("r").pin(saved[1])
    store.remove(saved[2])
    found: list[bool] = []
    append = EventLog.append
    monkeypatch.setattr(EventLog, "append", lambda *given, **named: (found.append(free()), append(*given, **named)))
    act(store)
    assert found == [False]
    assert free()


TRAINING = """
    import sys
    from ckpt_tracker.tracker import Tracker
    tracker = Tracker(sys.argv[1], sys.argv[2], keep=sys.argv[3], monitor="loss", mode="min")
    tracker.begin()
    print("begun", flush=True)
    for epoch in range(30):
        tracker.save({"model": {"epoch": epoch}}, epoch=epoch, step=epoch, metrics={"loss": epoch % 7}).wait()
    tracker.close(finished=True)
"""


def test_tags_outlive_trainings_and_prunes_in_other_processes(
    start: Callable[..., Any], store: Store, path: Path
) -> None:
    """Two trainings with little retention, and a third process that tags, pins and prunes: nothing marked goes."""
    trainings = [start(TRAINING, path, name, "last:1") for name in ("a", "b")]
    for process in trainings:
        assert process.line() == "begun"
    marked = set()
    while any(process.popen.poll() is None for process in trainings):
        for name in ("a", "b"):
            run = store.run(name)
            try:
                newest = run.last()
                run.tag(f"t{newest.version}", newest) if newest.version % 2 else run.pin(newest)
                marked.add(newest.ref)
                store.apply(run.plan("last:2 best:1:loss:min"))
            except CheckpointNotFound:
                continue  # evicted before it was tagged, or nothing there yet
    for process in trainings:
        output, errors = process.end()
        assert (process.popen.returncode, output, errors) == (0, "", "")
    named = {f"{run.name}@v{version}" for run in store.runs() for version in run.record.tags.values()}
    pinned = {f"{run.name}@v{version}" for run in store.runs() for version in run.record.pins}
    assert marked <= named | pinned
    assert all(store[ref].load()["model"] == {"epoch": store[ref].epoch} for ref in named | pinned)
    assert store.verify(deep=True).ok


@pytest.mark.parametrize(
    "keep", ["tagged", "best:1", "best:1:weights", "last:1 cap:1B", "every:100epochs", "within:0.0000001hours"]
)
def test_the_newest_of_a_tracker_stays_whatever_its_retention_says(path: Path, keep: str) -> None:
    """Whole, and until there is a newer one."""
    tracker = Tracker(path, "r", monitor="loss", mode="min", keep=keep)
    tracker.begin()
    for epoch in range(4):
        saved = tracker.save({"model": {"w": np.ones(9)}, "loop": {}}, epoch=epoch, step=epoch, metrics={"loss": epoch})
        assert tracker.store[saved.wait().ref].sections == ("model", "loop")
    tracker.close()
    with Store(path) as store:
        assert store.run("r").last().version == 4


def test_a_cap_of_a_tracker_counts_what_is_on_the_disk(path: Path) -> None:
    """Two of 160 kB fit beside what all share."""
    frozen = np.random.default_rng(9).random(50_000)
    tracker = Tracker(path, "r", keep="last:9 cap:800kB")
    tracker.begin()
    for epoch in range(6):
        own = np.random.default_rng(epoch).random(20_000)
        tracker.save({"model": {"frozen": frozen, "own": own}}, epoch=epoch, step=epoch, metrics=None).wait()
    tracker.close()
    with Store(path) as store:
        assert _versions(store) == [5, 6]
        assert sum(store.objects.size(name) or 0 for name in store.objects.names()) == 400_000 + 2 * 160_000


def test_a_plan_for_the_store_caps_all_runs_together(store: Store) -> None:
    """And counts what two runs share once."""
    for name in ("a", "b"):
        _save(store, name, 3)
    plan = store.plan(Last(3).capped(2 * 160_000))
    assert [each.checkpoint.ref for each in plan.decisions if each.keep] == ["a@v2", "a@v3", "b@v2", "b@v3"]
    assert plan.freed_bytes == 160_000


# -- marks ---------------------------------------------------------------------------------------------------


def test_a_pin_protects_until_it_is_taken_off(store: Store, saved: list[Checkpoint]) -> None:
    """From every retention; and the store says that it is pinned, also when it is opened anew."""
    run = store.run("r")
    assert (run.pin(saved[0]), run.pin(saved[0])) == (True, False)
    assert (store["r@v1"].pinned, store["r@v2"].pinned, run.record.pins) == (True, False, (1,))
    store.apply(run.plan(Last(1)))
    assert _versions(store) == [1, 4]
    assert (run.unpin(store["r@v1"]), run.unpin(store["r@v1"])) == (True, False)
    store.apply(run.plan(Last(1)))
    assert _versions(store) == [4]


def test_a_tag_moves_and_says_where_it_was(store: Store, saved: list[Checkpoint]) -> None:
    """It protects where it stands alone."""
    run = store.run("r")
    assert [run.tag("paper", saved[0]), run.tag("paper", saved[1]), run.tag("paper", saved[1])] == [None, 1, 2]
    store.apply(run.plan(Last(1)))
    assert _versions(store) == [2, 4]
    assert run.untag("paper") == 2
    store.apply(run.plan(Last(1)))
    assert _versions(store) == [4]


def test_a_tag_that_is_not_there_names_the_nearest(store: Store, saved: list[Checkpoint]) -> None:
    """As references do."""
    store.run("r").tag("paper")
    with pytest.raises(CheckpointNotFound, match=r"run 'r' has no tag 'papr'; did you mean 'paper'\?"):
        store.run("r").untag("papr")


@pytest.mark.parametrize("mark", ["tag", "pin"])
def test_what_is_gone_is_not_marked(store: Store, saved: list[Checkpoint], mark: str) -> None:
    """A mark that protects nothing would be a lie."""
    store.evict(store.plan("last:1"))
    run = store.run("r")
    with pytest.raises(CheckpointGone, match="r@v1 has no manifest any more"):
        run.tag("paper", saved[0]) if mark == "tag" else run.pin(saved[0])
    assert (run.record.tags, run.record.pins) == ({}, ())


def test_a_checkpoint_of_another_run_is_refused(store: Store, saved: list[Checkpoint]) -> None:
    """Its versions mean something else here."""
    (other,) = _save(store, "s", 1)
    for act in (store.run("r").pin, store.run("r").unpin, lambda each: store.run("r").tag("a", each)):
        with pytest.raises(InvalidOption, match="s@v1 is not of run 'r'"):
            act(other)


# -- removal and undo ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", ["tag", "pin"])
def test_what_is_marked_is_not_removed(store: Store, saved: list[Checkpoint], mark: str) -> None:
    """Nor what was named beside it."""
    run = store.run("r")
    run.tag("paper", saved[1]) if mark == "tag" else run.pin(saved[1])
    with pytest.raises(InvalidOption, match=r"r@v2 is (tagged paper|pinned)"):
        store.remove(saved[0], saved[1])
    assert _versions(store) == [1, 2, 3, 4]


def test_undo_brings_back_what_went_last_and_all_that_went_with_it(store: Store) -> None:
    """Of every run of that plan; a second undo what went before."""
    for name in ("a", "b"):
        _save(store, name, 4)
    store.remove(store["a@v1"])
    store.apply(store.plan("last:1"))
    assert [each.ref for each in store.undo()] == ["a@v2", "a@v3", "b@v1", "b@v2", "b@v3"]
    assert (_versions(store, "a"), _versions(store, "b")) == ([2, 3, 4], [1, 2, 3, 4])
    assert [each.ref for each in store.undo()] == ["a@v1"]
    assert store.verify(deep=True).ok
    with pytest.raises(CheckpointNotFound, match="the trash is empty: there is nothing to undo"):
        store.undo()


WAYS = {"r@v2": ["r@v2"], "r@epoch:1": ["r@v2"], "r@paper": ["r@v1"], "r@last": ["r@v3"], "r": ["r@v2", "r@v3"]}


@pytest.mark.parametrize(("reference", "expected"), WAYS.items())
def test_undo_takes_references(store: Store, saved: list[Checkpoint], reference: str, expected: list[str]) -> None:
    """As elsewhere, but of what is in the trash; a run alone is what went last of it."""
    store.run("r").tag("paper", saved[0])
    store.run("r").untag("paper")
    store.remove(saved[0])
    store.apply(store.plan("last:1"))
    store.run("r").tag("paper", store["r@v4"])
    store.record_event("r", "tag", tag="paper", version=1)
    _save(store, "other", 2)
    store.remove(store["other@v1"])
    assert [each.ref for each in store.undo(reference)] == expected


@pytest.mark.parametrize("reference", ["r@v4", "r@v9", "r@epoch:7", "s", "s@v1"])
def test_undo_of_what_is_not_in_the_trash_says_so(store: Store, saved: list[Checkpoint], reference: str) -> None:
    """Naming what is."""
    store.remove(saved[0])
    with pytest.raises(CheckpointNotFound, match=f"{reference!r} is not in the trash"):
        store.undo(reference)
    assert _versions(store) == [2, 3, 4]


def test_nothing_in_the_trash_is_best(store: Store, saved: list[Checkpoint]) -> None:
    """Removing it has decided that."""
    store.remove(saved[0])
    with pytest.raises(InvalidOption, match="nothing is best"):
        store.undo("r@best")


def test_what_comes_back_is_what_it_was(store: Store, saved: list[Checkpoint], path: Path) -> None:
    """Its state, its record, its tag; also after the index is lost."""
    before = [each.record for each in store.run("r").checkpoints()]
    state = saved[0].load()
    store.apply(store.plan("last:1"))
    assert store.gc() == 0
    store.undo()
    assert [each.record for each in store.run("r").checkpoints()] == before
    np.testing.assert_array_equal(store["r@v1"].load()["model"]["w"], state["model"]["w"])
    store.close()
    (path / "index.sqlite").unlink()
    with Store(path) as again:
        assert [each.record for each in again.run("r").checkpoints()] == before


def test_the_trash_says_who_removed_what_and_why(store: Store, saved: list[Checkpoint]) -> None:
    """And until when it can be had back: a day."""
    store.by = "ckpt prune"
    store.apply(store.plan("last:1"))
    store.by = "ckpt rm"
    _save(store, "s", 2)
    store.remove(store["s@v1"])
    found = store.trash()
    assert [(each.checkpoint.ref, each.by, each.keep) for each in found] == [
        ("s@v1", "ckpt rm", None),
        *((f"r@v{version}", "ckpt prune", "last:1") for version in (1, 2, 3)),
    ]
    assert {(each.until - each.removed_at).total_seconds() for each in found} == {24 * 3600.0}


def test_emptying_the_trash_frees_what_was_said(store: Store, saved: list[Checkpoint]) -> None:
    """At once, and for good."""
    store.apply(store.plan("last:2"))
    said = store.reclaimer.freed_by_emptying()
    assert (said, store.empty_trash()) == (320_000, 320_000)
    assert (store.trash(), _versions(store)) == ([], [3, 4])


def test_damaged_trash_is_left_out_and_named(
    store: Store, saved: list[Checkpoint], caplog: pytest.LogCaptureFixture
) -> None:
    """The rest can be had back."""
    store.apply(store.plan("last:2"))
    (store.layout.trash / "r" / "000001.json").write_bytes(b"{}")
    assert [each.checkpoint.ref for each in store.trash()] == ["r@v2"]
    assert "r@v1 in the trash is left out" in caplog.text
    assert [each.ref for each in store.undo()] == ["r@v2"]


@pytest.fixture
def read_only(store: Store, saved: list[Checkpoint]) -> Iterator[Store]:
    """A store that says of itself that it can't be written."""
    store.read_only = True
    yield store
    store.read_only = False


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
def test_nothing_is_marked_or_removed_in_a_store_that_cannot_be_written(
    read_only: Store, act: Callable[[Store], Any]
) -> None:
    """Planning is looking, and goes on."""
    with pytest.raises(StoreReadOnly, match="can't be written"):
        act(read_only)
    assert len(read_only.plan("last:1").removed) == 3


def test_a_plan_that_keeps_nothing_of_a_run_names_it(store: Store, saved: list[Checkpoint]) -> None:
    """Before anybody applies it."""
    _save(store, "s", 1)
    store.run("s").tag("paper")
    assert store.plan("tagged").emptied == ("r",)
    assert store.plan("last:1").emptied == ()


def test_a_decision_made_by_hand_is_carried_out(store: Store, saved: list[Checkpoint]) -> None:
    """A plan is a value like any other."""
    (record,) = [each.record for each in saved[:1]]
    store.apply(Plan((Decision(record, keep=False, reasons=()),)))
    assert _versions(store) == [2, 3, 4]
    assert store.run("r").plan(Last(1) | Best(1, "loss", "min")).keep == "last:1 best:1:loss:min"
