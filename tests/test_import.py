"""Foreign files become checkpoints by `ckpt import`, or are refused by name; nothing in them is run."""

import io
import json
import os
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict

import lightning.pytorch as lightning
import pytest
import torch
from click.testing import CliRunner
from json_shapes import faults

from ckpt_tracker import Store
from ckpt_tracker.cli.app import ckpt
from ckpt_tracker.cli.schemas import SCHEMAS


@pytest.fixture
def call(tmp_path):
    """Imports a file into the test's store."""

    def run(file, *options):
        arguments = ["import", str(file), "foreign", "--store", str(tmp_path / "store"), "--json", *options]
        result = CliRunner().invoke(ckpt, arguments)
        if result.exit_code == 0:
            assert [*faults(json.loads(result.stdout), SCHEMAS["import"])] == []
        return result

    return run


def equal(one, other):
    """The same in type and value, every bit of every tensor."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_loads_back_equal(call, tmp_path, zipped):
    """Every type, tied and strided ones too, in both formats of torch.save."""
    weight = torch.randn(30, 20)
    state = OrderedDict(
        {
            "layer.weight": weight,
            "tied": weight,
            "turned": weight.T[::2],
            "half": torch.randn(3).bfloat16(),
            "counts": torch.arange(4),
            "flags": torch.tensor([True, False]),
            "nothing": torch.empty(0, 3),
        }
    )
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    told = json.loads(call(tmp_path / "w.pt").stdout)
    with Store(tmp_path / "store") as store:
        checkpoint = store["foreign@last"]
        loaded = checkpoint.load("model")
        assert (checkpoint.ref, checkpoint.record.kind) == (told["ref"], "import")
    assert type(loaded) is OrderedDict
    assert equal(dict(state), dict(loaded))
    assert loaded["tied"].data_ptr() == loaded["layer.weight"].data_ptr()


def test_a_checkpoint_of_a_loop_keeps_its_parts(call, tmp_path):
    """The weights are `model`; epoch and step are known."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    saved = {"model_state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 7, "lr-now": 0.1}
    torch.save(saved, tmp_path / "c.pth")
    assert call(tmp_path / "c.pth").exit_code == 0
    with Store(tmp_path / "store") as store:
        checkpoint = store["foreign@epoch:7"]
        assert set(checkpoint.sections) == {"model", "optimizer", "epoch", "other"}
        model.load_state_dict(checkpoint.load("model"))
        assert equal(checkpoint.load("optimizer"), saved["optimizer"])
        assert checkpoint.load("other") == {"lr-now": 0.1}


class Module(lightning.LightningModule):
    """A layer, with hyperparameters, momentum and a schedule."""

    def __init__(self, lr=0.1, width=4):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(2, width)

    def training_step(self, batch, index):
        """Any loss."""
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        """With a state of its own."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


def test_a_file_of_lightnings_loads_back_equal(call, tmp_path):
    """Its parts have the names that a training's have; the hyperparameters are the run's config."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_epochs=2, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
            default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(Module(), torch.utils.data.DataLoader(torch.ones(4, 2)))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    told = json.loads(call(tmp_path / "last.ckpt").stdout)
    with Store(tmp_path / "store") as store:
        checkpoint = store[told["ref"]]
        assert (checkpoint.epoch, checkpoint.step) == (saved["epoch"], saved["global_step"])
        assert equal(dict(saved["state_dict"]), dict(checkpoint.load("model")))
        assert equal(saved["optimizer_states"], checkpoint.load("optimizer"))
        assert equal(saved["loops"], checkpoint.load("loop")["loops"])
        assert store.run("foreign").config == saved.get("hyper_parameters", {})


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        """The usual way."""
        return os.system, (self.command,)


def packed(value, **options):
    """What torch.save makes of it."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def packed_zeros():
    """Half a gigabyte of them, in a file of half a megabyte."""
    source, buffer = zipfile.ZipFile(io.BytesIO(packed({"w": torch.zeros(2)}))), io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, bytes(5 * 10**8) if name.endswith("data/0") else source.read(name))
    return buffer.getvalue()


def nested():
    """Forty lists, each twice in the next: a million of millions where it is written out."""
    value = [0]
    for _ in range(40):
        value = [value, value]
    return packed({"w": value})


HOSTILE = {
    "a plain pickle": (lambda bomb: pickle.dumps(bomb, protocol=2), "system"),
    "a bomb in torch's format": (lambda bomb: packed({"w": torch.ones(2), "x": bomb}), "system"),
    "a bomb in torch's old format": (lambda bomb: packed({"x": bomb}, _use_new_zipfile_serialization=False), "system"),
    "a whole module": (lambda bomb: packed(torch.nn.Linear(2, 2)), "torch.nn.modules.linear.Linear"),
    "zeros that were packed": (lambda bomb: packed_zeros(), ""),
    "a number in a shape of terabytes": (lambda bomb: packed({"w": torch.zeros(1).expand(10**6, 10**6)}), "memory"),
    "lists of lists of lists": (lambda bomb: nested(), ""),
    "an empty file": (lambda bomb: b"", "no file that torch.save wrote"),
    "noise": (lambda bomb: bytes(range(256)) * 40, ""),
    "half a file": (lambda bomb: packed({"w": torch.ones(9000)})[:20_000], "no file that torch.save wrote"),
    "a length that can't be": (lambda bomb: b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"x", ""),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_that_means_harm_is_refused(call, tmp_path, kind):
    """By name, in a line, with nothing run, and no checkpoint made."""
    canary, file = tmp_path / "canary", tmp_path / "x.pt"
    make, word = HOSTILE[kind]
    file.write_bytes(make(Bomb(f"touch {canary}")))
    result = call(file, "--memory", "400MB")
    assert result.exit_code in (8, 14), result.output
    assert word in result.stderr
    assert "weights_only=False" not in result.stderr
    assert not canary.exists()
    if (tmp_path / "store").exists():
        with Store(tmp_path / "store") as store:
            assert [checkpoint for run in store.runs() for checkpoint in run.checkpoints()] == []


def test_a_module_beside_the_file_is_not_taken_for_torch(call, tmp_path, monkeypatch):
    """Who unpacks an archive and imports from its folder runs nothing that lies there."""
    monkeypatch.chdir(tmp_path)
    for name in ("torch", "numpy", "json"):
        (tmp_path / f"{name}.py").write_text(f"open('canary-{name}', 'w')")
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pt")
    assert call(tmp_path / "w.pt").exit_code == 0
    assert list(tmp_path.glob("canary-*")) == []
