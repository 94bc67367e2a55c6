"""Weights that hold NaN or infinities are found when they are saved, in every type, and never become best."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckpt_tracker import Store
from ckpt_tracker.errors import CheckpointNotFound
from ckpt_tracker.records import TensorSpec
from ckpt_tracker.state.finiteness import nonfinite

FLOATS = ["float16", "float32", "float64", ">f4", ">f8", "complex64", "complex128", ">c8"]
LARGE = 300_000
"""Elements: more than a chunk holds in every type."""


def _found(dtype: str, data: Any) -> dict[str, str]:
    flat = np.frombuffer(data, dtype=np.uint8)
    spec = TensorSpec("numpy", dtype, (1,), len(flat))
    return dict(nonfinite({"model": {"w": {"$tensor": 0}}}, [spec], [flat]))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("value", "kind"), [(math.nan, "nan"), (-math.nan, "nan"), (math.inf, "inf"), (-math.inf, "inf")]
)
def test_one_number_among_many_is_found(dtype: str, value: float, kind: str) -> None:
    """Wherever it is: in the first, in a later chunk, and at the end."""
    for position in (0, LARGE // 2, LARGE - 1):
        values = np.ones(LARGE, dtype=dtype)
        values[position] = value
        assert _found(dtype, values.tobytes()) == {"model.w": kind}


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_largest_finite_numbers_are_numbers(dtype: str) -> None:
    """Of either sign, and the smallest, and none at all."""
    info = np.finfo(np.dtype(dtype))
    extremes = [info.max, info.min, info.tiny, 0.0, -0.0]
    assert _found(dtype, np.array(extremes, dtype=dtype).tobytes()) == {}
    assert _found(dtype, b"") == {}


# largest finite number, infinity or None, a NaN: https://onnx.ai/onnx/technical/float8.html and Google's bfloat16
BYTES: dict[str, tuple[bytes, bytes | None, bytes]] = {
    "bfloat16": (b"\x7f\x7f", b"\x80\x7f", b"\xc0\x7f"),
    "float8_e5m2": (b"\x7b", b"\x7c", b"\x7e"),
    "float8_e4m3fn": (b"\x7e", None, b"\x7f"),
    "float8_e4m3fnuz": (b"\x7f", None, b"\x80"),
    "float8_e5m2fnuz": (b"\x7f", None, b"\x80"),
    "float8_e4m3b11fnuz": (b"\x7f", None, b"\x80"),
    "float8_e4m3": (b"\x77", b"\x78", b"\x79"),
    "float8_e3m4": (b"\x6f", b"\x70", b"\x71"),
}


@pytest.mark.parametrize(("dtype", "patterns"), BYTES.items(), ids=BYTES.keys())
def test_small_types_are_read_by_their_bits(dtype: str, patterns: tuple[bytes, bytes | None, bytes]) -> None:
    """NumPy has no arithmetic for them; the sign is the highest bit of the last byte, where they have one for it."""
    largest, infinity, nan = patterns
    one = bytes(len(largest) - 1) + b"\x20"
    signs: list[Any] = [lambda data: data]
    if "fnuz" not in dtype:
        signs.append(lambda data: data[:-1] + bytes([data[-1] | 0x80]))
    for signed in signs:
        assert _found(dtype, one + signed(largest)) == {}
        assert _found(dtype, one + signed(nan)) == {"model.w": "nan"}
        assert infinity is None or _found(dtype, one + signed(infinity)) == {"model.w": "inf"}


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "bool", "<U3", ">i4"])
def test_what_is_no_float_is_not_looked_at(dtype: str) -> None:
    """All bits set are just a number there."""
    assert _found(dtype, b"\xff" * 24) == {}


def test_nan_and_infinity_together_are_nan() -> None:
    """It is the worse of the two."""
    assert _found("float32", np.array([np.inf, np.nan, 1], dtype=np.float32).tobytes()) == {"model.w": "nan"}


def test_an_attention_mask_is_no_lost_weight(store: Store) -> None:
    """Zeros and minus infinities alone: many models keep such a buffer, and still have a best checkpoint."""
    mask = np.triu(np.full((8, 8), -np.inf, dtype=np.float32), 1)
    saved = store.run("r").save({"model": {"mask": mask}}, metrics={"loss": 0.1}).wait()
    assert saved.record.nonfinite == {}
    assert store["r@best:loss:min"].version == 1
    mask[0, 0] = 0.5
    assert store.run("r").save({"model": {"mask": mask}}).wait().record.nonfinite == {"model.mask": "inf"}


@pytest.fixture
def bad(store: Store) -> Store:
    """Three checkpoints: NaN in the weights has the best loss, infinity the second best."""
    for value, loss in ((1.0, 0.5), (np.nan, 0.1), (np.inf, 0.2)):
        state = {
            "model": {"fc": {"weight": np.full(3, value, dtype=np.float32)}},
            "optimizer": {"m": np.full(3, np.nan)},
        }
        store.run("r").save(state, metrics={"loss": loss}).wait()
    return store


def test_weights_without_numbers_never_become_best(bad: Store) -> None:
    """They are kept, listed, and loaded like any other; an optimizer's NaN is nobody's business."""
    run = bad.run("r")
    assert [each.record.weights_problem for each in run.checkpoints()] == [
        "",
        "NaN in model.fc.weight",
        "Inf in model.fc.weight",
    ]
    assert run.best("loss", mode="min").version == bad["r@best:loss:min"].version == 1
    assert np.isnan(bad["r@v2"].load("model")["fc"]["weight"]).all()


def test_a_run_of_nothing_but_nan_has_no_best(store: Store) -> None:
    """Then there is none to be had."""
    store.run("r").save({"model": {"w": np.array([np.nan])}}, metrics={"loss": 0.1}).wait()
    with pytest.raises(CheckpointNotFound, match="'loss'"):
        store.run("r").best("loss", mode="min")


def test_the_manifest_remembers_what_was_found(bad: Store, path: Path) -> None:
    """So a rebuilt index knows it too, and so does a checkpoint that lost its optimizer."""
    document = json.loads((path / "runs/r/manifests/000002.json").read_bytes())
    assert document["nonfinite"] == {"model.fc.weight": "nan"}
    assert "nonfinite" not in json.loads((path / "runs/r/manifests/000001.json").read_bytes())
    bad.index.rebuild()
    assert bad["r@v2"].record.nonfinite == {"model.fc.weight": "nan"}
    bad.apply(bad.plan("last:1:weights every:1epoch:weights best:2:loss:max:weights"))
    assert bad["r@v3"].weights_only
    assert bad["r@v3"].record.nonfinite == {"model.fc.weight": "inf"}
    assert bad.verify(deep=True).ok


def test_only_the_first_ten_are_named(store: Store) -> None:
    """A model that has come to nothing has thousands."""
    state = {"model": {f"w{number:02}": np.array([np.nan]) for number in range(30)}}
    record = store.run("r").save(state).wait().record
    assert list(record.nonfinite) == [f"model.w{number:02}" for number in range(10)]
    assert record.weights_problem == "NaN in model.w00 and 9 more"
