"""`ckpt export` without any framework: the two formats of plain tensors, and files that are whole or not there."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from ckpt_tracker import Store
from ckpt_tracker.cli.export_file import replacing
from ckpt_tracker.errors import InvalidOption


def read_safetensors(file):
    """Tensors, as the bytes and shapes that the format's description says, and the metadata."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    body = data[8 + length :]
    assert (8 + length) % 8 == 0
    metadata = header.pop("__metadata__")
    ends = [0]
    for each in header.values():
        begin, end = each["data_offsets"]
        assert begin == ends[-1], "no holes between the tensors"
        ends.append(end)
    assert ends[-1] == len(body)
    tensors = {
        name: (each["dtype"], each["shape"], body[slice(*each["data_offsets"])]) for name, each in header.items()
    }
    return tensors, metadata


def test_safetensors_hold_the_model_by_name(ckpt, mnist, tmp_path):
    """The model's tensors, byte for byte, with the checkpoint's reference, digest and metrics."""
    result = ckpt("export", "mnist@v2", "model.safetensors", "--store", mnist)
    assert result.exit_code == 0
    assert result.stdout == "model.safetensors: 2 tensors of mnist@v2, 80.4 kB\n"
    assert result.stderr == "left out, as .safetensors can't hold them: 1 value (head.scale)\n"
    tensors, metadata = read_safetensors(tmp_path / "model.safetensors")
    assert tensors == {
        "encoder.weight": ("F32", [20_000], np.arange(20_000, dtype=np.float32).tobytes()),
        "head.weight": ("F32", [4], np.full(4, 1, dtype=np.float32).tobytes()),
    }
    with Store(mnist) as store:
        digest = store["mnist@v2"].digest
    assert metadata == {
        **{"format": "np", "ref": "mnist@v2", "digest": digest, "section": "model", "epoch": "1", "step": "20"},
        "metrics": '{"acc":0.1,"val_loss":0.25}',
    }


def test_npz_holds_the_model_by_name(ckpt, mnist):
    """The same for NumPy; `numpy.load` needs no pickle for it."""
    assert ckpt("export", "mnist@best", "model.npz", "--store", mnist).exit_code == 0
    with np.load("model.npz", allow_pickle=False) as found:
        assert sorted(found.files) == ["encoder.weight", "head.weight"]
        assert np.array_equal(found["head.weight"], np.full(4, 1, dtype=np.float32))


def test_several_models_are_told_apart_by_their_names(ckpt, mnist, tmp_path):
    """Nested names are joined by dots; each tensor keeps its type and shape."""
    assert ckpt("export", "gan", "gan.npz", "--store", mnist).exit_code == 0
    with np.load("gan.npz") as found:
        assert {name: (found[name].dtype.name, found[name].shape) for name in found.files} == {
            "G.weight": ("float64", (2, 3)),
            "D.weight": ("int64", (3,)),
        }


def test_another_section_is_asked_for(ckpt, mnist):
    """`--section` takes another section than the model; an index in a list is a part of the name."""
    assert ckpt("export", "mnist", "o.npz", "--section", "optimizer", "--store", mnist).exit_code == 0
    with np.load("o.npz") as found:
        assert sorted(found.files) == ["moments.0", "moments.1"]


def test_all_sections_are_asked_for(ckpt, mnist):
    """`--section all` takes every section, by name."""
    result = ckpt("export", "mnist", "a.npz", "--section", "all", "--store", mnist, "--json")
    with np.load("a.npz") as found:
        assert sorted(found.files) == [
            *("model.encoder.weight", "model.head.weight", "optimizer.moments.0", "optimizer.moments.1"),
        ]
    document = json.loads(result.stdout)
    assert document["left_out"] == ["model.head.scale", "optimizer.lr"]
    assert (document["tensors"], document["format"], document["section"]) == (4, "npz", "all")
    assert document["file_bytes"] == os.stat("a.npz").st_size


def test_odd_shapes_and_types_survive(ckpt, path):
    """Scalars, empty tensors, booleans and complex numbers, and names with slashes."""
    model = {
        "zero_d": np.array(3, dtype=np.int8),
        "empty": np.zeros((0, 5)),
        "a/b": np.array([True, False]),
        "z": np.array([1 + 2j], dtype=np.complex64),
        "words": np.array(["a", "bc"]),
        "file": np.array([1], dtype=">i4"),
    }
    with Store(path) as store:
        store.run("r").save({"model": model})
    assert ckpt("export", "r", "m.npz", "--store", path).exit_code == 0
    with np.load("m.npz") as found:
        assert {name: found[name].tolist() for name in found.files} == {
            name: each.tolist() for name, each in model.items()
        }


def test_a_type_that_the_format_lacks_is_refused_by_name(ckpt, path, tmp_path):
    """A model is never exported in part: the tensor is named, and no file appears."""
    with Store(path) as store:
        store.run("r").save({"model": {"words": np.array(["a", "bc"])}})
    result = ckpt("export", "r", "m.safetensors", "--store", path)
    assert result.exit_code == 2
    assert "tensor words of r@v1 is <U2" in result.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["store"]


def test_an_existing_file_is_not_replaced(ckpt, mnist, tmp_path):
    """Without `--force` the file stays as it was; with it the new one takes its place."""
    (tmp_path / "m.npz").write_text("precious")
    result = ckpt("export", "mnist", "m.npz", "--store", mnist)
    assert (result.exit_code, result.stderr) == (2, "ckpt: m.npz exists: --force replaces it\n")
    assert (tmp_path / "m.npz").read_text() == "precious"
    assert ckpt("export", "mnist", "m.npz", "--force", "--store", mnist).exit_code == 0
    assert len(np.load("m.npz").files) == 2


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("m.h5", "'m.h5' names no format: expected a name that ends in .safetensors, .pt, .pth, .npz, .keras"),
        ("nowhere/m.npz", "there is no folder nowhere"),
        ("folder.npz", "folder.npz is a folder"),
    ],
)
def test_a_file_that_cannot_be_made_is_a_wrong_argument(ckpt, mnist, tmp_path, file, said):
    """Exit code 2, before anything is read."""
    (tmp_path / "folder.npz").mkdir()
    result = ckpt("export", "mnist", file, "--store", mnist)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_missing_section_names_the_nearest(ckpt, mnist):
    """A section that is not there is exit code 3."""
    result = ckpt("export", "mnist", "m.npz", "--section", "optimiser", "--store", mnist)
    assert result.exit_code == 3
    assert "mnist@v3 has no section 'optimiser'; did you mean 'optimizer'?" in result.stderr


def test_a_section_without_tensors_makes_no_file(ckpt, path, tmp_path):
    """Nothing to export is exit code 2."""
    with Store(path) as store:
        store.run("r").save({"loop": {"epoch": 1}})
    result = ckpt("export", "r", "m.npz", "--section", "loop", "--store", path)
    assert (result.exit_code, (tmp_path / "m.npz").exists()) == (2, False)


def test_what_is_no_keras_model_is_refused(ckpt, mnist):
    """`.keras` needs a checkpoint of the tracker for Keras (or, first of all, Keras)."""
    assert ckpt("export", "mnist", "m.keras", "--store", mnist).exit_code in (9, 10)


def test_a_damaged_tensor_leaves_no_file(ckpt, mnist, tmp_path):
    """What was read is compared with its hash: exit code 5, with the tensor's name, and nothing is left behind."""
    file = max((mnist / "objects").rglob("*"), key=lambda each: each.stat().st_size if each.is_file() else 0)
    file.chmod(0o644)
    file.write_bytes(b"\1" + file.read_bytes()[1:])
    result = ckpt("export", "mnist", "m.safetensors", "--store", mnist)
    assert result.exit_code == 5
    assert "tensor model.encoder.weight is damaged" in result.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["store"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device without room")
def test_no_room_is_said_in_one_line(ckpt_process, mnist):
    """A full disk is exit code 6."""
    command = [sys.executable, "-m", "ckpt_tracker", "ls", "--store", str(mnist), "--json"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (6, f"ckpt: {os.strerror(errno.ENOSPC)}\n")


def test_ctrl_c_is_one_line_and_its_own_exit_code(tmp_path):
    """Interrupted while it writes what nobody reads: exit code 130."""
    with Store(tmp_path / "store") as store:
        store.run("mnist", config={"text": "more than a pipe holds" * 50_000})
    command = [sys.executable, "-m", "ckpt_tracker", "runs", "--json", "--store", str(tmp_path / "store")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.read(1) == "["
        # it has begun, and can't end before the rest is read
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "ckpt: interrupted\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, SystemExit])
def test_a_file_that_is_not_finished_does_not_appear(tmp_path, error):
    """Whatever ends the writing, neither the file nor a part of it is there; an older file stays."""
    (tmp_path / "old.npz").write_text("old")
    for name in ("old.npz", "new.npz"):
        with pytest.raises(error), replacing(tmp_path / name, force=True) as scratch:
            scratch.write_text("half")
            raise error
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {"old.npz": "old"}


def test_a_file_made_meanwhile_is_not_replaced(tmp_path):
    """Without force the file is looked for again at the end."""
    with pytest.raises(InvalidOption), replacing(tmp_path / "m.npz", force=False) as scratch:
        scratch.write_text("ours")
        (tmp_path / "m.npz").write_text("theirs")
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {"m.npz": "theirs"}
