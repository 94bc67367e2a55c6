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


@pytest.fixture
def format_2(tmp_path):
    """A copy of the store of format 2: compacted, its objects encoded alone and as differences."""
    pytest.importorskip("zstandard", reason="the extra [compact] is not installed")
    shutil.copytree(STORES / "format-2", tmp_path / "store")
    with Store(tmp_path / "store") as store:
        yield store


def test_every_byte_of_a_format_2_store_verifies(format_2):
    """Three checkpoints, whole, of which two stand on the first."""
    report = format_2.verify(deep=True)

    assert (report.checkpoints, report.findings) == (3, ())
    headers = [format_2.objects.encoded.header(name) for name in format_2.objects.encoded.names()]
    assert sum(header.base is not None for header in headers) == 2


def test_the_digests_of_format_2_are_those_of_format_1(format_2):
    """How bytes are stored is not in them."""
    assert [each.digest[:16] for each in format_2.run("mnist").checkpoints()] == [
        "d4a9d79f72a9c3cf",
        "38d49d5f62022e38",
        "f9ff85c1cf5dc26a",
    ]


def test_a_state_of_format_2_loads_as_it_was_saved(format_2):
    """Out of objects of two widths, and out of a difference."""
    state = format_2["mnist@epoch:2"].load()

    np.testing.assert_array_equal(state["model"]["encoder"], np.arange(20000, dtype=np.float32) / 7 - 900)
    np.testing.assert_array_equal(state["optimizer"]["moment"], np.full(5000, 2 / 3))
    assert not np.array_equal(state["model"]["head"], state["model"]["encoder"])


def test_a_format_2_store_is_gone_on_with(format_2):
    """Nothing that is encoded is written again, and a sweep leaves what others stand on."""
    run = format_2.run("mnist")
    again = run.save(format_2["mnist@v3"].load()).wait()
    assert again.digest == format_2["mnist@v3"].digest
    format_2.remove(format_2["mnist@v1"])
    format_2.empty_trash()
    assert format_2.verify(deep=True).ok
