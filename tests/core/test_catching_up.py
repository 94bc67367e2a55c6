"""Opening a store reads only what has changed since the index was brought up to it, and misses no change."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ckpt_tracker import Store
from ckpt_tracker.files.catching_up import bring_up_to_date
from ckpt_tracker.records import Monitor
from ckpt_tracker.retention import Best

LATER = 3600.0
"""Seconds after which a change lies back far enough, in any case."""


@pytest.fixture
def known(path: Path) -> Path:
    """The folder of a closed store with two runs of three checkpoints, whose index remembers how they look."""
    with Store(path) as store:
        for name in ("a", "b"):
            run = store.run(name)
            for epoch in range(3):
                run.save({"model": {"w": epoch}, "optimizer": {}}, epoch=epoch, metrics={"loss": 1 / (1 + epoch)})
            run.close()
    remember(path)
    return path


def remember(path: Path) -> None:
    """Lets the index remember how things look, as an opening an hour later does."""
    with Store(path) as store:
        bring_up_to_date(store.index, store.layout, now=time.time() + LATER)
        assert set(store.index.sources()) == {run.name for run in store.runs()}


def listed(path: Path) -> list[str]:
    """Every checkpoint that the store tells of, with all it says of it."""
    with Store(path) as store:
        runs = [repr(run) for run in store.index.runs()]
        return [*runs, *(repr(record) for record in store.index.checkpoints())]


def manifest(path: Path, version: int, run: str = "a") -> Path:
    """A manifest's file."""
    return path / f"runs/{run}/manifests/{version:06d}.json"


def _times(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_atime_ns, found.st_mtime_ns


def _remove_keeping_times(path: Path) -> None:
    folder = manifest(path, 2).parent
    before = _times(folder)
    manifest(path, 2).unlink()
    os.utime(folder, ns=before)


def _swap_keeping_times_and_number(path: Path) -> None:
    with Store(path) as store:
        store.run("a").save({"model": {"w": 9}}, epoch=9, metrics={"loss": 0.01}).wait()
    remember(path)
    folder = manifest(path, 4).parent
    shutil.move(manifest(path, 4), path.parent / "000004.json")
    remember(path)
    before = _times(folder)
    manifest(path, 1).unlink()
    shutil.move(path.parent / "000004.json", manifest(path, 4))
    os.utime(folder, ns=before)


def _restore_folder(path: Path) -> None:
    """As `cp -a` and `rsync -a` do: with the times that it had."""
    folder, backup = manifest(path, 1).parent, path.parent / "backup"
    shutil.copytree(folder, backup)
    before = _times(folder)
    shutil.rmtree(folder)
    (backup / "000003.json").unlink()
    shutil.copytree(backup, folder)
    os.utime(folder, ns=before)


def _strip(path: Path) -> None:
    """A retention leaves one with its weights only, and is killed before it can tell the index."""
    shutil.copy(path / "index.sqlite", path.parent / "index.sqlite")
    with Store(path) as store:
        store.evict(store.run("a").plan(Best(3, "loss", mode="min").weights_only()))
    os.replace(path.parent / "index.sqlite", path / "index.sqlite")


def _tag(path: Path) -> None:
    shutil.copy(path / "index.sqlite", path.parent / "index.sqlite")
    with Store(path) as store:
        store.run("a").tag("paper")
    os.replace(path.parent / "index.sqlite", path / "index.sqlite")


def _config(path: Path) -> None:
    (path / "runs/b/run.json").unlink()
    with Store(path.parent / "other") as other:
        other.run("b", config={"lr": 3})
    before = _times(path / "runs/a/run.json")
    shutil.move(path.parent / "other/runs/b/run.json", path / "runs/b/run.json")
    os.utime(path / "runs/b/run.json", ns=before)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a checkpoint comes": lambda path: (
        shutil.copy(manifest(path, 3), path.parent / "x") and shutil.copy(_saved_elsewhere(path), manifest(path, 4))
    ),
    "a checkpoint goes": lambda path: manifest(path, 2).unlink(),
    "a checkpoint goes, and the folder's time is set back": _remove_keeping_times,
    "one goes, another comes, and the folder's time is set back": _swap_keeping_times_and_number,
    "a folder is restored from a backup, with its time": _restore_folder,
    "a checkpoint loses all but its weights": _strip,
    "a tag comes": _tag,
    "a config is another, of the same age": _config,
    "a run goes": lambda path: shutil.rmtree(path / "runs/b"),
    "a run comes": lambda path: shutil.copytree(_other_store(path) / "runs/c", path / "runs/c"),
    "a whole store is copied": lambda path: shutil.copytree(path, path.parent / "copy") and manifest(path, 1).unlink(),
}


def _saved_elsewhere(path: Path) -> Path:
    with Store(path.parent / "elsewhere") as other:
        for epoch in range(4):
            other.run("a").save({"model": {}}, epoch=epoch, metrics={"loss": 0.2})
    return manifest(path.parent / "elsewhere", 4)


def _other_store(path: Path) -> Path:
    with Store(path.parent / "other") as other:
        other.run("c").save({"model": {}}, epoch=0)
    return path.parent / "other"


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_no_change_of_the_files_is_missed(known: Path, change: Callable[[Path], object]) -> None:
    """The index says what one that is made anew says."""
    before = listed(known)
    change(known)
    after = listed(known)
    for file in known.glob("index.sqlite*"):
        file.unlink()
    assert after == listed(known)
    assert after != before


COUNT_OPENED = """
    import sys
    from ckpt_tracker import Store
    with Store(sys.argv[1]):
        pass  # whatever is imported late is imported now
    found = []
    def note(event, arguments):
        if event in ("open", "os.listdir", "os.scandir") and sys.argv[1] in str(arguments[0]):
            found.append(str(arguments[0]))
    sys.addaudithook(note)
    with Store(sys.argv[1]):
        pass
    print(len(found), sum("/runs/" in each for each in found), "sqlite_utils" in sys.modules)
"""


def test_opening_what_is_known_opens_nothing_of_a_run(known: Path, python: Callable[..., str]) -> None:
    """Neither its folder nor its files, however many checkpoints there are."""
    few = python(COUNT_OPENED, known)
    with Store(known) as store:
        for epoch in range(40):
            store.run("a").save({"model": {"w": epoch}}, epoch=epoch)
    remember(known)
    many = python(COUNT_OPENED, known)
    assert few == many
    assert many.split()[1:] == ["0", "False"]


def test_what_changed_a_moment_ago_is_not_remembered(path: Path) -> None:
    """Another change may follow within the same tick of the clock, and leave the times as they are."""
    with Store(path) as store:
        store.run("a").save({"model": {}}).wait()
    with Store(path) as store:
        assert store.index.sources() == {}


def test_a_change_from_the_future_is_not_remembered(path: Path) -> None:
    """The clock has been set back: what is to come may have the same time."""
    with Store(path) as store:
        store.run("a").save({"model": {}}).wait()
        bring_up_to_date(store.index, store.layout, now=time.time() - LATER)
        assert store.index.sources() == {}


def test_nothing_is_remembered_on_a_network_file_system(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There times are as old as somebody's cache."""
    monkeypatch.setenv("CKPT_TRACKER_NETWORK", "1")
    with Store(path) as store:
        store.run("a").save({"model": {}}).wait()
        bring_up_to_date(store.index, store.layout, now=time.time() + LATER)
        assert store.index.sources() == {}


@pytest.mark.parametrize("file", ["manifests/000002.json", "run.json", "events.jsonl"])
def test_what_can_not_be_read_is_named_each_time(known: Path, file: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is not remembered as known, and found once it can be read."""
    damaged = known / "runs/a" / file
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:20] + b"#" + whole[21:])
    (known / "index.sqlite").unlink()
    for _ in range(2):
        with Store(known) as store:
            bring_up_to_date(store.index, store.layout, now=time.time() + LATER)
            assert set(store.index.sources()) == {"b"}
    damaged.write_bytes(whole)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "ckpt_tracker"), Store(known) as store:
        assert len(store.run("a").checkpoints()) == 3
    assert not caplog.records


def test_a_store_opens_while_another_process_writes_the_index(known: Path) -> None:
    """What was only to be remembered is left out."""
    connection = sqlite3.connect(known / "index.sqlite", isolation_level=None)
    connection.execute("DELETE FROM _sources")
    connection.execute("BEGIN IMMEDIATE")
    with Store(known) as store:
        bring_up_to_date(store.index, store.layout, now=time.time() + LATER)
        assert store.index.sources() == {}
        assert store["a@last"].version == 3
    connection.close()


def test_catching_up_needs_no_sqlite_utils(known: Path, python: Callable[..., str]) -> None:
    """Who looks does not pay for importing it, though a training was killed before it told the index."""
    shutil.copy(_saved_elsewhere(known), manifest(known, 4))
    code = """
        import sys
        from ckpt_tracker import Store
        with Store(sys.argv[1]) as store:
            print(store["a@last"].version, "sqlite_utils" in sys.modules)
    """
    assert python(code, known) == "4 False"


def test_a_removal_that_others_are_about_to_tell_is_not_undone(known: Path) -> None:
    """What catches up looks once more when nobody else can write, and says what is there then."""
    with Store(known) as store:
        listing = store.index.versions

        def late(run: str) -> set[int]:
            found = listing(run)
            if manifest(known, 3).exists():
                manifest(known, 3).unlink()
                store.index.remove("a", [3])
            return found

        store.index.versions = late  # type: ignore[method-assign]
        shutil.copy(_saved_elsewhere(known), manifest(known, 4))
        bring_up_to_date(store.index, store.layout)
        store.index.versions = listing  # type: ignore[method-assign]
        assert store.index.versions("a") == {1, 2, 4}
        assert store.index.best("a", Monitor("loss", "min")) == 4


def test_looking_loads_neither_what_writes_nor_what_ranks(known: Path, python: Callable[..., str]) -> None:
    """A list of checkpoints needs no sqlite-utils, no rich, no NumPy and no grammar of expressions."""
    code = """
        import sys
        from ckpt_tracker import Store
        with Store(sys.argv[1]) as store:
            names = [each.ref for run in store.runs() for each in run.checkpoints()]
        print(len(names), *({"sqlite_utils", "rich", "numpy", "ckpt_tracker.criteria"} & set(sys.modules)))
    """
    assert python(code, known) == "6"
