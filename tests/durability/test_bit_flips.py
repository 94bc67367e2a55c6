"""Every byte of every file of a small store flipped, every file cut at every length, every file missing once.

Whatever it is, a verify finds it, a load gives what was saved or one of our errors, and `resume="auto"` steps back.
Locks, the index and what lies in `tmp/` are no part of what was saved; the index has tests of its own below.
"""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckpt_tracker import Store, resuming
from ckpt_tracker.disk.formats import versions
from ckpt_tracker.errors import CkptTrackerError, Damaged
from ckpt_tracker.files import manifest
from ckpt_tracker.files.layout import Layout
from ckpt_tracker.files.object_folder import ObjectFolder
from ckpt_tracker.inspection.verification import verify_runs
from ckpt_tracker.loading import load_state
from ckpt_tracker.retention import Last

KINDS = {
    "objects": "objects/*/*",
    "manifests": "runs/*/manifests/*",
    "trash": "trash/*/*.json",
    "events": "runs/*/events.jsonl",
    "length of the events": "runs/*/events.length",
    "run": "runs/*/run.json",
    "store": "store.json",
}
EPOCHS = range(5)


def state(epoch: int) -> dict[str, Any]:
    """One tensor that is always the same, one that changes, and a plain value."""
    return {"model": {"w": np.arange(6.0) + epoch, "frozen": np.ones(3)}, "loop": {"epoch": epoch}}


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    """What is skipped is said each time, and it is skipped some ten thousand times."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The folder of a closed store: two checkpoints, one in the trash, two evicted, a tag."""
    path = tmp_path / "store"
    with Store(path) as store:
        run = store.run("r")
        for epoch in EPOCHS:
            run.save(state(epoch), epoch=epoch, step=10 * epoch, metrics={"loss": 1 / (epoch + 1)}).wait()
            store.evict(run.plan(Last(3)))
        run.tag("paper", run.checkpoints()[1])
        store.apply(run.plan(Last(2)))
    return path


@dataclass(frozen=True)
class Found:
    """What became of a damaged store."""

    by_verify: bool
    loaded: dict[int, bool]
    """Version → it was what was saved. What could not be loaded is not in it."""


def look(path: Path) -> Found:
    """Verifies a store and loads all that it has; any other error than ours is a failure of the test."""
    loaded = {}
    try:
        with Store(path, create=False) as store:
            found = not store.verify(deep=True).ok
            for checkpoint in store.run("r").checkpoints():
                try:
                    loaded[checkpoint.version] = repr(checkpoint.load()) == repr(state(checkpoint.version - 1))
                except CkptTrackerError:
                    continue
    except CkptTrackerError:
        found = True
    return Found(found, loaded)


def look_without_index(path: Path) -> Found:
    """The same, at half the price."""
    loaded = {}
    layout = Layout(path)
    try:
        layout.open(create=False)
        objects = ObjectFolder(layout.objects, tmp=layout.tmp)
        found = not verify_runs(layout, objects, None, deep=True).ok
        for version in versions(layout.manifests("r")):
            try:
                record = manifest.read(layout.manifests("r"), version, run="r").record
                state_now = load_state(layout, objects, record, section=None, as_numpy=False)
                loaded[version] = repr(state_now) == repr(state(version - 1))
            except CkptTrackerError:
                continue
    except CkptTrackerError:
        found = True
    return Found(found, loaded)


def files(path: Path, kind: str) -> list[Path]:
    """The store's files of one kind; there are some."""
    found = sorted(path.glob(KINDS[kind]))
    assert found
    return found


def test_the_store_is_sound_before_anything_happens_to_it(path: Path) -> None:
    """And its files are those that are damaged below, but for locks and the index."""
    assert look(path) == Found(False, {4: True, 5: True})
    damaged = {file for kind in KINDS for file in files(path, kind)}
    others = {file.name for file in path.rglob("*") if file.is_file() and file not in damaged}
    assert others <= {"index.sqlite", "index.sqlite-wal", "index.sqlite-shm", "lock", "store", "turnstile", "retention"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_flipped_byte_is_found(path: Path, kind: str) -> None:
    """By the verify, and never as a wrong tensor: what needs the byte does not load, and the rest does."""
    silent, wrong = [], []
    for file in files(path, kind):
        data = file.read_bytes()
        for position in range(len(data)):
            flipped = bytearray(data)
            flipped[position] ^= 1 << position % 8
            file.write_bytes(flipped)
            found = look(path)
            silent += [] if found.by_verify else [(file.name, position)]
            wrong += [] if all(found.loaded.values()) else [(file.name, position)]
        file.write_bytes(data)
    assert (silent, wrong) == ([], [])


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_is_found(path: Path, kind: str) -> None:
    """At every length, between two events as well."""
    silent, wrong = [], []
    for file in files(path, kind):
        data = file.read_bytes()
        for length in range(len(data)):
            file.write_bytes(data[:length])
            found = look_without_index(path)
            silent += [] if found.by_verify else [(file.name, length)]
            wrong += [] if all(found.loaded.values()) else [(file.name, length)]
        file.write_bytes(data)
    assert (silent, wrong) == ([], [])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "trash"])
def test_every_missing_file_is_missed(path: Path, tmp_path: Path, kind: str) -> None:
    """Also the newest manifest, which no other one has for its parent. The trash may be emptied at any time."""
    for file in files(path, kind):
        copy = tmp_path / "copy"
        shutil.copytree(path, copy)
        (copy / file.relative_to(path)).unlink()
        found = look(copy)
        assert (file.name, found.by_verify, all(found.loaded.values())) == (file.name, True, True)
        shutil.rmtree(copy)


@pytest.mark.parametrize("kind", ["objects", "manifests"])
def test_a_resumed_training_steps_back(path: Path, kind: str) -> None:
    """To the newest checkpoint that loads, whichever byte of the newest one's files it is."""
    with Store(path) as store:
        run = store.run("r")
        for file in files(path, kind):
            data = file.read_bytes()
            for position in range(0, len(data), 11):
                flipped = bytearray(data)
                flipped[position] ^= 1
                file.write_bytes(flipped)
                try:
                    checkpoint, found = resuming.choose(store, run, "auto", None)
                except Damaged:
                    continue  # the tensor that both checkpoints share
                assert checkpoint is not None
                assert repr(found) == repr(state(checkpoint.version - 1))
            file.write_bytes(data)


# -- the index -----------------------------------------------------------------------------------------------


def answers(store: Store) -> list[object]:
    """What the index is asked for."""
    run = store.run("r")
    best = [run.best(name, mode).ref for name in ("loss", "-loss") for mode in ("min", "max")]  # type: ignore[arg-type]
    epochs = [store[f"r@epoch:{epoch}"].ref for epoch in EPOCHS]
    steps = [store[f"r@step:{10 * epoch}"].ref for epoch in EPOCHS]
    records = repr([each.record for each in run.checkpoints()])
    return [records, best, epochs, steps, store["r@paper"].ref, run.last().ref, [each.name for each in store.runs()]]


def test_no_flip_in_the_index_survives_a_verify_and_a_repair(tmp_path: Path) -> None:
    """A row that SQLite reads well may say something else than the manifest: then the verify says so."""
    path = tmp_path / "store"
    with Store(path) as store:
        run = store.run("r", {"lr": 0.1})
        for epoch in EPOCHS:
            run.save(state(epoch), epoch=epoch, step=10 * epoch, metrics={"loss": 1 / (epoch + 1), "-loss": epoch})
        run.tag("paper", store["r@v3"])
    with Store(path) as store:
        expected = answers(store)
    index = path / "index.sqlite"
    data = index.read_bytes()
    used = [position for position, byte in enumerate(data) if byte]
    generator = random.Random(0)
    for position in generator.sample(used, 250):
        flipped = bytearray(data)
        flipped[position] ^= 1 << generator.randrange(8)
        index.write_bytes(flipped)
        with Store(path) as store:
            if not store.verify().ok:
                store.repair(store.plan_repair())
            assert answers(store) == expected, position
