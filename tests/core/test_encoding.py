"""Encoded files: every bit comes back, whatever it meant; and what is damaged or hostile is refused by name."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt_tracker.disk.jsonfile import seal
from ckpt_tracker.errors import CkptTrackerError, Damaged, FormatTooNew, MissingExtra
from ckpt_tracker.files.encoded import EncodedFolder
from ckpt_tracker.files.object_folder import ObjectFolder, hash_of

zstandard = pytest.importorskip("zstandard", reason="the extra [compact] is not installed")

from ckpt_tracker.encoding import frames  # noqa: E402
from ckpt_tracker.encoding.encoder import encode  # noqa: E402
from ckpt_tracker.encoding.header import BLOCK, WIDTHS, Header  # noqa: E402

BASE = "ab" * 32


class Memory:
    """An object's bytes in memory."""

    def __init__(self, data: np.ndarray) -> None:
        self.data = data
        self.nbytes = len(data)

    def read_into(self, target: np.ndarray, offset: int) -> None:
        """As a source does."""
        target[:] = self.data[offset : offset + len(target)]

    def close(self) -> None:
        """Nothing is open."""


def written(folder: Path, data: np.ndarray, *, width: int, base: np.ndarray | None = None) -> tuple[EncodedFolder, str]:
    """The bytes as an encoded file."""
    source = None if base is None else Memory(base)
    encoded = encode(Memory(data), width=width, base=source, base_name=None if base is None else BASE)
    found = EncodedFolder(folder / "encoded")
    path = found.path(encoded.hash)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(bytes(memoryview(chunk)) for chunk in encoded.chunks))
    assert path.stat().st_size == encoded.nbytes
    return found, encoded.hash


def read(found: EncodedFolder, name: str, start: int, stop: int, *, base: np.ndarray | None = None) -> bytes:
    """A stretch of the object."""
    source = found.open(name)
    assert source is not None
    source.base = None if base is None else Memory(base)
    target = np.empty(stop - start, dtype=np.uint8)
    try:
        source.read_into(target, start)
    finally:
        source.close()
    return target.tobytes()


def some_bytes(seed: int, nbytes: int, *, like: np.ndarray | None = None) -> np.ndarray:
    """Bytes of any kind: noise, few values, all the same; or near to others."""
    rng = np.random.default_rng(seed)
    if like is not None:
        return like ^ rng.integers(0, 2, nbytes, dtype=np.uint8)
    high = (256, 3, 1)[seed % 3]
    return rng.integers(0, high, nbytes, dtype=np.uint8) + np.uint8(seed % 256)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    nbytes=st.one_of(st.integers(0, 100), st.integers(0, 3 * BLOCK), st.sampled_from([BLOCK * 8, BLOCK * 8 * 2 + 7])),
    width=st.sampled_from(WIDTHS),
    against=st.sampled_from(["nothing", "something near", "something else"]),
    cuts=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_every_bit_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    nbytes: int,
    width: int,
    against: str,
    cuts: tuple[float, float],
) -> None:
    """Whole and any stretch of it, by itself or as a difference, whatever the bytes meant."""
    data = some_bytes(seed, nbytes)
    base = {"nothing": None, "something near": some_bytes(seed, nbytes, like=data)}.get(
        against, some_bytes(seed + 1, nbytes)
    )
    found, name = written(tmp_path_factory.mktemp("encoded"), data, width=width, base=base)
    assert name == blake3(data.tobytes()).hexdigest()
    assert read(found, name, 0, nbytes, base=base) == data.tobytes()
    start, stop = sorted(round(cut * nbytes) for cut in cuts)
    assert read(found, name, start, stop, base=base) == data[start:stop].tobytes()


@pytest.mark.parametrize("bits", [np.uint16, np.uint32, np.uint64])
def test_the_payloads_of_nans_come_back(tmp_path: Path, bits: type) -> None:
    """Signs, infinities, subnormals and NaNs of every kind are bits like others, in a difference too."""
    size = 8 * np.dtype(bits).itemsize
    odd = [0, 1, 2**size - 1, 2 ** (size - 1), 2 ** (size - 1) - 1, 2 ** (size - 2), 3 * 2 ** (size - 2) + 5]
    data = np.array(odd * 50, dtype=bits).view(np.uint8)
    base = np.array(odd[::-1] * 50, dtype=bits).view(np.uint8)
    found, name = written(tmp_path, data, width=np.dtype(bits).itemsize, base=base)
    assert read(found, name, 0, len(data), base=base) == data.tobytes()


def test_weights_take_about_five_sixths_and_small_changes_far_less(tmp_path: Path) -> None:
    """Which is what it is for."""
    rng = np.random.default_rng(0)
    first = (rng.standard_normal(BLOCK * 4) * 0.02).astype("<f4")
    later = first + (rng.standard_normal(BLOCK * 4) * 1e-6).astype("<f4")
    alone = encode(Memory(first.view(np.uint8)), width=4)
    apart = encode(Memory(later.view(np.uint8)), width=4, base=Memory(first.view(np.uint8)), base_name=BASE)
    assert 0.80 < alone.nbytes / first.nbytes < 0.86
    assert apart.nbytes / later.nbytes < 0.45


def test_noise_is_stored_as_it_is(tmp_path: Path) -> None:
    """A frame that is not smaller than its plane is the plane."""
    noise = some_bytes(0, BLOCK * 4)
    assert encode(Memory(noise), width=4).nbytes < len(noise) + 400


def outcome(folder: Path, name: str) -> str:
    """What a reader gets: `the object`, `other bytes`, which their hash tells, or the error."""
    try:
        source = EncodedFolder(folder).open(name)
        assert source is not None
        try:
            return "the object" if hash_of(source) == name else "other bytes"
        finally:
            source.close()
    except Damaged as error:
        return str(error)


def test_a_flipped_bit_anywhere_is_found(tmp_path: Path) -> None:
    """In the header, the lengths, a frame or the bytes at the end: Damaged, with the file's name, or another hash."""
    found, name = written(tmp_path, some_bytes(1, 4 * 700 + 3), width=4)
    path = found.path(name)
    whole = path.read_bytes()
    seen = []
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        seen.append(outcome(tmp_path / "encoded", name))
    assert all(each in ("the object", "other bytes") or str(path) in each for each in seen)
    assert "the object" not in seen[: whole.index(b"\n") + 1 + 16]
    assert seen.count("the object") <= len(whole) // 50  # bits that a zstd frame does not use


@pytest.mark.parametrize("length", [0, 1, 50, 200, -1])
def test_a_cut_file_is_found_by_its_length(tmp_path: Path, length: int) -> None:
    """Before any of it is decoded; what is too long, too."""
    found, name = written(tmp_path, some_bytes(1, 5000), width=4)
    path = found.path(name)
    whole = path.read_bytes()
    path.write_bytes(whole[:length] if length >= 0 else whole + b"x")
    with pytest.raises(Damaged, match=r"expected \d+|header has no end"):
        EncodedFolder(tmp_path / "encoded").header(name)


HEADERS = {
    "a negative size": {"nbytes": -1},
    "a size beyond 63 bits": {"nbytes": 2**63},
    "more blocks than the file has lengths for": {"nbytes": 2**62},
    "a width of three": {"width": 3},
    "a width that is true": {"width": True},
    "a base that is a path": {"base": "../../store.json"},
    "itself as base": {"base": "cd" * 32},
    "frames of another length": {"frames": 10**6},
}


@pytest.mark.parametrize("change", HEADERS.values(), ids=HEADERS.keys())
def test_a_hostile_header_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    """Well sealed, and still not believed."""
    folder = EncodedFolder(tmp_path)
    path = folder.path("cd" * 32)
    path.parent.mkdir()
    document = {"format": 2, "nbytes": 4, "width": 4, "base": None, "frames": 4, **change}
    path.write_bytes(seal(document) + b"\n" + bytes(16 + 4))
    with pytest.raises(Damaged, match=str(path)):
        folder.header("cd" * 32)


def test_a_later_format_is_not_called_damaged(tmp_path: Path) -> None:
    """Who wrote it meant well."""
    folder = EncodedFolder(tmp_path)
    path = folder.path("cd" * 32)
    path.parent.mkdir()
    path.write_bytes(seal({"format": 3, "how": "other"}) + b"\n")
    with pytest.raises(FormatTooNew, match="format 3"):
        folder.header("cd" * 32)


def bomb(tmp_path: Path, frame: bytes, *, nbytes: int = BLOCK) -> tuple[EncodedFolder, str]:
    """A file of one plane with that frame."""
    folder = EncodedFolder(tmp_path)
    path = folder.path("cd" * 32)
    path.parent.mkdir()
    lengths = len(frame).to_bytes(4, "little")
    path.write_bytes(Header(nbytes, 1, None, len(frame)).dump() + lengths + frame)
    return folder, "cd" * 32


BOMBS = {
    "a frame that says it is larger": zstandard.ZstdCompressor().compress(bytes(2**24)),
    "a frame that says it is larger than all memory": b"\x28\xb5\x2f\xfd\xe0"
    + (2**50).to_bytes(8, "little")
    + bytes(20),
    "a frame that does not say so": zstandard.ZstdCompressor(write_content_size=False).compress(bytes(2**24)),
    "a frame of less": zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100)),
    "two frames": zstandard.ZstdCompressor().compress(bytes(BLOCK)) * 2,
    "no frame": b"\x00" * 40,
}


@pytest.mark.parametrize("frame", BOMBS.values(), ids=BOMBS.keys())
def test_no_more_is_decompressed_than_a_block_holds(tmp_path: Path, frame: bytes) -> None:
    """Whatever a frame says of itself."""
    folder, name = bomb(tmp_path, frame)
    with pytest.raises(Damaged, match=f"encoded object {folder.path(name)} is damaged: "):
        read(folder, name, 0, BLOCK)


def test_a_frame_longer_than_its_plane_is_refused(tmp_path: Path) -> None:
    """None that was written is."""
    folder, name = bomb(tmp_path, bytes(BLOCK + 1))
    with pytest.raises(Damaged, match="have not the lengths"):
        read(folder, name, 0, BLOCK)


def encoded_object(objects: ObjectFolder, data: np.ndarray, *, base: str | None = None) -> str:
    """An object of that folder, encoded; against another of it, whatever that is."""
    source = None if base is None else Memory(some_bytes(9, len(data)))
    encoded = encode(Memory(data), width=4, base=source, base_name=base)
    path = objects.encoded.path(encoded.hash)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(bytes(memoryview(chunk)) for chunk in encoded.chunks))
    return encoded.hash


def test_a_base_that_has_a_base_is_refused(tmp_path: Path) -> None:
    """So nobody follows a long chain, or one without an end."""
    objects = ObjectFolder(tmp_path / "objects", tmp=tmp_path)
    first = encoded_object(objects, some_bytes(0, 8000), base="cd" * 32)
    second = encoded_object(objects, some_bytes(3, 8000), base=first)
    with pytest.raises(Damaged, match=rf"{second} is damaged: object .*{first} can't be its base"):
        objects.check(second)


def test_a_base_of_another_length_is_refused(tmp_path: Path) -> None:
    """Nothing is read beyond its end."""
    objects = ObjectFolder(tmp_path / "objects", tmp=tmp_path)
    first = encoded_object(objects, some_bytes(0, 4000))
    second = encoded_object(objects, some_bytes(3, 8000), base=first)
    with pytest.raises(Damaged, match="can't be its base"):
        objects.check(second)


def test_a_base_that_is_missing_is_named(tmp_path: Path) -> None:
    """With the file that needs it."""
    objects = ObjectFolder(tmp_path / "objects", tmp=tmp_path)
    name = encoded_object(objects, some_bytes(0, 8000), base="cd" * 32)
    with pytest.raises(Damaged, match=rf"{name} can't be read: its base, object .*{'cd' * 32}, is missing"):
        objects.check(name)
    assert objects.usable_size(name) == 0


def test_a_fifo_in_the_place_of_an_encoded_file_is_refused(tmp_path: Path) -> None:
    """Nobody waits for it."""
    folder = EncodedFolder(tmp_path)
    path = folder.path("cd" * 32)
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises(CkptTrackerError, match="is a FIFO"):
        folder.header("cd" * 32)


def test_without_zstandard_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header can be read still: sweeping needs no zstandard."""
    data = some_bytes(1, 5000)
    found, name = written(tmp_path, data, width=4)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setattr(frames, "_coders", None)
    assert found.header(name).nbytes == 5000
    with pytest.raises(MissingExtra, match=r'pip install "ckpt-tracker\[compact\]"'):
        read(found, name, 0, 5000)
