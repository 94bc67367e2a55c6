"""Stores of every released format are kept beside this file, and go on being read."""

import math
import shutil
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from ckpt_tracker import Store

STORES = Path(__file__).parent / "stores"


@pytest.fixture
def format_1(tmp_path):
    """A copy of the store of format 1, without its index, as it came from another machine."""
    shutil.copytree(STORES / "format-1", tmp_path / "store")
    with Store(tmp_path / "store") as store:
        yield store


def test_every_byte_of_a_format_1_store_verifies(format_1):
    """Three checkpoints, whole."""
    report = format_1.verify(deep=True)

    assert (report.checkpoints, report.findings) == (3, ())


def test_the_digests_of_format_1_stay_what_they_were(format_1):
    """The definition of the digest has not drifted."""
    assert [each.digest[:16] for each in format_1.run("mnist").checkpoints()] == [
        "b5720f2f86d6d0fd",
        "924d525aa3aa846f",
        "dfb3e4f296c0a1e5",
    ]


def test_a_state_of_format_1_loads_as_it_was_saved(format_1):
    """Trees, tagged forms and tensors come back."""
    state = format_1["mnist@epoch:2"].load()

    assert isinstance(state["model"], OrderedDict)
    np.testing.assert_array_equal(state["model"]["encoder"], np.arange(20000, dtype=np.float32))
    assert state["optimizer"] == {"state": {0: {"step": 3, "betas": (0.9, 0.999)}}}
    assert math.isnan(state["loop"].pop("nan"))
    assert state["loop"] == {"epoch": 2, "big": 2**70, "bytes": b"\x00\xff"}


def test_metrics_tags_and_config_of_format_1_are_found(format_1):
    """The index is made anew from the files."""
    assert format_1.run("mnist").best("val_loss", mode="min").version == 3
    assert format_1["mnist@paper"].version == 1
    assert math.isnan(format_1["mnist@v2"].metrics["val_loss"])
    assert format_1.run("mnist").config == {"lr": 0.001}
