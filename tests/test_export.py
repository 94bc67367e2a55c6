"""`ckpt export` for torch and Keras: files that their own loaders read, with the values that were saved."""

from __future__ import annotations

import collections
import datetime
import os
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from ckpt_tracker import Store
from ckpt_tracker.cli.app import ckpt as group

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Each test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CKPT_TRACKER_STORE", raising=False)


@pytest.fixture
def model():
    """Weights, and BatchNorm's buffers."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))


def save(state):
    """A store with one checkpoint."""
    with Store("store") as store:
        store.run("r").save(state, epoch=0, metrics={"loss": 0.5}).wait()


def export(*arguments, code=0):
    """Runs `ckpt export`."""
    result = CliRunner().invoke(group, ["export", *arguments, "--store", "store"], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def same(expected, actual):
    """Equal in names, types and values."""
    assert {name: (each.dtype, each.shape) for name, each in expected.items()} == {
        name: (each.dtype, each.shape) for name, each in actual.items()
    }
    return all(torch.equal(each, actual[name]) for name, each in expected.items())


def test_a_pt_file_is_what_load_state_dict_takes(model):
    """`torch.load(weights_only=True)` gives the state dict, with the versions of the module's parts."""
    save({"model": model.state_dict()})
    export("r", "m.pt")
    loaded = torch.load("m.pt", weights_only=True)
    assert isinstance(loaded, collections.OrderedDict)
    assert same(model.state_dict(), loaded)
    assert loaded._metadata == model.state_dict()._metadata
    model.load_state_dict(loaded)


def test_a_safetensors_file_is_what_load_state_dict_takes(model):
    """`safetensors.torch.load_file` gives the state dict, and its header says where it is from."""
    save({"model": model.state_dict()})
    export("r@best:loss:min", "m.safetensors")
    assert same(model.state_dict(), safetensors_torch.load_file("m.safetensors"))
    import safetensors

    with safetensors.safe_open("m.safetensors", "pt") as file:
        assert (file.metadata()["ref"], file.metadata()["format"]) == ("r@v1", "pt")


def test_a_npz_file_has_the_same_values(model):
    """`numpy.load` gives them as arrays."""
    save({"model": model.state_dict()})
    export("r", "m.npz")
    with np.load("m.npz") as found:
        assert same(model.state_dict(), {name: torch.from_numpy(found[name]) for name in found.files})


def test_torch_only_types_are_exported_by_their_bytes():
    """bfloat16 and float8 go into .safetensors and .pt as they are; .npz has no such types and says so."""
    tensors = {
        "bf16": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "f8": torch.tensor([0.5, 2.0]).to(torch.float8_e4m3fn),
    }
    save({"model": tensors})
    export("r", "m.safetensors")
    export("r", "m.pt")
    for loaded in (safetensors_torch.load_file("m.safetensors"), torch.load("m.pt", weights_only=True)):
        assert {name: each.dtype for name, each in loaded.items()} == {
            "bf16": torch.bfloat16,
            "f8": torch.float8_e4m3fn,
        }
        assert all(torch.equal(each.float(), tensors[name].float()) for name, each in loaded.items())
    assert "tensor bf16 of r@v1 is bfloat16" in export("r", "m.npz", code=2).stderr


def test_safetensors_of_a_torch_checkpoint_need_no_torch(model):
    """Only bytes are copied: torch is not imported."""
    save({"model": model.state_dict()})
    code = """
        import sys
        from ckpt_tracker.cli.app import ckpt
        ckpt(sys.argv[1:], standalone_mode=False)
        sys.exit("torch" in sys.modules)
    """
    for file in ("m.safetensors", "m.npz"):
        command = [sys.executable, "-c", "\n".join(line.strip() for line in code.splitlines())]
        subprocess.run([*command, "--store", "store", "export", "r", file], check=True, timeout=60)


def test_tied_weights_stay_tied_in_pt_and_have_both_names_elsewhere():
    """A tensor with two names is one tensor in .pt, and there under both in .safetensors."""
    tied = torch.ones(3)
    save({"model": {"encoder.weight": tied, "decoder.weight": tied}})
    export("r", "m.pt")
    loaded = torch.load("m.pt", weights_only=True)
    assert loaded["encoder.weight"].data_ptr() == loaded["decoder.weight"].data_ptr()
    export("r", "m.safetensors")
    assert same({"encoder.weight": tied, "decoder.weight": tied}, safetensors_torch.load_file("m.safetensors"))


def test_several_models_keep_their_nesting_in_pt(model):
    """Each of several models can be loaded on its own from .pt; .safetensors joins the names."""
    save({"model": {"G": model.state_dict(), "D": model.state_dict()}})
    export("r", "m.pt")
    model.load_state_dict(torch.load("m.pt", weights_only=True)["G"])
    export("r", "m.safetensors")
    assert "G.0.weight" in safetensors_torch.load_file("m.safetensors")


def test_all_sections_go_into_a_pt_file(model):
    """`--section all` is the state that was saved, as far as weights_only reads it; what it would refuse is named."""
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    others = {
        "size": torch.Size([2, 3]),
        "words": {"a", "b"},
        "number": np.float32(1.5),
        "moment": datetime.date(2026, 1, 2),
        "state": np.arange(3, dtype=np.uint32),
    }
    save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "callbacks": others})
    said = export("r", "all.pt", "--section", "all").stderr
    assert said == "left out, as .pt can't hold them: 1 value (callbacks.moment)\n"
    loaded = torch.load("all.pt", weights_only=True)
    optimizer.load_state_dict(loaded["optimizer"])
    assert loaded["optimizer"]["param_groups"] == optimizer.state_dict()["param_groups"]
    assert loaded["callbacks"]["size"] == torch.Size([2, 3])
    assert loaded["callbacks"]["words"] == {"a", "b"}
    assert (loaded["callbacks"]["number"], loaded["callbacks"]["state"].tolist()) == (1.5, [0, 1, 2])


def test_a_parameter_stays_a_parameter():
    """A bare parameter is loaded as one."""
    save({"model": {"w": torch.nn.Parameter(torch.ones(2))}})
    export("r", "m.pt")
    loaded = torch.load("m.pt", weights_only=True)["w"]
    assert isinstance(loaded, torch.nn.Parameter)
    assert loaded.requires_grad


KERAS_TRAINING = """
    import sys
    import keras
    import numpy as np
    from ckpt_tracker.integrations.keras import CheckpointTracker

    keras.utils.set_random_seed(0)
    x = np.linspace(-1, 1, 48 * 16, dtype="float32").reshape(48, 4, 4, 1)
    inputs = keras.Input((4, 4, 1))
    hidden = keras.layers.BatchNormalization()(keras.layers.Conv2D(3, 2)(inputs))
    outputs = keras.layers.Dense(1)(keras.layers.Dropout(0.2)(keras.layers.Flatten()(hidden)))
    model = keras.Model(inputs, outputs)
    model.compile("adam", "mse")
    model.fit(x, x.sum(axis=(1, 2)), epochs=2, verbose=0, callbacks=[CheckpointTracker("store", "r")])
    np.save("expected.npy", model.predict(x, verbose=0))
"""
KERAS_LOADING = """
    import keras
    import numpy as np

    model = keras.models.load_model("m.keras")
    x = np.linspace(-1, 1, 48 * 16, dtype="float32").reshape(48, 4, 4, 1)
    np.testing.assert_array_equal(model.predict(x, verbose=0), np.load("expected.npy"))
"""


def run(code, *, backend):
    """Runs Keras in a process of its own: it has one backend for good."""
    lines = "\n".join(line[4:] for line in code.splitlines())
    environment = {**os.environ, "KERAS_BACKEND": backend}
    subprocess.run([sys.executable, "-c", lines], check=True, env=environment, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_a_keras_file_is_the_trained_model(backend):
    """`keras.models.load_model` gives a model that predicts what the trained one did, to the bit."""
    pytest.importorskip("keras")
    pytest.importorskip(backend)
    run(KERAS_TRAINING, backend=backend)
    command = [sys.executable, "-m", "ckpt_tracker", "export", "r", "m.keras", "--store", "store"]
    unset = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    ended = subprocess.run(command, check=True, capture_output=True, text=True, env=unset, timeout=300)
    assert ended.stdout.startswith("m.keras: 9 tensors of r@v2, ")
    run(KERAS_LOADING, backend=backend)


def test_a_checkpoint_of_another_framework_is_no_keras_model(model):
    """`.keras` of a torch checkpoint is exit code 9, with what to do."""
    pytest.importorskip("keras")
    save({"model": model.state_dict()})
    assert "export it as .safetensors, .npz or .pt" in export("r", "m.keras", code=9).stderr


def test_a_model_that_only_its_code_can_make_is_refused():
    """A Keras checkpoint without an architecture is exit code 9; its weights can be had otherwise."""
    pytest.importorskip("keras")
    save({"model": {"dense/kernel": np.ones((2, 2))}, "architecture": {"json": None, "build_config": None}})
    assert "export the weights as .npz" in export("r", "m.keras", code=9).stderr
    export("r", "m.npz")
