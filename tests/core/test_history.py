"""The history of a run: what happened to its checkpoints, by whom, and where a tag stood."""

from __future__ import annotations

import itertools
import math
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from ckpt_tracker import Store
from ckpt_tracker.environment import user
from ckpt_tracker.files.events import EventLog
from ckpt_tracker.history import Entry
from ckpt_tracker.tracker import Tracker


def _told(entries: list[Entry]) -> list[tuple[str, tuple[int, ...]]]:
    return [(entry.event, entry.versions) for entry in entries]


@pytest.fixture
def trained(path: Path) -> Path:
    """Four epochs, of which retention keeps two whole and the weights of the best."""
    tracker = Tracker(path, "r", monitor="loss", mode="min", keep="last:1 best:1:weights")
    tracker.begin()
    for epoch, loss in enumerate([0.5, 0.1, math.nan, 0.4]):
        state = {"model": {"w": np.full(3, epoch)}, "loop": {}}
        tracker.save(state, epoch=epoch, step=10 * epoch, metrics={"loss": loss}, reason="1 epoch").wait()
    tracker.close(finished=True)
    return path


def test_what_a_training_did_is_told_in_order(trained: Path) -> None:
    """What is gone was saved too."""
    with Store(trained) as store:
        assert _told(store.run("r").history()) == [
            ("started", ()),
            ("saved", (1,)),
            ("saved", (2,)),
            ("evicted", (1,)),
            ("saved", (3,)),
            ("stripped", (2,)),
            ("saved", (4,)),
            ("evicted", (3,)),
            ("finished", ()),
        ]


def test_each_entry_says_why_and_by_whom(trained: Path) -> None:
    """The retention, who did it, and what it was that went: its manifest is gone."""
    with Store(trained) as store:
        entries = store.run("r").history()
    started, saved, _, evicted, *_ = entries
    assert (evicted.by, evicted.user, evicted.details["keep"]) == ("tracker", user(), "last:1 best:1:loss:min:weights")
    assert (started.by, started.details) == ("tracker", {"keep": "last:1 best:1:loss:min:weights"})
    assert saved.details == {"epoch": 0, "step": 0, "reason": "1 epoch", "metrics": {"loss": 0.5}}
    assert all(one.at <= other.at for one, other in itertools.pairwise(entries))


def test_what_people_did_is_told(trained: Path) -> None:
    """With the command, and where a tag had been."""
    with Store(trained) as store:
        run = store.run("r")
        before = len(run.history())
        store.by = "ckpt tag"
        run.tag("paper", store["r@v2"])
        run.tag("paper", store["r@v4"])
        store.by = "python"
        run.pin(store["r@v2"])
        run.unpin(store["r@v2"])
        run.untag("paper")
        store.remove(store["r@v2"])
        store.undo()
        entries = run.history()[before:]
    assert _told(entries) == [
        ("tagged", (2,)),
        ("tagged", (4,)),
        ("pinned", (2,)),
        ("unpinned", (2,)),
        ("untagged", ()),
        ("removed", (2,)),
        ("restored", (2,)),
    ]
    assert [entry.details.get("before") for entry in entries if "tag" in entry.details] == [None, 2, 4]
    assert [entry.by for entry in entries[:3]] == ["ckpt tag", "ckpt tag", "python"]


def test_what_is_in_the_trash_was_saved(store: Store) -> None:
    """Its manifest tells when."""
    run = store.run("r")
    for epoch in range(2):
        run.save({"loop": {}}, epoch=epoch).wait()
    before = [entry for entry in run.history() if entry.event == "saved"]
    store.remove(store["r@v1"])
    assert [entry for entry in run.history() if entry.event == "saved"] == before


def test_where_a_tag_stood_is_known_for_every_moment(store: Store) -> None:
    """Also after it was moved and taken away, and for ever: events are never rewritten."""
    run = store.run("r")
    moments = [datetime.now(timezone.utc)]
    for version in (1, 2):
        run.tag("paper", run.save({"loop": {}}).wait())
        moments.append(datetime.now(timezone.utc))
        assert run.record.tags == {"paper": version}
    run.untag("paper")
    moments.append(datetime.now(timezone.utc))
    assert [run.tags_at(moment) for moment in moments] == [{}, {"paper": 1}, {"paper": 2}, {}]
    assert run.tags_at(moments[2].astimezone(timezone(timedelta(hours=5)))) == {"paper": 2}


def test_events_that_make_no_sense_are_passed_over(trained: Path) -> None:
    """Of a later version, of an earlier one that told less, or forged."""
    with Store(trained) as store:
        run = store.run("r")
        expected = _told(run.history())
        log = EventLog(store.layout.events("r"))
        log.append("teleport", target="moon")
        log.append("evict", versions=[7])
        log.append(
            "evict", versions=[8], checkpoints=[{"version": 8}, 3, {"version": "x"}], by=3, user=["a"], keep=None
        )
        assert _told(run.history()) == [*expected, ("evicted", (7,)), ("evicted", (8,))]


def test_no_host_and_no_path_is_told(trained: Path) -> None:
    """A store may be given away: the login name is on its files anyway, and more is nobody's business."""
    with Store(trained) as store:
        store.run("r").tag("paper")
        store.apply(store.plan("last:1"))
        events = list(EventLog(store.layout.events("r")))
    who = {"event", "at", "by", "user"}
    what = {"tag", "version", "versions", "newest", "digests", "change", "keep", "reason", "checkpoints"}
    assert all(set(event) <= who | what for event in events if event["event"] != "start")


def test_without_a_login_name_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may run under a number that nobody is called by."""
    import os

    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    assert user() is None
