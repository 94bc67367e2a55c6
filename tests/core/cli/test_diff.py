"""`ckpt diff`: what is told of two checkpoints, and how little memory that takes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ckpt_tracker import Store
from ckpt_tracker.tracker import Tracker


@pytest.fixture
def trained(path):
    """Two starts of one run, the second with another learning rate; NaN got into one tensor."""
    encoder = np.arange(20_000, dtype=np.float32)
    for epoch, lr in enumerate((0.1, 0.01)):
        tracker = Tracker(path, "r", monitor="loss", mode="min", keep="last:9", config={"lr": lr, "arch": "cnn"})
        tracker.begin()
        head, bias = np.full(4, 1.0 + epoch), np.array([1.0, 2.0])
        bias[epoch:] = np.nan if epoch else bias[epoch:]
        model = {"encoder": encoder, "head": head, "bias": bias, **({"extra": np.ones(2)} if epoch else {})}
        state = {"model": model, "optimizer": {"lr": lr}}
        tracker.save(state, epoch=epoch, step=epoch, metrics={"loss": 1.0 - epoch / 2}, reason="1 epoch")
        tracker.close()
    return path


def test_it_tells_metrics_config_and_each_tensor(ckpt, trained):
    """What is in one of them only first, then by how far the tensors are apart, then the other values."""
    result = ckpt("diff", "r@v1", "r@v2", "--store", trained)
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[2:8] == [
        ["metrics", "loss:", "1", "→", "0.5"],
        ["config", "lr:", "0.1", "→", "0.01"],
        ["code", "the", "same"],
        ["environment", "the", "same"],
        ["state", "3", "of", "4", "tensors", "changed"],
        ["values", "optimizer.lr:", "0.1", "→", "0.01"],
    ]
    assert [line[0] for line in lines[9:]] == ["tensor", "model.extra", "model.bias", "model.head"]
    assert lines[11][-4:] == ["NaN", "0", "→", "1"]
    assert lines[12][-3:] == ["100.0%", "1", "1"]


def test_as_json_it_has_raw_numbers(ckpt, trained):
    """A change has its name and both values, a tensor its distance."""
    found = json.loads(ckpt("diff", "r@v1", "r@v2", "--store", trained, "--json").stdout)
    assert (found["equal"], found["tensors"], found["changed_tensors"]) == (False, 4, 3)
    assert found["config"] == [{"name": "lr", "values": [0.1, 0.01]}]
    head = next(each for each in found["differences"] if each["path"] == "model.head")
    assert head["distance"] == {
        **{"elements": 4, "differing": 4, "max_absolute": 1.0, "max_relative": 0.5, "relative_l2": 1.0},
        **{"nans": [0, 0], "infs": [0, 0]},
    }
    assert [each["distance"] for each in found["differences"] if each["path"] in ("model.extra", "optimizer.lr")] == [
        None,
        None,
    ]


def test_one_section_is_compared_alone(ckpt, trained):
    """`--section` leaves the others out; one that neither has is exit code 3, with the nearest."""
    found = json.loads(ckpt("diff", "r@v1", "r@v2", "--section", "optimizer", "--store", trained, "--json").stdout)
    assert [each["path"] for each in found["differences"]] == ["optimizer.lr"]
    wrong = ckpt("diff", "r@v1", "r@v2", "--section", "modle", "--store", trained)
    assert (wrong.exit_code, wrong.stdout) == (3, "")
    assert "has a section 'modle'; did you mean 'model'?" in wrong.stderr


def test_equal_states_are_bit_equal(ckpt, trained):
    """A checkpoint against itself."""
    result = ckpt("diff", "r@v2", "r@last", "--store", trained)
    assert result.stdout.splitlines()[-1] == "state        bit-equal, 4 tensors"


def test_it_needs_far_less_memory_than_a_tensor(path, python):
    """Tensors of 64 MB are mapped in stretches: the peak grows by less than 1.2 of one, and no torch is loaded."""
    with Store(path) as store:
        for seed in range(2):
            weights = np.random.default_rng(seed).standard_normal(2**24, dtype=np.float32)
            store.run("r").save({"model": {"a": weights, "b": weights + 1}}).wait()
    grown, loaded = python(
        """
        import resource, sys
        from ckpt_tracker.cli.app import ckpt
        ckpt(["diff", "r@v1", "r@v1", "--store", sys.argv[1]], standalone_mode=False)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        ckpt(["diff", "r@v1", "r@v2", "--store", sys.argv[1]], standalone_mode=False)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(after - before)
        print("torch" in sys.modules)
        """,
        path,
    ).splitlines()[-2:]
    unit = 1 if __import__("sys").platform == "darwin" else 1024
    assert int(grown) * unit < 1.2 * 2**26
    assert loaded == "False"
