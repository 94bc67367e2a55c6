"""Stores that somebody forged are refused, by the name of what is wrong with them: quickly, in little memory, without
running anything, and without touching anything outside. What is not forged still loads.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from durability import hostile_forgeries as forgeries
from durability.hostile_forgeries import (
    HASH,
    Forgery,
    bomb,
    event,
    manifest,
    replaced,
    run_file,
    store_file,
    tensor,
    text,
    tree,
)

from ckpt_tracker import Store
from ckpt_tracker.errors import InvalidOption

TESTS = Path(__file__).parents[1]
WEIGHTS = np.arange(6.0)
EMPTY: dict[str, Any] = {"nbytes": 0, "pieces": []}

TENSORS = {
    "a shape beyond 64 bits": tensor(shape=[2**62, 4]),
    "no elements, beside huge lengths": tensor(shape=[0, 2**62, 2**62], **EMPTY),
    "a negative length": tensor(shape=[-2, -3]),
    "true for a length": tensor(shape=[True, 6]),
    "a float for a length": tensor(shape=[6.0]),
    "text for a length": tensor(shape=["6"]),
    "a text for a shape": tensor(shape="6"),
    "65 dimensions": tensor(shape=[1] * 64 + [6]),
    "a hundred thousand dimensions": tensor(shape=[1] * 100_000 + [6]),
    "a million dimensions": Forgery(tensor(shape=[1] * 1_000_000).forge, errors=("CkptTrackerError",), word="memory"),
    "a negative size": tensor(nbytes=-48),
    "another size": tensor(nbytes=40, shape=[5]),
    "sizes that do not add up": manifest(nbytes=7),
    "a piece that is not all in the object": Forgery(forgeries.piece_outside),
    "a piece that ends beyond 64 bits": tensor(pieces=[[HASH, 2**63 - 8, 48]]),
    "a negative offset": tensor(pieces=[[HASH, -1, 48]]),
    "an empty piece": tensor(pieces=[[HASH, 0, 48], [HASH, 48, 0]]),
    "a piece of four parts": tensor(pieces=[[HASH, 0, 48, 0]]),
    "a piece with a relative path": tensor(pieces=[["../../outside/secret", 0, 48]]),
    "a piece with an absolute path": tensor(pieces=[["/etc/passwd", 0, 48]]),
    "a piece with a name in capitals": tensor(pieces=[["AB" * 32, 0, 48]]),
    "a piece with a line break in its name": tensor(pieces=[[HASH + "\n", 0, 48]]),
    "pieces that overlap": Forgery(forgeries.repeated_pieces),
    "ten terabytes of holes": Forgery(forgeries.huge_tensor, errors=("CkptTrackerError",), word="no memory"),
    "a type that holds objects": tensor(dtype="O"),
    "a type with a shape": tensor(dtype="(2,3)f4"),
    "a type that is no Python": tensor(dtype="04"),
    "a type of several": tensor(dtype="i4,i4"),
    "a type without a meaning": tensor(dtype="V8"),
    "a type of two gigabytes": tensor(dtype="<S2147483647"),
    "a number for a type": tensor(dtype=8),
    "a library that is none": tensor(kind="pickle"),
    "a number for the flags": tensor(flags=7),
}

MEMBERS = {
    "an epoch given twice": text(b'"epoch":0', b'"epoch":0,"epoch":1'),
    "NaN for a number": text(b'"epoch":0', b'"epoch":NaN'),
    "infinity for a number": text(b'"epoch":0', b'"epoch":-Infinity'),
    "a number beyond a float": text(b'"epoch":0', b'"epoch":1e999'),
    "an integer beyond 64 bits": text(b'"epoch":0', b'"epoch":18446744073709551617'),
    "an integer of a million digits": text(b'"epoch":0', b'"epoch":' + b"9" * 1_000_000),
    "half a letter": text(b'"epoch":0', b'"epoch":"\\ud800"'),
    "a byte that is no text": text(b'"epoch":0', b'"epoch":"\xff"'),
    "text for an epoch": manifest(epoch="3"),
    "true for a step": manifest(step=True),
    "a negative step": manifest(step=-1),
    "a step beyond the index": manifest(step=2**63),
    "a version that is another": manifest(version=2),
    "a run that is another": manifest(run="good"),
    "a run that is a path": manifest(run="../good"),
    "a time that is none": manifest(created_at="yesterday"),
    "a time without a zone": manifest(created_at="2026-01-01T00:00:00"),
    "a time that no zone can hold": manifest(created_at="9999-12-31T23:59:59+00:00"),
    "a list of metrics": manifest(metrics=[1]),
    "text for a metric": manifest(metrics={"loss": "0"}),
    "a path for a digest": manifest(digest="../x"),
    "parents that are none": manifest(parents=[7]),
    "a negative time of writing": manifest(write_seconds=-1),
    "a list for a context": manifest(context=[]),
    "a list of sections": manifest(sections=[1]),
    "an object of tensors": manifest(tensors={}),
    "a section with a name of 1,001 letters": manifest(sections={"a" * 1001: {}}),
    "a kind of 1,001 letters": manifest(kind="a" * 1001),
    "lists nested a hundred thousand deep": bomb(b"[" * 100_000 + b"]" * 100_000),
    "lists nested 250 deep": bomb(b"[" * 250 + b"]" * 250),
    "two million empty lists": bomb(b"[" + b"[]," * 2_000_000 + b"0]"),
    "nine million numbers": bomb(b"[" + b"0," * 9_000_000 + b"0]"),
}

TREES = {
    "a member of 1,001 letters": tree({"a" * 1001: 1}),
    "a tensor that is not there": tree({"$tensor": 9}),
    "the last tensor but one": tree({"$tensor": -1}),
    "true for a tensor": tree({"$tensor": True}),
    "text for a tensor": tree({"$tensor": "0"}),
    "a tensor with something beside it": tree({"$tensor": 0, "x": 1}),
    "a tensor beside something": tree({"x": 1, "$tensor": 0}),
    "a form that is unknown": tree({"$reduce": ["os:system", ["touch canary"]]}),
    "a named tuple of a module that would run": tree({"$namedtuple": ["evil:T", {}]}, "StateMismatch"),
    "a named tuple that is none": tree({"$namedtuple": ["subprocess:Popen", {"args": "true"}]}, "StateMismatch"),
    "a named tuple with other fields": tree({"$namedtuple": ["__main__:Trap", {"x": 1}]}),
    "a dataclass of a module that would run": tree({"$dataclass": ["evil:D", {}]}, "StateMismatch"),
    "a function for a dataclass": tree({"$dataclass": ["os:system", {}]}, "StateMismatch"),
    "a dataclass that is none": tree({"$dataclass": ["json.encoder:JSONEncoder", {}]}),
    "a dataclass of another class": tree({"$dataclass": ["__main__:Snare", {"__class__": 1}]}),
    "a class behind an attribute": tree({"$dataclass": ["__main__:decoy.inside", {}]}, "StateMismatch"),
    "a class that is a path": tree({"$dataclass": ["numpy.../../evil:D", {}]}, "StateMismatch"),
    "a program of a known package": tree({"$enum": ["numpy.f2py.__main__:X", "A"]}, "StateMismatch"),
    "an enum of a module that would run": tree({"$enum": ["evil:E", "A"]}, "StateMismatch"),
    "an enum without that name": tree({"$enum": ["__main__:Pit", "TWO"]}),
    "a flag that is none": tree({"$flag": ["__main__:Pit", "0x1"]}, "StateMismatch"),
    "a dict class that is another": tree({"$dictclass": ["__main__:Trap", {}]}),
    "a counter of a number": tree({"$counter": 7}),
    "a counter of lists": tree({"$counter": [[[], 1]]}),
    "a key that is a dict": tree({"$dict": [[{}, 1]]}),
    "a key given twice": tree({"$dict": [[1, "a"], [1, "b"]]}),
    "a set of lists": tree({"$set": [[1]]}),
    "a default that is code": tree({"$defaultdict": ["eval", []]}),
    "an ordered dict of nothing": tree({"$odict": []}),
    "a deque of a negative length": tree({"$deque": [-1, []]}),
    "a range of floats": tree({"$range": [0.5, 2, 1]}),
    "a range without a step": tree({"$range": [0, 2**63, 0]}),
    "an integer of ten million digits": tree({"$int": "f" * 10_000_000}),
    "an integer that is a number": tree({"$int": 7}),
    "bytes that are none": tree({"$bytes": "?" * 8}),
    "a float that is none": tree({"$float": "1e5"}),
    "a complex number that is none": tree({"$complex": ["x", "y"]}),
    "a date that is none": tree({"$datetime": "0000-99-99"}),
    "a time that is too long": tree({"$timedelta": [10**15, 0, 0]}),
    "a number of a type that holds objects": tree({"$npscalar": ["|O", "AAAAAAAAAAA="]}),
    "a number that is too short": tree({"$npscalar": ["<f8", "AAA="]}),
    "a type that holds objects": tree({"$npdtype": "O"}),
    "a list for a path": tree({"$path": ["etc", "passwd"]}),
    "a config that is YAML": tree({"$omegaconf": "a: &a [x]\nb: [*a, *a]"}, "Damaged", "MissingExtra"),
}

FILES = {
    "an object that is a symlink": replaced("objects/*/*", "load", by=forgeries.link),
    "an object that is a device": replaced("objects/*/*", "load", by=forgeries.link_to_device),
    "an object that is a FIFO": replaced("objects/*/*", "load", by=forgeries.fifo),
    "an object that is a folder": replaced("objects/*/*", "load", by=forgeries.folder),
    "a folder of objects that is a symlink": replaced("objects/*", "load", by=forgeries.link),
    "a manifest that is a symlink": replaced(forgeries.MANIFEST, "load", by=forgeries.link),
    "a manifest that is a FIFO": replaced(forgeries.MANIFEST, "load", by=forgeries.fifo),
    "a manifest that is a folder": replaced(forgeries.MANIFEST, "load", by=forgeries.folder),
    "a manifest of 10 GB": replaced(forgeries.MANIFEST, "load", by=forgeries.sparse(10**10)),
    "a folder of manifests that is a symlink": replaced("runs/r/manifests", "save", by=forgeries.link),
    "a folder of manifests that is a file": replaced("runs/r/manifests", "save", by=forgeries.plain_file),
    "a run that is a symlink": replaced("runs/r", "save", by=forgeries.link),
    "events that are a symlink": replaced("runs/r/events.jsonl", "save", by=forgeries.link),
    "events that are a FIFO": replaced("runs/r/events.jsonl", "save", by=forgeries.fifo),
    "events that are a folder": replaced("runs/r/events.jsonl", "save", by=forgeries.folder),
    "events of 10 GB": replaced("runs/r/events.jsonl", "save", by=forgeries.sparse(10**10)),
    "a run's lock that is a symlink": replaced("runs/r/lock", "save", by=forgeries.link),
    "a run's lock that is a FIFO": replaced("runs/r/lock", "save", by=forgeries.fifo),
    "the store's lock that is a symlink": replaced("locks/store", "save", by=forgeries.link),
    "a store.json that is a symlink": replaced("store.json", "open", by=forgeries.link),
    "a store.json that is a FIFO": replaced("store.json", "open", by=forgeries.fifo),
    "a store.json that is a folder": replaced("store.json", "open", by=forgeries.folder),
    "a store.json of 10 GB": replaced("store.json", "open", by=forgeries.sparse(10**10)),
    "a store.json without an id": store_file(forgeries.sealed(b'{"format":1')),
    "a store.json with a number for an id": store_file(forgeries.sealed(b'{"format":1,"id":7')),
    "a store.json nested deep": store_file(forgeries.sealed(b'{"format":1,"id":' + b"[" * 10**6)),
    "a store.json with a format in words": store_file(forgeries.sealed(b'{"format":"one","id":"a"')),
    **{
        f"a folder {name} that is a symlink": replaced(name, "open", by=forgeries.link)
        for name in ("objects", "runs", "tmp", "trash", "locks")
    },
    "runs that are a file": replaced("runs", "open", by=forgeries.plain_file),
    "a trash that leads out of the store": Forgery(forgeries.old_files_behind_the_trash, "gc", "trash/r"),
    "the last version there can be": Forgery(forgeries.renamed("999999999999999.json"), "save", "version"),
}

# refused alone: the rest of the run is there
PARTS = {
    "a run.json that is a symlink": replaced("runs/r/run.json", "verify", by=forgeries.link, errors=("findings",)),
    "a run.json that is a FIFO": replaced("runs/r/run.json", "verify", by=forgeries.fifo, errors=("findings",)),
    "a run.json of another run": run_file(name="good"),
    "a run.json with a list for a config": run_file(config=[1]),
    "a run.json without a time": run_file(created_at=None),
    "a run.json with a number for a flag": run_file(unnamed=1),
    "an event that has no name": event(at="now"),
    "a tag of a version in words": event(event="tag", tag="x", version="1"),
    "a tag of a negative version": event(event="tag", tag="x", version=-1),
    "a tag of 1,001 letters": event(event="tag", tag="x" * 1001, version=1),
    "an eviction of versions in words": event(event="evict", versions=["1"]),
    "an eviction of a version beyond all": event(event="evict", versions=[10**18]),
    "an eviction of a number": event(event="evict", versions=1),
    "a start with another mode": event(event="start", monitor="loss", mode="sideways"),
    "a start with a number for a monitor": event(event="start", monitor=7, mode="min"),
    "a start with a list for a config": event(event="start", config=[1]),
    "a repair that excuses anything": event(event="repair", lines="*", nbytes=-1),
}

# nothing to refuse: what they would do does not happen
HARMLESS = {
    "a named tuple that would run": tree({"$namedtuple": ["__main__:Trap", {"w": 1}]}),
    "a dataclass that would run": tree({"$dataclass": ["__main__:Snare", {"w": 1}]}),
    "an enum that would run": tree({"$enum": ["__main__:Pit", "ONE"]}),
    "a path out of the store": tree({"$path": "../../outside"}),
    "a range that never ends": tree({"$range": [0, 2**63 - 1, 1]}),
    "an index with triggers": Forgery(
        forgeries.foreign_index("CREATE TABLE t (x); CREATE TRIGGER e AFTER INSERT ON t BEGIN DELETE FROM t; END;")
    ),
    "an index with a view": Forgery(
        forgeries.foreign_index(
            "DROP VIEW IF EXISTS checkpoints; CREATE VIEW checkpoints AS SELECT 1 AS run, 2 AS version"
        )
    ),
    "an index that is a symlink": replaced("index.sqlite", "", by=forgeries.link),
    "an index that is a FIFO": replaced("index.sqlite", "", by=forgeries.fifo),
    "an index that is a folder": replaced("index.sqlite", "", by=forgeries.folder),
    "an index of 10 GB": replaced("index.sqlite", "", by=forgeries.sparse(10**10)),
    "a journal of the index that is a symlink": replaced("index.sqlite-wal", "", by=forgeries.link),
    "a journal of the index that is a FIFO": replaced("index.sqlite-journal", "", by=forgeries.fifo),
    "a length of the events that is a symlink": replaced("runs/r/events.length", "", by=forgeries.link),
    "a second name for a version": Forgery(forgeries.renamed("0000001.json")),
    "version 0": Forgery(forgeries.renamed("000000.json")),
    "a version beyond 64 bits": Forgery(forgeries.renamed("99999999999999999999.json")),
}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sound store, as it comes from elsewhere: without its index, and without any lock."""
    path = tmp_path_factory.mktemp("pristine") / "store"
    with Store(path) as store:
        for name in ("good", "r"):
            state = {"model": {"w": WEIGHTS + (name == "r"), "b": np.ones(3)}, "loop": {"name": name}}
            run = store.run(name, {"lr": 0.1})
            for epoch in range(2):
                run.save(state, epoch=epoch, metrics={"loss": 1.0}).wait()
            run.tag("paper")
    (path / "index.sqlite").unlink()
    return path


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], dict[str, Any]]]:
    """Sends a visitor to a store; what it tells of each step."""
    home = tmp_path_factory.mktemp("visitor")
    (home / "evil.py").write_text("from pathlib import Path\nPath('canary').touch()\n")
    environment = {**os.environ, "PYTHONPATH": f"{home}:{TESTS}", "MALLOC_ARENA_MAX": "1", "HOME": str(home)}
    command = [sys.executable, "-m", "durability.hostile_visitor"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=home, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def send(path: Path) -> dict[str, Any]:
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
            told: dict[str, Any] = json.loads(process.stdout.readline())
            told["canary"] = (home / "canary").exists()
            return told

        yield send


@pytest.fixture
def visited(
    pristine: Path, visit: Callable[[Path], dict[str, Any]], tmp_path: Path
) -> Callable[[Forgery], dict[str, Any]]:
    """Forges a copy of the store and sends a visitor there: no crash, no canary, nothing changed outside, and the
    neighbour is what it was.
    """

    def forge_and_visit(forgery: Forgery) -> dict[str, Any]:
        store = tmp_path / "store"
        shutil.copytree(pristine, store)
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "secret").write_bytes(WEIGHTS.tobytes())
        forgery.forge(store)
        outside = _contents(tmp_path / "outside")
        told = visit(store)
        assert "died" not in told
        assert [step for step, found in told.items() if isinstance(found, list) and found[0] == "crash"] == [], told
        assert not told["canary"]
        assert _contents(tmp_path / "outside") == outside
        assert told["open"] is not None or told["weights"] == WEIGHTS.tolist()
        return told

    return forge_and_visit


def _contents(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every file, without following anything or reading what never ends."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {
        str(path): (each.st_mode, each.st_size, each.st_mtime_ns) for path, each in found.items() if not path.is_dir()
    }


REFUSED = {**TENSORS, **MEMBERS, **TREES, **FILES}


@pytest.mark.parametrize("forgery", REFUSED.values(), ids=REFUSED.keys())
def test_a_forged_store_is_refused_by_name(visited: Callable[[Forgery], dict[str, Any]], forgery: Forgery) -> None:
    """By an error of ours that names the thing, at the step where it matters."""
    told = visited(forgery)
    assert told[forgery.step] is not None, told
    error, message = told[forgery.step]
    assert error in forgery.errors, message
    assert forgery.word in message
    assert len(message) < 2000


@pytest.mark.parametrize("forgery", PARTS.values(), ids=PARTS.keys())
def test_what_says_nothing_true_is_passed_over_and_found(
    visited: Callable[[Forgery], dict[str, Any]], forgery: Forgery
) -> None:
    """The run's checkpoints load, it can be gone on with, and the verify names the file."""
    told = visited(forgery)
    assert told["verify"][0] == "findings"
    assert forgery.word in told["verify"][1]
    assert (told["load"], told["save"]) == (None, None)


@pytest.mark.parametrize("forgery", HARMLESS.values(), ids=HARMLESS.keys())
def test_what_would_run_does_not(visited: Callable[[Forgery], dict[str, Any]], forgery: Forgery) -> None:
    """The store is as usable as any."""
    told = visited(forgery)
    assert {step: told[step] for step in ("open", "load", "save", "list", "gc")} == dict.fromkeys(
        ("open", "load", "save", "list", "gc")
    )


NAMES = ["../good", "a/b", "/absolute/x", "..", ".", "", ".hidden", "a" * 101, "é", "good\n", "go od", "GOOD", "R"]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_name_that_is_no_folder_of_its_own_everywhere_is_no_run(pristine: Path, tmp_path: Path, name: str) -> None:
    """Neither a path, nor what another file system would take for another run's."""
    shutil.copytree(pristine, tmp_path / "store")
    with Store(tmp_path / "store") as store, pytest.raises(InvalidOption):
        store.run(name)
    assert [each.name for each in tmp_path.iterdir()] == ["store"]
    assert sorted(each.name for each in (tmp_path / "store" / "runs").iterdir()) == ["good", "r"]
