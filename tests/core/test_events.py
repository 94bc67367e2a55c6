"""The events of a run: appended, never rewritten, and readable whatever happened to one of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckpt_tracker import Store
from ckpt_tracker.files.events import EventLog, EventState
from ckpt_tracker.records import Monitor


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    """An empty log."""
    return EventLog(tmp_path / "events.jsonl")


def test_events_come_back_in_order(log: EventLog) -> None:
    """With their details, and when they were."""
    log.append("start", monitor="loss", mode="min")
    log.append("tag", tag="paper", version=3)
    first, second = log
    assert (first["event"], first["monitor"], second["tag"], second["version"]) == ("start", "loss", "paper", 3)
    assert first["at"] <= second["at"]


def test_a_log_that_is_not_there_is_empty(log: EventLog) -> None:
    """A run without events has none."""
    assert list(log) == []
    assert log.state() == EventState()


def test_each_line_is_json_of_its_own(log: EventLog) -> None:
    """Any reader reads it, line by line."""
    log.append("tag", tag="a", version=1)
    log.append("tag", tag="wärme", version=2)
    lines = log.path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["version"] for line in lines] == [1, 2]


def test_what_events_add_up_to(log: EventLog) -> None:
    """The newest tag of a name, the highest version that was removed, whether the training ended, its monitor."""
    log.append("start", monitor="loss", mode="min", config={"lr": 0.1})
    log.append("tag", tag="a", version=1)
    log.append("evict", versions=[1, 7], reason="retention")
    log.append("remove", versions=[2])
    log.append("tag", tag="a", version=4)
    log.append("finish")
    state = log.state()
    assert state.last_start["config"] == {"lr": 0.1}
    assert state == EventState({"a": 4}, 7, True, Monitor("loss", "min"), state.last_start)
    log.append("start", monitor=None, mode=None, code_diff="-1 +2")
    state = log.state()
    assert (state.finished, state.monitor) == (False, Monitor("loss", "min"))
    assert set(state.last_start) == {"at", "monitor", "mode"}


def test_an_event_of_a_later_version_is_passed_over(log: EventLog) -> None:
    """Whatever it means."""
    log.append("teleport", target="moon")
    log.append("tag", tag="a", version=1)
    assert log.state().tags == {"a": 1}


def test_a_torn_last_line_is_skipped_at_every_length(log: EventLog) -> None:
    """A power cut in the middle of an append; the next event starts a line of its own."""
    log.append("tag", tag="a", version=1)
    kept = log.path.read_bytes()
    log.append("tag", tag="b", version=2)
    whole = log.path.read_bytes()
    for length in range(len(kept), len(whole) - 1):
        log.path.write_bytes(whole[:length])
        assert log.state().tags == {"a": 1}
        log.append("tag", tag="c", version=3)
        assert log.state().tags == {"a": 1, "c": 3}


def test_a_flipped_bit_loses_one_event_and_no_other(log: EventLog) -> None:
    """Wherever it is."""
    for version in range(1, 4):
        log.append("tag", tag=f"t{version}", version=version)
    data = log.path.read_bytes()
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        log.path.write_bytes(flipped)
        found = log.state().tags
        # a flipped line break makes one broken line of two
        assert len(found) >= (1 if data[position : position + 1] == b"\n" else 2)
        assert all(found[tag] == int(tag[1:]) for tag in found)


def test_events_of_two_processes_do_not_mix(start: Callable[..., Any], log: EventLog) -> None:
    """Each line is one write at the end of the file."""
    code = """
        import sys
        from pathlib import Path
        from ckpt_tracker.files.events import EventLog
        for number in range(1, 51):
            EventLog(Path(sys.argv[1])).append("tag", tag=sys.argv[2] * 200, version=number)
    """
    processes = [start(code, log.path, tag) for tag in "ab"]
    for process in processes:
        process.end()
    assert len(list(log)) == 100
    assert log.state().tags == {"a" * 200: 50, "b" * 200: 50}


def test_tags_survive_the_loss_of_the_index(path: Path) -> None:
    """They are in the events, which are the truth."""
    with Store(path) as store:
        store.run("r").save({"loop": {}}).wait()
        store.run("r").tag("paper")
    (path / "index.sqlite").unlink()
    with Store(path) as store:
        assert store["r@paper"].tags == ("paper",)


def test_an_event_is_seen_by_a_store_that_is_open(path: Path) -> None:
    """Another process's tag is found at once."""
    with Store(path) as store, Store(path) as other:
        store.run("r").save({"loop": {}}).wait()
        other.run("r").tag("paper")
        assert store["r@paper"].version == 1
        assert store["r@v1"].tags == ("paper",)
