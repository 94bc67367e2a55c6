"""Objects: each tensor's bytes are stored once, under their hash, however often and by whomever they are saved."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3

from ckpt_tracker import Store
from ckpt_tracker.errors import CheckpointGone, Damaged
from ckpt_tracker.files.objects import SMALL, ObjectFolder
from ckpt_tracker.records import Piece, TensorEntry, TensorSpec

LARGE = 2 * SMALL


def _files(store: Store) -> list[Path]:
    return sorted(path for path in store.layout.objects.rglob("*") if path.is_file())


def _bytes(count: int, seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, count, dtype=np.uint8)


def test_a_large_tensor_is_one_file_named_by_its_hash(store: Store) -> None:
    """The file holds the tensor's bytes alone, from offset 0, in a folder of two digits."""
    weight = _bytes(LARGE)
    store.run("r").save({"model": {"w": weight}}).wait()
    name = blake3(weight.tobytes()).hexdigest()
    (file,) = _files(store)
    assert file == store.layout.objects / name[:2] / name
    assert file.read_bytes() == weight.tobytes()


def test_small_tensors_share_one_object(store: Store) -> None:
    """A model of many small tensors is one file, and not thousands."""
    small = {f"bias{index}": _bytes(100, index) for index in range(50)}
    store.run("r").save({"model": small}).wait()
    (file,) = _files(store)
    assert file.name == blake3(file.read_bytes()).hexdigest()


def test_the_size_that_counts_as_small_is_below_64_kib(store: Store) -> None:
    """One byte below the limit is packed, the limit itself is not."""
    store.run("r").save({"model": {"a": _bytes(SMALL - 1, 1), "b": _bytes(SMALL - 1, 2), "c": _bytes(SMALL, 3)}}).wait()
    assert sorted(file.stat().st_size for file in _files(store)) == [SMALL, 2 * SMALL - 1]


def test_small_tensors_in_a_pack_are_aligned(store: Store) -> None:
    """Each starts at a multiple of 64 bytes, so that it can be memory-mapped as any type."""
    store.run("r").save({"model": {f"b{index}": _bytes(10 + index, index) for index in range(9)}}).wait()
    (file,) = _files(store)
    data = file.read_bytes()
    assert all(data.index(_bytes(10 + index, index).tobytes()) % 64 == 0 for index in range(9))


def test_an_equal_tensor_is_stored_once_in_a_checkpoint(store: Store) -> None:
    """Two arrays of the same bytes are one object, also where they differ in type and shape."""
    weight = _bytes(LARGE)
    state = {"a": weight, "b": weight.copy(), "c": weight.view(np.float32).reshape(-1, 2).copy()}
    checkpoint = store.run("r").save({"model": state})
    assert checkpoint.stored_bytes == LARGE
    assert checkpoint.nbytes == 3 * LARGE


def test_runs_share_what_is_equal(store: Store) -> None:
    """The second run stores nothing for a tensor that the first has stored."""
    state = {"model": {"w": _bytes(LARGE)}}
    first = store.run("a").save(state).wait()
    second = store.run("b").save(state)
    assert (first.stored_bytes, second.stored_bytes) == (LARGE, 0)


def _train(run_save: Callable[..., object], epochs: int) -> None:
    frozen = {f"w{index}": _bytes(LARGE, index) for index in range(3)}
    biases = {f"b{index}": _bytes(200, 10 + index) for index in range(20)}
    for epoch in range(epochs):
        head = {"w": _bytes(LARGE, 1000 + epoch), "b": _bytes(100, 2000 + epoch)}
        run_save({"model": {"encoder": {**frozen, **biases}, "head": head}}, epoch=epoch)


FROZEN_BYTES = 3 * LARGE + 19 * 256 + 200
HEAD_BYTES = LARGE + 100


def test_a_frozen_encoder_is_stored_once_over_ten_epochs(store: Store) -> None:
    """Each later epoch adds the head alone: small tensors that did not change stay in their old pack."""
    run = store.run("r")
    _train(run.save, epochs=10)
    added = [checkpoint.stored_bytes for checkpoint in run.checkpoints()]
    assert added[1:] == [HEAD_BYTES] * 9
    assert sum(file.stat().st_size for file in _files(store)) == sum(added)
    assert added[0] <= FROZEN_BYTES + HEAD_BYTES + 64


def test_a_run_that_is_opened_again_refers_to_what_it_stored(path: Path) -> None:
    """Small frozen tensors are not packed anew after a restart."""
    with Store(path) as store:
        _train(store.run("r").save, epochs=1)
    with Store(path) as store:
        checkpoint = store.run("r").save(store["r@last"].load())
        assert checkpoint.stored_bytes == 0


def test_a_small_tensor_is_stored_again_when_its_pack_is_gone(store: Store) -> None:
    """What lies in a pack is referred to only while the pack is there whole."""
    run = store.run("r")
    state = {"model": {"b": _bytes(100)}}
    run.save(state).wait()
    _files(store)[0].unlink()
    checkpoint = run.save(state)
    assert checkpoint.stored_bytes == 100
    assert (checkpoint.load("model")["b"] == _bytes(100)).all()


@pytest.mark.parametrize("damage", [b"", b"short", bytes(LARGE + 1)], ids=["empty", "short", "long"])
def test_an_object_of_the_wrong_size_is_written_again(store: Store, damage: bytes) -> None:
    """A deduplication hit counts only when the file has the size of the tensor."""
    state = {"model": {"w": _bytes(LARGE)}}
    store.run("a").save(state).wait()
    _files(store)[0].write_bytes(damage)
    checkpoint = store.run("b").save(state)
    assert checkpoint.stored_bytes == LARGE
    assert checkpoint.verify().ok


def test_files_have_the_permissions_that_the_umask_asks_for(store: Store) -> None:
    """A group can share a store: nothing is made private behind its back."""
    before = os.umask(0o002)
    try:
        store.run("r").save({"model": {"w": _bytes(LARGE)}}).wait()
    finally:
        os.umask(before)
    made = [*_files(store), *store.layout.manifests("r").iterdir()]
    assert [oct(file.stat().st_mode & 0o777) for file in made] == ["0o664"] * 2


@pytest.mark.parametrize("name", ["", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "../" + "a" * 61, "a" * 64 + "\n"])
def test_only_a_hash_is_ever_used_as_a_path(tmp_path: Path, name: str) -> None:
    """Whatever else a manifest names is refused before a path is made of it."""
    folder = ObjectFolder(tmp_path / "objects", tmp=tmp_path)
    with pytest.raises(Damaged, match="is not the name of an object"):
        folder.path(name)


def _entry(data: bytes, *pieces: tuple[bytes, int, int]) -> TensorEntry:
    cut = tuple(Piece(blake3(object_data).hexdigest(), offset, nbytes) for object_data, offset, nbytes in pieces)
    return TensorEntry(TensorSpec("numpy", "uint8", (len(data),), len(data)), blake3(data).hexdigest(), cut)


def _put(folder: ObjectFolder, data: bytes) -> None:
    path = folder.path(blake3(data).hexdigest())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_a_tensor_may_consist_of_several_pieces(tmp_path: Path) -> None:
    """Its pieces, one after the other, are its bytes: shards fit into the format."""
    folder = ObjectFolder(tmp_path / "objects", tmp=tmp_path)
    _put(folder, b"..abc")
    _put(folder, b"def.")
    entry = _entry(b"abcdef", (b"..abc", 2, 3), (b"def.", 0, 3))
    assert folder.read(entry, ref="r@v1", name="w").tobytes() == b"abcdef"


def test_a_piece_beyond_the_end_of_its_object_is_damaged(tmp_path: Path) -> None:
    """The tensor, the checkpoint and the object are named."""
    folder = ObjectFolder(tmp_path / "objects", tmp=tmp_path)
    _put(folder, b"abc")
    with pytest.raises(Damaged, match=r"r@v1: tensor model\.w .* is too short"):
        folder.read(_entry(b"abcd", (b"abc", 0, 4)), ref="r@v1", name="model.w")


def test_a_missing_object_is_gone(tmp_path: Path) -> None:
    """It was deleted, by retention for example: that is another error than damage."""
    folder = ObjectFolder(tmp_path / "objects", tmp=tmp_path)
    with pytest.raises(CheckpointGone, match=r"r@v1: tensor model\.w can't be read: object .* is missing"):
        folder.read(_entry(b"abc", (b"abc", 0, 3)), ref="r@v1", name="model.w")
