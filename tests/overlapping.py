"""What the tests of `overlap=True` share."""

import threading

import pytest

from ckpt_tracker.state import overlap
from ckpt_tracker.state.torch_tensors import TorchKind


@pytest.fixture
def all_sizes(monkeypatch):
    """Small tensors are overlapped as well: those of the models here are."""
    monkeypatch.setattr(overlap, "SMALL", 0)


@pytest.fixture
def gate(monkeypatch, all_sizes):
    """An event that copies in a thread wait for; those that are made at once do not."""
    opened = threading.Event()
    copy_into = TorchKind.copy_into

    def held(kind, tensor, buffer):
        if threading.current_thread().name == "ckpt_tracker copy":
            assert opened.wait(10), "the training waited for the copy before it came to the gate"
        copy_into(kind, tensor, buffer)

    monkeypatch.setattr(TorchKind, "copy_into", held)
    return opened
