"""Manifests: a checkpoint exists when its manifest does, and nothing that happens to one goes unnoticed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckpt_tracker import Checkpoint, Store
from ckpt_tracker.disk.jsonfile import seal, unseal
from ckpt_tracker.errors import CheckpointGone, Damaged, FormatTooNew
from ckpt_tracker.files import manifest as manifests

STATE = {"model": {"w": np.arange(6, dtype=np.float32), "b": np.float64(1)}, "loop": {"betas": (0.9, math.nan)}}
METRICS = {"val_loss": 0.25, "nan": math.nan, "inf": math.inf, "-inf": -math.inf, "Wärme\n": 1e300}


@pytest.fixture
def saved(store: Store) -> Checkpoint:
    """A checkpoint with everything that a manifest records."""
    return store.run("r").save(STATE, epoch=3, step=40, metrics=METRICS, reason="1 epoch").wait()


@pytest.fixture
def file(store: Store, saved: Checkpoint) -> Path:
    """Its manifest."""
    return store.layout.manifests(saved.run) / "000001.json"


def _rewrite(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = unseal(file.read_bytes(), name="x")
    change(document)
    file.write_bytes(seal(document))


def test_a_manifest_says_all_that_the_checkpoint_said(store: Store, saved: Checkpoint, file: Path) -> None:
    """Position, metrics, times, sections, sizes and digest are read back as they were written."""
    read = manifests.read(file.parent, 1, run="r")
    assert replace(read.record, metrics={}) == replace(saved.record, metrics={})
    assert (read.record.epoch, read.record.step, read.record.reason) == (3, 40, "1 epoch")
    assert read.record.sections == ("model", "loop")


def test_metrics_come_back_with_nan_and_infinities(saved: Checkpoint, file: Path) -> None:
    """JSON has neither, and the manifest is JSON that every reader reads."""
    metrics = manifests.read(file.parent, 1, run="r").record.metrics
    assert math.isnan(metrics["nan"])
    assert {**metrics, "nan": 0} == {**METRICS, "nan": 0}
    assert json.loads(file.read_bytes())["format"] == 1


def test_every_flipped_byte_of_a_manifest_is_found(file: Path) -> None:
    """Also where the flip makes the format a later one: the seal tells that nobody wrote it so."""
    data = file.read_bytes()
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 2
        file.write_bytes(flipped)
        with pytest.raises(Damaged):
            manifests.read(file.parent, 1, run="r")


def test_every_cut_manifest_is_found(file: Path) -> None:
    """Each length shorter than the whole, as a torn write would leave it."""
    data = file.read_bytes()
    for length in range(len(data)):
        file.write_bytes(data[:length])
        with pytest.raises(Damaged):
            manifests.read(file.parent, 1, run="r")


def test_a_missing_manifest_is_a_checkpoint_that_is_gone(file: Path) -> None:
    """That it was deleted is said."""
    file.unlink()
    with pytest.raises(CheckpointGone, match="r@v1 has no manifest any more"):
        manifests.read(file.parent, 1, run="r")


def test_a_manifest_under_another_version_is_damaged(file: Path) -> None:
    """A copied or renamed manifest is not the checkpoint that its name says."""
    file.rename(file.with_name("000002.json"))
    with pytest.raises(Damaged, match="it is the manifest of r@v1"):
        manifests.read(file.parent, 2, run="r")


def test_a_manifest_of_a_newer_format_is_refused(file: Path) -> None:
    """What to do is said: upgrade."""
    _rewrite(file, lambda document: document.update(format=2))
    with pytest.raises(FormatTooNew, match=r"has format 2, .* reads up to format 1: upgrade"):
        manifests.read(file.parent, 1, run="r")


def test_members_that_are_not_known_are_ignored(store: Store, file: Path) -> None:
    """A later version may add some without a new format."""
    _rewrite(file, lambda document: document.update(signature="abc", kind="fork"))
    assert manifests.read(file.parent, 1, run="r").record.kind == "fork"
    assert store["r@v1"].load("model")["b"] == 1


def _tensor(**changes: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["tensors"][0].update(changes)


LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "more elements than bytes": _tensor(shape=[7]),
    "a huge shape": _tensor(shape=[2**62, 4]),
    "a negative length": _tensor(shape=[-2, -3]),
    "bytes that are not in the pieces": _tensor(nbytes=28, shape=[7]),
    "a path for an object": _tensor(pieces=[["../../etc/passwd", 0, 24]]),
    "a path for a hash": _tensor(hash="x"),
    "a negative offset": _tensor(pieces=[["a" * 64, -1, 24]]),
    "a type that is none": _tensor(dtype="object"),
    "text for a length": _tensor(shape=["6"]),
    "no format": lambda document: document.pop("format"),
    "a format that is no number": lambda document: document.update(format="1"),
    "no tensors": lambda document: document.pop("tensors"),
    "no time": lambda document: document.update(created_at="yesterday"),
    "a list of sections": lambda document: document.update(sections=7),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_manifest_that_lies_is_damaged(file: Path, lie: Callable[[dict[str, Any]], object]) -> None:
    """Also where its checksum is right: what it declares is checked before anything is allocated."""
    _rewrite(file, lie)
    with pytest.raises(Damaged, match=r"manifest .*000001\.json"):
        manifests.read(file.parent, 1, run="r")


TREES = [{"$tensor": 9}, {"$tensor": [0]}, {"$tensor": "x"}, {"$dict": 5}, {"$dict": [[1]]}, {"$odict": []}, {"$x": 1}]


@pytest.mark.parametrize("tree", TREES, ids=repr)
def test_a_tree_that_was_never_saved_is_damaged(store: Store, file: Path, tree: object) -> None:
    """The load says so, and returns nothing made up."""
    _rewrite(file, lambda document: document["sections"]["model"].update(w=tree))
    with pytest.raises(Damaged):
        store["r@v1"].load()


# -- the digest ----------------------------------------------------------------------------------------------


def _digest_of(store: Store, run: str, state: dict[str, object]) -> str:
    return store.run(run).save(state).digest


def test_equal_states_have_equal_digests(store: Store) -> None:
    """In another run, as another version, with other metrics, at another time."""
    copy = {"model": {"w": STATE["model"]["w"].copy(), "b": np.float64(1)}, "loop": {"betas": (0.9, math.nan)}}
    first = store.run("a").save(STATE, epoch=1, metrics={"loss": 1.0})
    second = store.run("b").save(copy, epoch=2, metrics={"loss": 2.0})
    assert first.digest == second.digest


def _objects_of(store: Store, checkpoint: Checkpoint) -> int:
    folder = store.layout.manifests(checkpoint.run)
    return len(manifests.read(folder, checkpoint.wait().version, run=checkpoint.run).objects)


def test_the_digest_does_not_depend_on_how_bytes_are_packed(store: Store) -> None:
    """The same small tensors lie in one pack of their own here, and in two older ones there."""
    one, two = {"w": np.arange(3)}, {"w": np.arange(4)}
    run = store.run("a")
    run.save({"model": {"a": one}}).wait()
    run.save({"model": {"b": two, "a": one}}).wait()
    reused = run.save({"model": {"a": one, "b": two}})
    fresh = store.run("b").save({"model": {"b": two, "a": one}})
    packs = [
        manifests.read(store.layout.manifests(each.run), each.wait().version, run=each.run).objects
        for each in (reused, fresh)
    ]
    assert [len(pack) for pack in packs] == [2, 1]
    assert reused.digest == fresh.digest


def test_the_digest_does_not_depend_on_the_order_of_sections_and_names(store: Store) -> None:
    """Members are sorted for it."""
    first = _digest_of(store, "a", {"model": {"a": 1, "b": np.ones(2)}, "loop": {}})
    second = _digest_of(store, "b", {"loop": {}, "model": {"b": np.ones(2), "a": 1}})
    assert first == second


def test_tied_or_apart_the_digest_is_the_same(store: Store) -> None:
    """It is over values, and two names of one memory have the values of two equal arrays."""
    weight = np.ones(5)
    tied = _digest_of(store, "a", {"model": {"a": weight, "b": weight}})
    assert tied == _digest_of(store, "b", {"model": {"a": weight, "b": weight.copy()}})


def test_the_digest_does_not_depend_on_the_order_of_a_set(
    python: Callable[..., str], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is another one in each process."""
    digests = set()
    for seed in ("1", "2", "3"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        code = """
            import sys
            from ckpt_tracker import Store
            with Store(sys.argv[1]) as store:
                print(store.run("r").save({"loop": {"seen": {"a", "b", "c", "d", "e", (1, "x")}}}).digest)
        """
        digests.add(python(code, path))
    assert len(digests) == 1


ZERO = {"model": {"w": np.zeros(4, np.float32)}}
OTHERS: dict[str, dict[str, Any]] = {
    "sign of a zero": {"model": {"w": -np.zeros(4, np.float32)}},
    "type": {"model": {"w": np.zeros(4, np.int32)}},
    "shape": {"model": {"w": np.zeros((2, 2), np.float32)}},
    "one element": {"model": {"w": np.array([0, 0, 0, 1e-45], np.float32)}},
    "name": {"model": {"v": np.zeros(4, np.float32)}},
    "section": {"ema": {"w": np.zeros(4, np.float32)}},
    "one leaf more": {"model": {"w": np.zeros(4, np.float32), "x": None}},
    "list for an array": {"model": {"w": [0.0] * 4}},
    "tuple for a section": {"model": ({"w": np.zeros(4, np.float32)},)},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_another_state_has_another_digest(store: Store, other: dict[str, Any]) -> None:
    """Whatever differs, in a tensor or in a leaf."""
    assert _digest_of(store, "a", ZERO) != _digest_of(store, "b", other)


def test_the_digest_is_what_the_format_says(store: Store, saved: Checkpoint, file: Path) -> None:
    """Another reader computes it from the manifest alone, with any JSON library."""
    from blake3 import blake3

    document = json.loads(file.read_bytes())
    tensors = document["tensors"]

    def logical(form: Any) -> Any:
        if isinstance(form, list):
            return [logical(each) for each in form]
        if isinstance(form, dict) and "$tensor" in form:
            entry = tensors[form["$tensor"]]
            return {"$tensor": [entry["dtype"], entry["shape"], entry["hash"]]}
        return {key: logical(each) for key, each in form.items()} if isinstance(form, dict) else form

    text = json.dumps(logical(document["sections"]), sort_keys=True, separators=(",", ":"))
    assert saved.digest == blake3(text.encode()).hexdigest()
