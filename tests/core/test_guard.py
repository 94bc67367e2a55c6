"""The resume guard: what a training is recorded with, and what is said when it goes on with something else."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckpt_tracker import Store, guard
from ckpt_tracker.errors import InvalidOption, StateMismatch
from ckpt_tracker.tracker import Tracker


def train(path: Path, *, saves: int = 1, **options: Any) -> Tracker:
    """One more epoch of run r, or several."""
    tracker = Tracker(path, "r", **options)
    resumed = tracker.begin()
    epoch = resumed.epoch + 1 if resumed and resumed.epoch is not None else 0
    tracker.context = {"world_size": 2, "data": {"length": 60, "sampler": "RandomSampler"}}
    for each in range(epoch, epoch + saves):
        tracker.save({"model": np.full(3, each)}, epoch=each, step=each, metrics=None)
    tracker.close()
    return tracker


def test_changes_are_named_by_their_place() -> None:
    """What is the same is left out, and so is a branch that one side knows nothing of."""
    was = {"config": {"lr": 0.1, "layers": [4, 2], "old": 1}, "world_size": 2}
    now = {"config": {"lr": 0.2, "layers": [4, 2], "new": None}, "world_size": 2, "data": {"length": 3}}
    found = guard.changes(was, now)
    assert [str(each) for each in found] == [
        "config.lr: 0.1 before, 0.2 now",
        "config.old: 1 before, nothing now",
    ]
    assert guard.among(found, "config.lr") == found[:1]
    assert guard.among(found, "config.l") == ()


def test_a_refusal_shows_what_changed_and_the_way_out() -> None:
    """Nothing is raised where nothing changed."""
    guard.refuse((), ref="r@v3", remedy="never mind")
    with pytest.raises(StateMismatch) as caught:
        guard.refuse(guard.changes({"batch": 8}, {"batch": 9}), ref="r@v3", remedy="set it back")
    assert str(caught.value) == "r@v3 can't be continued exactly:\n  batch: 8 before, 9 now\nset it back"


def test_a_changed_config_is_shown_when_the_run_goes_on(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Against the run's last start, and once; the same config says nothing."""
    train(path, config={"lr": 0.1, "layers": (4, 2)})
    train(path, config={"lr": 0.1, "layers": (4, 2)})
    assert "changes" not in caplog.text
    train(path, config={"lr": 0.3, "layers": (4, 2)})
    assert "continuing from r@v2, with changes since then:\n  config.lr: 0.1 before, 0.3 now" in caplog.text
    caplog.clear()
    train(path, config={"lr": 0.3, "layers": (4, 2)})
    assert "changes" not in caplog.text


def test_a_package_that_only_one_of_the_two_had_imported_is_no_change(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version of one that both had is."""
    train(path)
    monkeypatch.setitem(sys.modules, "jax", sys)
    train(path)
    assert "changes" not in caplog.text
    monkeypatch.setattr("ckpt_tracker.environment._version", lambda name: "99.0")  # a process looks them up once
    train(path)
    assert "environment.packages.numpy: " in caplog.text
    assert "before, 99.0 now" in caplog.text


def test_the_context_is_kept_with_each_checkpoint(path: Path) -> None:
    """In the manifest and in the index, and it is no part of the digest."""
    expected = {"world_size": 2, "data": {"length": 60, "sampler": "RandomSampler"}}
    train(path)
    with Store(path) as store:
        first = store["r@last"]
        assert first.context == expected
        twin = store.run("twin").save({"model": np.full(3, 0)})
        assert twin.wait().context == {}
        assert twin.digest == first.digest
    for file in path.glob("index.sqlite*"):
        file.unlink()
    with Store(path) as store:
        assert store["r@last"].context == expected


def test_overrides_are_recorded_in_the_lineage(path: Path) -> None:
    """With the parent of the first checkpoint after the resume, and in the start that it was; not with later ones."""
    train(path, overrides={"lr": 0.5})
    train(path, overrides={"lr": 0.5}, saves=2)
    with Store(path) as store:
        first, second, third = store.run("r").checkpoints()
        assert first.parents == ()
        assert [(each.ref, each.overrides) for each in second.parents] == [("r@v1", {"lr": 0.5})]
        assert [(each.ref, each.overrides) for each in third.parents] == [("r@v2", {})]
        assert store.run("r").record.last_start["overrides"] == {"lr": 0.5}


def test_overrides_that_are_no_mapping_are_refused(path: Path) -> None:
    """At once, with an example."""
    with pytest.raises(InvalidOption, match=r"overrides=0\.1: expected for example"):
        Tracker(path, overrides=0.1)  # type: ignore[arg-type]


SCRIPT = """
import sys
import numpy as np
from ckpt_tracker.tracker import Tracker

tracker = Tracker(sys.argv[1], "r")
resumed = tracker.begin()
tracker.save({"model": np.ones(3)}, epoch=0, step=0, metrics=None)
tracker.close()
"""


def test_commit_and_uncommitted_changes_are_recorded_and_compared(tmp_path: Path) -> None:
    """Of the repository that the script lies in, wherever it is started from; the changes themselves too."""
    repository = tmp_path / "code"
    repository.mkdir()
    script = repository / "train.py"

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(repository), "-c", "user.name=n", "-c", "user.email=e", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def run() -> str:
        command = [sys.executable, str(script), str(tmp_path / "store")]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stderr

    git("init", "--quiet")
    script.write_text(SCRIPT, encoding="utf-8")
    git("add", "train.py")
    git("commit", "--quiet", "-m", "one")
    assert run() == ""
    script.write_text(SCRIPT + "# a second thought\n", encoding="utf-8")
    told = run()
    assert "environment.code.uncommitted: nothing before, " in told
    assert "environment.code.commit" not in told
    with Store(tmp_path / "store", create=False) as store:
        assert store.run("r").record.environment["code"]["commit"] == git("rev-parse", "HEAD")
        assert "+# a second thought" in store.layout.events("r").read_text(encoding="utf-8")
    git("commit", "--quiet", "-am", "two")
    assert "environment.code.commit: " in run()


def test_nothing_of_the_process_environment_gets_into_the_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens live there; and on command lines."""
    monkeypatch.setenv("API_TOKEN", "hush-4711")
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--token=hush-4711"])
    train(path, config={"lr": 0.1})
    train(path, config={"lr": 0.1})
    files = [file for file in path.rglob("*") if file.is_file()]
    assert files
    assert [file for file in files if b"hush-4711" in file.read_bytes()] == []


@pytest.fixture(autouse=True)
def warnings_are_seen(caplog: pytest.LogCaptureFixture) -> None:
    """What the guard says comes at this level."""
    caplog.set_level(logging.WARNING, logger="ckpt_tracker")
