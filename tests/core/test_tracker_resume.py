"""Where a training continues from, and what is said when that is not where it stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckpt_tracker.disk.jsonfile import seal, unseal
from ckpt_tracker.errors import CheckpointNotFound, Damaged, FormatTooNew, InvalidOption
from ckpt_tracker.files.events import EventLog
from ckpt_tracker.tracker import Tracker


def _state(epoch: int) -> dict[str, object]:
    return {"model": {"w": np.random.default_rng(epoch).random(10_000)}, "loop": {"epoch": epoch}}


@pytest.fixture
def trained(path: Path) -> Path:
    """Four epochs of run r; the second is the best. Of run other, one."""
    for run, losses in (("r", [0.5, 0.1, 0.4, 0.3]), ("other", [0.2])):
        tracker = Tracker(path, run, monitor="loss", mode="min", keep="last:9")
        tracker.begin()
        for epoch, loss in enumerate(losses):
            tracker.save(_state(epoch), epoch=epoch, step=10 * (epoch + 1), metrics={"loss": loss})
        tracker.close()
    return path


def _manifest(path: Path, version: int) -> Path:
    return path / "runs" / "r" / "manifests" / f"{version:06d}.json"


def _object_of(path: Path, version: int) -> Path:
    """The file that holds the weights of a checkpoint."""
    document = unseal(_manifest(path, version).read_bytes(), name="x")
    name = document["tensors"][0]["pieces"][0][0]
    return path / "objects" / name[:2] / name


def _resumed(path: Path, resume: str, **options: Any) -> str | None:
    """The reference that a tracker continues from; its state has to be the one of that epoch."""
    tracker = Tracker(path, "r", resume=resume, monitor="loss", mode="min", keep="last:9", **options)
    try:
        found = tracker.begin()
        state = tracker.take_state()
    finally:
        tracker.close()
    assert tracker.resumed_from is found
    if found is None:
        assert state == {}
        return None
    assert state["loop"] == {"epoch": found.epoch}
    assert (state["model"]["w"] == np.random.default_rng(found.epoch).random(10_000)).all()
    return found.ref


RESUMED = {
    "auto": "r@v4",
    "last": "r@v4",
    "best": "r@v2",
    "never": None,
    "r@v1": "r@v1",
    "r@epoch:2": "r@v3",
    "r@best:loss:max": "r@v1",
    "other@last": "other@v1",
}


@pytest.mark.parametrize(("resume", "expected"), RESUMED.items(), ids=RESUMED.keys())
def test_resume_means_what_it_says(trained: Path, resume: str, expected: str | None) -> None:
    """A word, or a reference to any run of the store."""
    assert _resumed(trained, resume) == expected


def test_auto_starts_fresh_where_there_is_nothing(path: Path) -> None:
    """The first start of a script is no error."""
    assert _resumed(path, "auto") is None


@pytest.mark.parametrize("resume", ["last", "best", "r@v1", "nobody@last"])
def test_the_others_fail_clearly_where_there_is_nothing(path: Path, resume: str) -> None:
    """They say which word, and what is missing; and the run is given back."""
    with pytest.raises(CheckpointNotFound, match=f"^resume='{resume}': "):
        _resumed(path, resume)
    assert _resumed(path, "auto") is None


def test_best_resumes_by_the_monitor_of_this_training(trained: Path) -> None:
    """Not by that of the one before."""
    tracker = Tracker(trained, "r", resume="best", monitor="loss", mode="max")
    found = tracker.begin()
    tracker.close()
    assert found is not None
    assert found.version == 1


DAMAGES: dict[str, Callable[[Path], object]] = {
    "object with a flipped bit": lambda path: _flip(_object_of(path, 4)),
    "object cut": lambda path: _object_of(path, 4).write_bytes(b"x"),
    "object missing": lambda path: _object_of(path, 4).unlink(),
    "manifest cut": lambda path: _manifest(path, 4).write_bytes(_manifest(path, 4).read_bytes()[:-40]),
    "manifest empty": lambda path: _manifest(path, 4).write_bytes(b""),
    "manifest flipped": lambda path: _flip(_manifest(path, 4)),
}


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_auto_steps_back_over_a_damaged_checkpoint_and_says_so(
    trained: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], object]
) -> None:
    """To the newest one that verifies; the skipped one is named, and stays where it is."""
    damage(trained)
    with caplog.at_level(logging.INFO, "ckpt_tracker"):
        assert _resumed(trained, "auto") == "r@v3"
    assert any(message.startswith("r@v4 is skipped: ") for message in caplog.messages)
    assert [message for message in caplog.messages if message.startswith("continuing from r@v4")] == []
    assert _manifest(trained, 4).exists()


def test_auto_steps_back_as_far_as_it_has_to(trained: Path) -> None:
    """Over several."""
    for version in (4, 3, 2):
        _flip(_object_of(trained, version))
    assert _resumed(trained, "auto") == "r@v1"


def test_the_checkpoint_after_a_step_back_has_a_version_of_its_own(trained: Path) -> None:
    """And the one that it continues from as its parent."""
    _flip(_object_of(trained, 4))
    tracker = Tracker(trained, "r", keep="last:9")
    tracker.begin()
    checkpoint = tracker.save(_state(3), epoch=3, step=40, metrics={})
    assert checkpoint is not None
    assert [parent.ref for parent in checkpoint.parents] == ["r@v3"]
    tracker.close()
    assert checkpoint.version == 5


def test_auto_does_not_start_afresh_over_damage(trained: Path) -> None:
    """Where there were checkpoints and none loads, a person decides."""
    for version in (4, 3, 2, 1):
        _manifest(trained, version).write_bytes(b"")
    with pytest.raises(Damaged, match=r"none of the 4 checkpoints of run 'r' loads: .*resume='never' starts from"):
        _resumed(trained, "auto")
    assert _resumed(trained, "never") is None


def test_a_named_checkpoint_that_is_damaged_is_an_error(trained: Path) -> None:
    """Who names one means that one."""
    _flip(_object_of(trained, 2))
    for resume in ("best", "r@v2"):
        with pytest.raises(Damaged, match=r"r@v2: tensor model\.w is damaged"):
            _resumed(trained, resume)


def test_a_newest_checkpoint_of_a_newer_format_is_not_stepped_over(trained: Path) -> None:
    """It is not damaged: this ckpt_tracker is too old for it."""
    document = unseal(_manifest(trained, 4).read_bytes(), name="x")
    _manifest(trained, 4).write_bytes(seal({**document, "format": 2}))
    with pytest.raises(FormatTooNew, match="upgrade"):
        _resumed(trained, "auto")


def test_a_resumed_training_goes_on_in_steps(trained: Path) -> None:
    """The next step trigger counts from where it stopped."""
    tracker = Tracker(trained, "r", every="25 steps", keep="last:9")
    tracker.begin()
    due = [step for step in range(41, 80) if tracker.due(step=step)]
    tracker.close()
    assert due[0] == 50


def test_where_it_continues_from_is_said_and_recorded(trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In the log, and in the run's events."""
    with caplog.at_level(logging.INFO, "ckpt_tracker"):
        _resumed(trained, "r@v2")
    assert "continuing from r@v2 (epoch 1, step 20)" in caplog.messages
    starts = [event for event in EventLog(trained / "runs" / "r" / "events.jsonl") if event["event"] == "start"]
    assert [event["resumed_from"] for event in starts] == [None, "r@v2"]


def test_the_state_is_handed_over_once(trained: Path) -> None:
    """It is large, and nobody needs it twice."""
    tracker = Tracker(trained, "r")
    tracker.begin()
    assert sorted(tracker.take_state()) == ["loop", "model"]
    assert tracker.take_state() == {}
    tracker.close()


# -- runs without a name -------------------------------------------------------------------------------------

UNNAMED = """
import logging, os, sys
logging.basicConfig(format="%(levelname)s %(message)s")
sys.argv[0] = sys.argv[2]
from ckpt_tracker.tracker import Tracker
tracker = Tracker(sys.argv[1], resume="auto")
assert tracker.begin() is None
tracker.save({"loop": {"epoch": 0}}, epoch=0, step=1, metrics={})
tracker.run.checkpoints()
print(tracker.run.name, flush=True)
if sys.argv[3] == "wait":
    input()
if sys.argv[3] == "finish":
    tracker.close(finished=True)
elif sys.argv[3] == "break":
    tracker.close()
else:
    os._exit(1)
"""


def _unnamed(start: Callable[..., Any], path: Path, script: str, end: str) -> tuple[str, str]:
    process = start(UNNAMED, path, script, end)
    name = process.line()
    return name, process.end()[1]


def test_an_unnamed_run_is_always_new(start: Callable[..., Any], path: Path) -> None:
    """Its name tells the script and the time."""
    names = [_unnamed(start, path, "/home/me/train mnist.py", "finish")[0] for _ in range(2)]
    assert len(set(names)) == 2
    assert all(name.startswith("train-mnist-20") for name in names)


@pytest.mark.parametrize("end", ["die", "break"])
def test_an_interrupted_unnamed_run_is_named_at_the_next_start(start: Callable[..., Any], path: Path, end: str) -> None:
    """With the keyword that continues it."""
    name, said = _unnamed(start, path, "train.py", end)
    assert said == ""
    _, said = _unnamed(start, path, "train.py", "finish")
    assert said.strip() == (
        f"WARNING run {name} of this script was interrupted at epoch 0: continue it with run={name!r}"
    )


def test_a_finished_run_or_one_of_another_script_is_not_mentioned(start: Callable[..., Any], path: Path) -> None:
    """They are nothing to continue."""
    _unnamed(start, path, "other.py", "die")
    for end in ("finish", "finish"):
        assert _unnamed(start, path, "train.py", end)[1] == ""


def test_a_run_that_still_trains_is_not_mentioned(start: Callable[..., Any], path: Path) -> None:
    """The one before it is, which was interrupted."""
    name, _ = _unnamed(start, path, "train.py", "die")
    training = start(UNNAMED, path, "train.py", "wait")
    training.line()
    _, said = _unnamed(start, path, "train.py", "finish")
    assert f"run {name} of this script was interrupted" in said
    assert said.count("\n") == 1


def test_an_unnamed_run_can_be_continued_by_its_name(start: Callable[..., Any], path: Path) -> None:
    """As the hint says."""
    name, _ = _unnamed(start, path, "train.py", "die")
    tracker = Tracker(path, name)
    found = tracker.begin()
    tracker.close(finished=True)
    assert found is not None
    assert found.ref == f"{name}@v1"
    assert _unnamed(start, path, "train.py", "finish")[1] == ""


def test_a_bad_reference_is_refused_at_once(path: Path) -> None:
    """Before the store is made."""
    with pytest.raises(InvalidOption):
        Tracker(path, "r", resume="r@")
    assert not path.exists()
