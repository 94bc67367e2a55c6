"""Repair: what a verify finds is put right; what can't be is named; nothing that is whole is touched."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckpt_tracker import Checkpoint, Store
from ckpt_tracker.disk import formats
from ckpt_tracker.disk.jsonfile import seal, unseal
from ckpt_tracker.errors import CheckpointGone, Damaged, FormatTooNew, StoreReadOnly
from ckpt_tracker.files import manifest as manifests
from ckpt_tracker.files.objects import SMALL
from ckpt_tracker.inspection.repair import Loss
from ckpt_tracker.retention import Last
from ckpt_tracker.tracker import Tracker

Contents = Callable[[Path], dict[str, bytes]]


def state(epoch: int) -> dict[str, Any]:
    """A large tensor of the model, one of the optimizer, small ones of both, and a plain value."""
    large = np.full(SMALL, epoch, dtype=np.uint8)
    model = {"large": large, "small": np.arange(3.0) + epoch}
    optimizer = {"large": large + 100, "small": np.arange(4.0) - epoch}
    return {"model": model, "optimizer": optimizer, "loop": {"epoch": epoch}}


@pytest.fixture
def trained(path: Path) -> Path:
    """The folder of a closed store: run `r` with v1, v2 and v3, and a config."""
    tracker = Tracker(path, "r", monitor="loss", mode="min", keep="last:9", config={"lr": 0.1})
    tracker.begin()
    for epoch in range(3):
        tracker.save(state(epoch), epoch=epoch, step=epoch, metrics={"loss": 1 / (epoch + 1)})
    tracker.close(finished=True)
    return path


def flip(file: Path, position: int = 20) -> None:
    """Damages a file without changing its size."""
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


def manifest_of(path: Path, version: int) -> Path:
    """The manifest of `r@vN`."""
    return path / "runs/r/manifests" / formats.file_name(version)


def object_of(path: Path, version: int, name: str) -> Path:
    """The file that a tensor of `r@vN` is in."""
    found = manifests.read(manifest_of(path, version).parent, version, run="r")
    index = next(index for index, each in found.tensor_names().items() if each == name)
    piece = found.tensors[index].pieces[0].object
    return path / "objects" / piece[:2] / piece


def quarantined(path: Path) -> set[str]:
    """What is in quarantine, by the paths that it had."""
    folder = path / "trash/quarantine"
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if not file.is_dir()}


def repaired(path: Path) -> Store:
    """The store, repaired and verified anew."""
    store = Store(path)
    store.repair(store.plan_repair())
    assert store.verify(deep=True).findings == ()
    return store


def same(checkpoint: Checkpoint) -> bool:
    """It loads, and is what was saved."""
    return repr(checkpoint.load()) == repr(state(checkpoint.version - 1))


def test_a_sound_store_is_left_as_it_is(trained: Path, contents: Contents) -> None:
    """There is nothing to do, and no folder for what is damaged."""
    before = contents(trained)
    with Store(trained) as store:
        plan = store.plan_repair()
        assert (plan.steps, plan.losses, store.repair(plan)) == ((), (), 0)
    after = contents(trained)
    assert {name: after[name] for name in after if "index" not in name} == {
        name: before[name] for name in before if "index" not in name
    }


DAMAGES: dict[str, Callable[[Path], object]] = {
    "an object": lambda path: flip(object_of(path, 2, "model.large")),
    "a pack": lambda path: flip(object_of(path, 2, "model.small"), 0),
    "an object that is cut": lambda path: os.truncate(object_of(path, 2, "model.large"), 7),
    "an object that is missing": lambda path: object_of(path, 2, "model.large").unlink(),
    "an object that is a folder": lambda path: _folder_instead(object_of(path, 2, "model.large")),
    "a manifest": lambda path: flip(manifest_of(path, 2)),
    "the newest manifest": lambda path: flip(manifest_of(path, 3)),
    "a manifest that is missing": lambda path: manifest_of(path, 2).unlink(),
    "the newest manifest is missing": lambda path: manifest_of(path, 3).unlink(),
    "a manifest that lies": lambda path: _lie(manifest_of(path, 2)),
    "run.json": lambda path: flip(path / "runs/r/run.json"),
    "run.json is missing": lambda path: (path / "runs/r/run.json").unlink(),
    "an event": lambda path: flip(path / "runs/r/events.jsonl"),
    "events that are cut": lambda path: os.truncate(path / "runs/r/events.jsonl", 700),
    "events that are missing": lambda path: (path / "runs/r/events.jsonl").unlink(),
    "the length of the events": lambda path: flip(path / "runs/r/events.length"),
    "the length of the events is missing": lambda path: (path / "runs/r/events.length").unlink(),
    "a lock that is a symlink": lambda path: _link_instead(path / "locks/store"),
    "a symlink in tmp": lambda path: _link_instead(path / "tmp/x"),
}


def _folder_instead(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _link_instead(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.symlink_to("/dev/null")


def _lie(file: Path) -> None:
    document = unseal(file.read_bytes(), name="x")
    document["sections"]["loop"]["epoch"] = 7
    file.write_bytes(seal(document))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_after_a_repair_a_verify_finds_nothing(trained: Path, damage: Callable[[Path], object]) -> None:
    """Whatever was damaged: it is found, put right, no news any more; and what is whole loads, and is saved upon."""
    damage(trained)
    with Store(trained) as store:
        assert not store.verify(deep=True).ok
    with repaired(trained) as store:
        assert same(store["r@v1"])
        checkpoint = store.run("r").save(state(3), epoch=3).wait()
        assert (checkpoint.version, same(checkpoint)) == (4, True)
        store.evict(store.run("r").plan(Last(1)))
        store.gc()
        assert store.verify(deep=True).ok
    needed = manifests.read(manifest_of(trained, 4).parent, 4, run="r").objects
    spared = {name for file in quarantined(trained) if "manifests" in file for name in _named(trained, file)}
    assert {file.name for file in (trained / "objects").glob("*/*")} == needed | (spared & _objects(trained))


def _named(path: Path, file: str) -> set[str]:
    text = (path / "trash/quarantine" / file).read_text(errors="replace")
    return {entry["pieces"][0][0] for entry in json.loads(text)["tensors"]}


def _objects(path: Path) -> set[str]:
    return {file.name for file in (path / "objects").glob("*/*")}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_plan_changes_nothing(trained: Path, contents: Contents, damage: Callable[[Path], object]) -> None:
    """It only says what would be done."""
    damage(trained)
    with Store(trained) as store:
        before = contents(trained / "runs"), contents(trained / "objects"), contents(trained / "trash")
        assert store.plan_repair().steps
        assert (contents(trained / "runs"), contents(trained / "objects"), contents(trained / "trash")) == before


def test_nothing_that_was_damaged_is_deleted(trained: Path) -> None:
    """It lies in quarantine, under the path that it had, and no gc takes it."""
    damaged = [object_of(trained, 2, "model.large"), manifest_of(trained, 3), trained / "runs/r/run.json"]
    for file in damaged:
        flip(file)
    kept = {str(file.relative_to(trained)): file.read_bytes() for file in damaged}
    with repaired(trained) as store:
        for file in (trained / "trash/quarantine").rglob("*"):
            os.utime(file, (0, 0))
        store.gc()
        store.make_room()
    assert {name: (trained / "trash/quarantine" / name).read_bytes() for name in kept} == kept
    assert quarantined(trained) == set(kept)


def test_what_lost_an_object_keeps_its_other_sections(trained: Path) -> None:
    """They load before the repair and after it, and the loss is told each time."""
    flip(object_of(trained, 2, "optimizer.large"))
    with Store(trained) as store:
        assert store.plan_repair().losses == (Loss("r@v2", ("model", "loop")),)
    with repaired(trained) as store:
        assert repr(store["r@v2"].load("model")) == repr(state(1)["model"])
        with pytest.raises((CheckpointGone, Damaged), match=r"tensor optimizer\.large"):
            store["r@v2"].load()
        report = store.verify(deep=True)
        assert [(each.ref, each.loads) for each in report.lost] == [("r@v2", ("model", "loop"))]
        assert "lost: optimizer.large" in report.lost[0].problem


def test_what_is_whole_in_a_damaged_pack_still_loads(trained: Path) -> None:
    """Small tensors of all sections share one: one of them is damaged, and the others are read from quarantine."""
    pack = object_of(trained, 2, "model.small")
    assert pack == object_of(trained, 2, "optimizer.small")
    flip(pack, 0)
    with repaired(trained) as store:
        assert str(pack.relative_to(trained)) in quarantined(trained)
        assert [each.loads for each in store.verify(deep=True).lost] == [("optimizer", "loop")]
        assert repr(store["r@v2"].load("optimizer")) == repr(state(1)["optimizer"])


def test_a_save_brings_back_what_was_lost(trained: Path) -> None:
    """A damaged object is not taken for one that is there already, and the next save of that tensor writes it anew."""
    flip(object_of(trained, 2, "model.large"))
    with repaired(trained) as store:
        store.run("r").save(state(1)).wait()
        assert same(store["r@v2"])
        assert store.verify(deep=True).lost == ()


def test_a_version_that_is_in_quarantine_is_not_given_again(trained: Path) -> None:
    """Also where it was the newest, and events and index are the only ones that remember it."""
    flip(manifest_of(trained, 3))
    with repaired(trained) as store:
        assert [each.version for each in store.run("r").checkpoints()] == [1, 2]
        assert store.run("r").save(state(3)).wait().version == 4


def test_what_a_manifest_in_quarantine_names_is_not_swept(trained: Path) -> None:
    """Somebody may know how to mend it: put back, it is the checkpoint that it was."""
    whole = manifest_of(trained, 3).read_bytes()
    flip(manifest_of(trained, 3))
    with repaired(trained) as store:
        store.gc()
    manifest_of(trained, 3).write_bytes(whole)
    with Store(trained) as store:
        assert same(store["r@v3"])


def test_an_unreadable_manifest_stops_a_sweep_until_it_is_repaired(trained: Path) -> None:
    """What it needs is not known; the error names the way out."""
    flip(manifest_of(trained, 3))
    with Store(trained) as store, pytest.raises(Damaged, match=r"000003\.json.*: see `ckpt repair`"):
        store.gc()
    with repaired(trained) as store:
        store.evict(store.run("r").plan("last:1"))
        assert [each.version for each in store.run("r").checkpoints()] == [2]


def test_a_training_is_told_once_that_nothing_is_freed(trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And not at each save."""
    with Store(trained) as store:
        store.run("s").save(state(7)).wait()
    flip(trained / "runs/s/manifests/000001.json")
    tracker = Tracker(trained, "r", keep="last:1")
    tracker.begin()
    caplog.clear()
    for epoch in range(3, 6):
        tracker.save(state(epoch), epoch=epoch, step=epoch, metrics={})
    tracker.close()
    assert len([message for message in caplog.messages if "see `ckpt repair`" in message]) == 1


def test_a_damaged_config_is_made_anew_from_the_events(trained: Path) -> None:
    """The run's last start remembers it."""
    flip(trained / "runs/r/run.json")
    with repaired(trained) as store:
        record = store.run("r").record
        assert record.config == {"lr": 0.1}
        assert record.created_at <= store["r@v1"].created_at


def test_a_damaged_event_is_known_from_then_on(trained: Path) -> None:
    """The file is not rewritten: it is added that the line is damaged."""
    events = trained / "runs/r/events.jsonl"
    flip(events)
    before = events.read_bytes()
    with repaired(trained) as store:
        assert events.read_bytes().startswith(before)
        assert store.run("r").record.finished


def test_cut_events_are_not_forgotten_when_more_come(trained: Path) -> None:
    """The file is as long as it was again, and still lacks something."""
    events = trained / "runs/r/events.jsonl"
    os.truncate(events, events.read_bytes().rindex(b'{"event":"close"'))
    with Store(trained) as store:
        for tag in "abcdef":
            store.run("r").tag(tag)
    with Store(trained) as store:
        (finding,) = store.verify().findings
        assert (finding.kind, finding.ref) == ("events", "r")


def test_what_an_interrupted_append_left_is_no_damage(trained: Path) -> None:
    """Nobody was told that it was there; before the next event and after it."""
    with (trained / "runs/r/events.jsonl").open("ab") as file:
        file.write(b'{"event":"tag","at":"2026')
    with Store(trained) as store:
        assert store.verify(deep=True).ok
        store.run("r").tag("next")
        assert store.verify(deep=True).ok
        assert store["r@next"].version == 3


def test_an_index_that_says_something_else_is_found_and_rebuilt(trained: Path) -> None:
    """SQLite itself has nothing to complain of."""
    with Store(trained) as store:
        store.index._connection().execute("UPDATE _checkpoints SET epoch = 77 WHERE version = 2")
        (finding,) = store.plan_repair().report.findings
        assert (finding.kind, "r@v2" in finding.problem) == ("index", True)
    with repaired(trained) as store:
        assert store["r@v2"].epoch == 1


def test_what_saves_left_and_nobody_needs_is_swept(trained: Path) -> None:
    """As a gc does."""
    (trained / "tmp/half").write_bytes(b"half")
    orphan = trained / "objects/ab" / ("ab" * 32)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"orphan")
    with Store(trained) as store:
        assert store.repair(store.plan_repair()) == len(b"half" + b"orphan")
    assert (list((trained / "tmp").iterdir()), orphan.exists()) == ([], False)


def test_a_repair_does_not_empty_the_trash(trained: Path) -> None:
    """What a person removed can still be brought back."""
    with Store(trained) as store:
        store.apply(store.run("r").plan("last:1"))
    for file in (trained / "trash/r").iterdir():
        os.utime(file, (0, 0))
    flip(trained / "runs/r/run.json")
    with repaired(trained):
        assert len(list((trained / "trash/r").iterdir())) == 2


def test_damage_in_the_trash_is_found_and_repaired(trained: Path) -> None:
    """It may be wanted back."""
    with Store(trained) as store:
        store.apply(store.run("r").plan("last:1"))
    flip(trained / "trash/r/000001.json")
    with Store(trained) as store:
        assert [each.ref for each in store.verify().findings] == ["r@v1 (in the trash)"]
    with repaired(trained):
        assert quarantined(trained) == {"trash/r/000001.json"}


def test_what_a_later_version_wrote_stops_a_repair(trained: Path, contents: Contents) -> None:
    """It is no damage, and nothing is changed."""
    document = unseal(manifest_of(trained, 3).read_bytes(), name="x")
    manifest_of(trained, 3).write_bytes(seal({**document, "format": 2}))
    flip(manifest_of(trained, 2))
    with Store(trained) as store:
        before = contents(trained / "runs")
        with pytest.raises(FormatTooNew, match=r"nothing is repaired: .*has format 2"):
            store.repair(store.plan_repair())
        assert contents(trained / "runs") == before


def test_a_store_that_can_not_be_written_is_not_repaired(trained: Path) -> None:
    """It says so."""
    flip(manifest_of(trained, 3))
    with Store(trained) as store:
        store.read_only = True
        with pytest.raises(StoreReadOnly):
            store.repair(store.plan_repair())


def test_what_is_whole_by_then_is_not_quarantined(trained: Path) -> None:
    """A plan may be old: a save may have written the object anew, somebody may have put the manifest back."""
    files = [object_of(trained, 2, "model.large"), manifest_of(trained, 3), trained / "runs/r/run.json"]
    whole = [file.read_bytes() for file in files]
    with Store(trained) as store:
        for file in files:
            flip(file)
        plan = store.plan_repair()
        for file, data in zip(files, whole, strict=True):
            file.write_bytes(data)
        store.repair(plan)
        assert quarantined(trained) == set()
        assert all(same(each) for each in store.run("r").checkpoints())
