"""Loading: what was saved and nothing else, whatever happened to the loop's own arrays or to the files since."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckpt_tracker import Checkpoint, Store
from ckpt_tracker.disk.jsonfile import seal, unseal
from ckpt_tracker.errors import CheckpointGone, CheckpointNotFound, Damaged, MissingExtra
from ckpt_tracker.files.object_folder import ObjectFolder
from ckpt_tracker.files.objects import SMALL

pytestmark = pytest.mark.usefixtures("loading_threads")
LARGE = 2 * SMALL


def _weights(seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, LARGE, dtype=np.uint8)


@pytest.fixture
def saved(store: Store) -> Checkpoint:
    """A checkpoint with two large tensors and two small ones."""
    optimizer = {"state": {0: {"m": _weights(2), "v": np.arange(5.0)}}}
    state = {"model": {"w": _weights(1), "b": np.arange(3.0)}, "optimizer": optimizer, "loop": {"epoch": 1}}
    return store.run("r").save(state, epoch=1).wait()


def _object_of(store: Store, data: bytes) -> Path:
    return next(path for path in store.layout.objects.rglob("*") if path.is_file() and data in path.read_bytes())


def test_one_section_is_loaded_alone(store: Store, saved: Checkpoint) -> None:
    """Other sections' objects are not even opened."""
    _object_of(store, _weights(2).tobytes()).unlink()
    assert (saved.load("model")["w"] == _weights(1)).all()
    assert saved.load("loop") == {"epoch": 1}
    with pytest.raises(CheckpointGone):
        saved.load()


def test_an_unknown_section_names_the_nearest(saved: Checkpoint) -> None:
    """The error is that of any other unknown thing."""
    with pytest.raises(CheckpointNotFound, match=r"r@v1 has no section 'modle'; did you mean 'model'\?"):
        saved.load("modle")


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "one bit": lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:],
    "cut": lambda data: data[:-1],
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_object_is_named_and_the_others_load(
    store: Store, saved: Checkpoint, damage: Callable[[bytes], bytes]
) -> None:
    """The tensor, by its path in the state, the checkpoint and the file."""
    file = _object_of(store, _weights(1).tobytes())
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(Damaged, match=rf"r@v1: tensor model\.w is damaged: .*{file.name}"):
        saved.load()
    assert (saved.load("optimizer")["state"][0]["m"] == _weights(2)).all()


def test_a_missing_object_is_named(store: Store, saved: Checkpoint) -> None:
    """It may have been deleted, so it is gone and not damaged."""
    file = _object_of(store, _weights(1).tobytes())
    file.unlink()
    with pytest.raises(CheckpointGone, match=rf"r@v1: tensor model\.w can't be read: object .*{file.name} is missing"):
        saved.load()


def test_a_tensor_under_odd_keys_has_a_readable_name(store: Store, saved: Checkpoint) -> None:
    """An optimizer's state has numbers for keys."""
    _object_of(store, _weights(2).tobytes()).unlink()
    with pytest.raises(CheckpointGone, match=r"tensor optimizer\.state\[0\]\.m can't"):
        saved.load()


def test_damage_of_one_checkpoint_leaves_the_others_alone(store: Store, saved: Checkpoint) -> None:
    """They load as before."""
    other = store.run("r").save({"model": {"w": _weights(9)}}).wait()
    _object_of(store, _weights(1).tobytes()).write_bytes(b"")
    assert (other.load("model")["w"] == _weights(9)).all()


def test_every_flipped_bit_of_an_object_is_found(store: Store) -> None:
    """Each byte of a small pack: a load gives the right values or an error, and never others."""
    checkpoint = store.run("r").save({"model": {"a": np.arange(16.0), "b": np.arange(7, dtype=np.int8)}}).wait()
    (file,) = (path for path in store.layout.objects.rglob("*") if path.is_file())
    data = file.read_bytes()
    generator = random.Random(0)
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << generator.randrange(8)
        file.write_bytes(flipped)
        with pytest.raises(Damaged, match=r"tensor model\.(a|b) is damaged"):
            checkpoint.load()


def test_as_numpy_gives_arrays_where_torch_tensors_were_saved(
    store: Store, saved: Checkpoint, python: Callable[..., str]
) -> None:
    """Also where torch is not installed, which without as_numpy is said."""
    manifest = store.layout.manifests("r") / "000001.json"
    document = unseal(manifest.read_bytes(), name="x")
    for entry in document["tensors"]:
        entry["kind"] = "torch"
    manifest.write_bytes(seal(document))
    output = python(
        """
        import sys
        sys.modules["torch"] = None
        from ckpt_tracker import Store
        with Store(sys.argv[1]) as store:
            print(store["r@v1"].load("model", as_numpy=True)["b"].tolist())
            try:
                store["r@v1"].load("model")
            except ImportError as error:
                print(type(error).__name__)
        """,
        store.path,
    )
    assert output.split("\n") == ["[0.0, 1.0, 2.0]", MissingExtra.__name__]


def test_numpy_states_load_the_same_with_as_numpy(saved: Checkpoint, same: Callable[[object, object], bool]) -> None:
    """There is nothing to change."""
    assert same(saved.load(), saved.load(as_numpy=True))


def test_a_state_changed_right_after_save_is_saved_as_it_was(store: Store) -> None:
    """The copy is taken before `save` returns, for large and for small tensors, over many saves."""
    run = store.run("r")
    large, small = np.zeros(LARGE // 8), np.zeros(3)
    progress = {"epoch": 0, "history": [0]}
    for epoch in range(1, 41):
        large += 1
        small += 1
        progress["epoch"] = epoch
        progress["history"].append(epoch)  # type: ignore[attr-defined]
        run.save({"model": {"large": large, "small": small}, "loop": progress}, epoch=epoch)
        large += 0.5
        small += 0.5
        large -= 0.5
        small -= 0.5
    for checkpoint in run.checkpoints():
        state = checkpoint.load()
        epoch = checkpoint.epoch
        assert set(state["model"]["large"]) | set(state["model"]["small"]) == {epoch}
        assert state["loop"] == {"epoch": epoch, "history": list(range((epoch or 0) + 1))}


def test_an_ever_growing_state_is_captured_whole(store: Store) -> None:
    """The common buffer grows with it, and shrinks for none."""
    run = store.run("r")
    sizes = [10, LARGE, 5 * LARGE, 100, 20 * LARGE, 0]
    for size in sizes:
        run.save({"model": {"w": np.full(size, size % 251, np.uint8)}})
    assert [each.load("model")["w"].size for each in run.checkpoints()] == sizes
    assert all((each.load("model")["w"] == each.nbytes % 251).all() for each in run.checkpoints())


def test_a_checkpoint_can_be_pinned_by_its_parent(store: Store) -> None:
    """Each checkpoint of a training names the one before."""
    run = store.run("r")
    first = run.save({"loop": {}}).wait()
    second = run.save({"loop": {"epoch": 1}}).wait()
    assert first.parents == ()
    assert [(each.ref, each.digest) for each in second.parents] == [("r@v1", first.digest)]


# -- verify --------------------------------------------------------------------------------------------------


def test_verify_finds_nothing_in_a_sound_store(store: Store, saved: Checkpoint) -> None:
    """It says how much it looked at."""
    store.run("s").save({"model": {"w": _weights(1)}}).wait()
    report = store.verify(deep=True)
    assert (report.ok, report.checkpoints, report.objects, report.findings) == (True, 2, 3, ())
    assert report.bytes_read == sum(path.stat().st_size for path in store.layout.objects.rglob("*") if path.is_file())


def test_fast_verify_finds_missing_and_short_objects(store: Store, saved: Checkpoint) -> None:
    """It looks at sizes, reads no byte of them, and names every checkpoint that needs them."""
    shared = store.run("s").save({"model": {"w": _weights(1)}}).wait()
    short, missing = _object_of(store, _weights(1).tobytes()), _object_of(store, _weights(2).tobytes())
    os.truncate(short, LARGE - 1)
    missing.unlink()
    report = store.verify()
    found = sorted((finding.ref, finding.path, finding.problem.split(":")[0][-8:]) for finding in report.findings)
    assert [(ref, path) for ref, path, _ in found] == [("r@v1", missing), ("r@v1", short), (shared.ref, short)] or [
        (ref, path) for ref, path, _ in found
    ] == [("r@v1", short), ("r@v1", missing), (shared.ref, short)]
    assert report.bytes_read == 0


def test_deep_verify_finds_a_flipped_bit(store: Store, saved: Checkpoint) -> None:
    """The fast one can't."""
    file = _object_of(store, _weights(1).tobytes())
    data = bytearray(file.read_bytes())
    data[777] ^= 4
    file.write_bytes(data)
    assert store.verify().ok
    (finding,) = store.verify(deep=True).findings
    assert (finding.ref, finding.path) == ("r@v1", file)
    assert "do not have the hash in its name" in finding.problem


def test_verify_finds_a_damaged_manifest_and_goes_on(store: Store, saved: Checkpoint) -> None:
    """The other checkpoints are looked at all the same."""
    manifest = store.layout.manifests("r") / "000001.json"
    manifest.write_bytes(manifest.read_bytes()[:-9])
    store.run("r").save({"model": {"w": _weights(5)}}).wait()
    report = store.verify(deep=True)
    assert [(finding.ref, finding.path) for finding in report.findings] == [("r@v1", manifest)]
    assert report.checkpoints == 2


def test_verify_finds_a_digest_that_is_not_of_its_tree(store: Store, saved: Checkpoint) -> None:
    """A manifest that was written anew with another leaf is not the checkpoint that was saved."""
    manifest = store.layout.manifests("r") / "000001.json"
    document = unseal(manifest.read_bytes(), name="x")
    document["sections"]["loop"]["epoch"] = 2
    manifest.write_bytes(seal(document))
    (finding,) = store.verify().findings
    assert "its digest is not that of its tree" in finding.problem


def test_one_checkpoint_verifies_alone(store: Store, saved: Checkpoint) -> None:
    """`Checkpoint.verify` reads every byte of it, and of nothing else."""
    other = store.run("r").save({"model": {"w": _weights(9)}}).wait()
    _object_of(store, _weights(9).tobytes()).write_bytes(b"")
    assert saved.verify().ok
    assert not other.verify().ok
    assert saved.verify().bytes_read > LARGE


def test_verify_tells_its_progress(store: Store, saved: Checkpoint) -> None:
    """Up to the end, in bytes."""
    told: list[tuple[int, int]] = []
    store.verify(progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] == sum(path.stat().st_size for path in store.layout.objects.rglob("*/*"))
    assert told == sorted(told)


def test_large_tensors_are_read_in_threads(
    store: Store, saved: Checkpoint, loading_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are several processors; with one, it would only be dearer."""
    read, names = ObjectFolder.read, set()

    def noting(self: ObjectFolder, *args: Any, **options: Any) -> Any:
        names.add(threading.current_thread().name.split("_")[0])
        return read(self, *args, **options)

    monkeypatch.setattr(ObjectFolder, "read", noting)
    saved.load()
    assert names == ({"MainThread"} if loading_threads == 1 else {"ckpt"})
