"""What is no store, or one of a later version, is refused before a byte is written; half-made ones are made whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ckpt_tracker import Store
from ckpt_tracker.disk.jsonfile import seal
from ckpt_tracker.errors import CkptTrackerError, Damaged, FormatTooNew, NotAStore, StoreNotFound

Contents = Callable[[Path], dict[str, bytes]]
STATE = {"loop": {"epoch": 1}}


@pytest.fixture
def used(path: Path) -> Path:
    """The folder of a closed store that holds a checkpoint."""
    with Store(path) as store:
        store.run("r").save(STATE).wait()
    return path


NEWER = {
    "sealed": seal({"format": 3, "id": "a" * 32}),
    "written by hand": b'{"format": 99}',
    "sealed otherwise": b'{"format": 3, "id": "x", "seal": "blake4"}\n',
}


@pytest.mark.parametrize("document", NEWER.values(), ids=NEWER.keys())
def test_a_store_of_a_newer_format_is_refused_and_left_alone(used: Path, contents: Contents, document: bytes) -> None:
    """However the later version seals its files; the way out is said."""
    (used / "store.json").write_bytes(document)
    before = contents(used)
    with pytest.raises(FormatTooNew, match=r"store\.json has format \d+, .* reads up to format 2: upgrade"):
        Store(used)
    assert contents(used) == before


def test_a_folder_of_something_else_is_refused_and_left_alone(path: Path, contents: Contents) -> None:
    """The message names what it holds."""
    (path / "data").mkdir(parents=True)
    (path / "data" / "x.csv").write_text("1,2")
    (path / "index.sqlite").write_text("theirs")
    before = contents(path)
    with pytest.raises(NotAStore, match=r"is not a store: it holds data, .*no store\.json; name a new or an empty"):
        Store(path)
    assert contents(path) == before


def test_the_runs_folder_of_another_tool_is_refused_and_left_alone(path: Path, contents: Contents) -> None:
    """TensorBoard calls its folder so, too."""
    (path / "runs" / "Nov21_host").mkdir(parents=True)
    (path / "runs" / "Nov21_host" / "events.out").write_text("x")
    before = contents(path)
    with pytest.raises(NotAStore, match="it holds runs and no"):
        Store(path)
    assert contents(path) == before


def test_a_file_is_refused_and_left_alone(path: Path) -> None:
    """A checkpoint file of another tool is not a store."""
    path.write_bytes(b"weights")
    with pytest.raises(NotAStore, match="is a file: expected a folder"):
        Store(path)
    assert path.read_bytes() == b"weights"


def test_a_path_below_a_file_is_refused(path: Path) -> None:
    """Nothing can be made there."""
    path.write_bytes(b"weights")
    with pytest.raises(CkptTrackerError):
        Store(path / "checkpoints")


def test_a_store_that_is_only_looked_at_must_exist(path: Path) -> None:
    """A misspelt path is no new store where nothing is to be saved; a name says how to give another."""
    with pytest.raises(StoreNotFound, match=r"there is no store at .*store"):
        Store(path, create=False)
    assert not path.exists()


def test_an_empty_folder_is_no_store_to_look_at(path: Path) -> None:
    """It becomes one only where it may be made."""
    path.mkdir()
    with pytest.raises(StoreNotFound):
        Store(path, create=False)
    assert list(path.iterdir()) == []
    Store(path).close()
    assert (path / "store.json").is_file()


def _steps_of_making(path: Path) -> list[Callable[[], object]]:
    return [
        path.mkdir,
        *((path / name).mkdir for name in ("locks", "tmp", "objects", "trash", "runs")),
        lambda: (path / "tmp" / "store.json.0123456789ab").write_bytes(b'{"form'),
    ]


@pytest.mark.parametrize("steps", range(8))
def test_a_store_that_a_crash_left_half_made_opens_as_new(path: Path, steps: int) -> None:
    """Whichever step of making it was the last."""
    for step in _steps_of_making(path)[:steps]:
        step()
    with Store(path) as store:
        assert store.run("r").save(STATE).load() == STATE


@pytest.mark.parametrize("name", ["runs", "objects", "trash", "tmp", "locks"])
def test_a_folder_that_is_missing_is_made_again(used: Path, name: str) -> None:
    """Archivers leave empty folders out."""
    shutil.rmtree(used / name)
    with Store(used) as store:
        assert store.run("s").save(STATE).load() == STATE


def test_a_run_that_a_crash_left_half_made_is_started(used: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its folder without `run.json` is no run yet, and nothing is said to be lost."""
    (used / "runs" / "s" / "manifests").mkdir(parents=True)
    with Store(used) as store:
        assert [run.name for run in store.runs()] == ["r"]
        store.run("s", config={"lr": 1}).save(STATE).wait()
    with Store(used) as store:
        assert store.run("s").config == {"lr": 1}
    assert caplog.messages == []


def test_a_run_whose_config_is_damaged_keeps_its_checkpoints(used: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is lost is said, and what is not is there."""
    (used / "runs" / "r" / "run.json").write_bytes(b"{}")
    with Store(used) as store:
        assert store["r@last"].load() == STATE
        assert store.run("r").config == {}
    assert any(message.startswith("the config of run r is lost: ") for message in caplog.messages)


@pytest.mark.parametrize("data", [b"", b"{}", b'{"format":0}', b"\0" * 100, b'{"format":1,"id":"a"}'])
def test_a_damaged_store_file_is_named_with_the_way_out(used: Path, contents: Contents, data: bytes) -> None:
    """Moved away it is made anew, and everything is still there."""
    (used / "store.json").write_bytes(data)
    before = contents(used)
    with pytest.raises(Damaged, match=r"store\.json.* move it away to have it made anew"):
        Store(used)
    assert contents(used) == before
    (used / "store.json").unlink()
    with Store(used) as store:
        assert store["r@last"].load() == STATE


def test_a_store_behind_a_symlink_is_the_store(used: Path, tmp_path: Path) -> None:
    """A big disk is often mounted elsewhere."""
    os.symlink(used, tmp_path / "link")
    with Store(tmp_path / "link") as store:
        store.run("r").save(STATE).wait()
    with Store(used) as store:
        assert store["r@last"].version == 2


def test_files_that_systems_leave_behind_do_no_harm(used: Path) -> None:
    """A file browser's notes in the folders are neither runs nor objects nor checkpoints."""
    for folder in (used, used / "runs", used / "objects", used / "trash", used / "runs" / "r" / "manifests"):
        (folder / ".DS_Store").write_bytes(b"x")
    with Store(used) as store:
        assert store.gc() == 0
        assert store.verify(deep=True).ok
        assert [run.name for run in store.runs()] == ["r"]
        assert store["r@last"].load() == STATE
    assert (used / "objects" / ".DS_Store").exists()
