"""What a save costs, in counts that do not depend on the clock: bytes, objects, system calls, SQL statements."""

import re
import shutil
import subprocess
import sys
from collections import Counter

import pytest
import torch
from torch import nn

from ckpt_tracker import Store
from ckpt_tracker.files import objects
from ckpt_tracker.state.torch_tensors import TorchKind

WIDTH, LAYERS = 256, 4
LARGE_BYTES = 3 * 4 * WIDTH * WIDTH * LAYERS
"""Of weights and AdamW's two moments."""

SAVES = """
import sys
import numpy as np
from ckpt_tracker import Store
with Store(sys.argv[1]) as store:
    run = store.run("r")
    for seed in range(3):
        random = np.random.default_rng(seed)
        state = {"model": {str(i): random.random(20_000) for i in range(5)}, "loop": {"small": random.random(3)}}
        print("save", flush=True)
        run.save(state).wait()
        print("saved", flush=True)
"""


@pytest.fixture
def store(tmp_path):
    """A store, closed at the end."""
    with Store(tmp_path / "checkpoints") as opened:
        yield opened


@pytest.fixture
def training():
    """A model and its optimizer after one step, and a function for another step."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad])

    def step():
        optimizer.zero_grad()
        model(torch.randn(4, WIDTH)).square().mean().backward()
        optimizer.step()

    step()
    return model, optimizer, step


@pytest.fixture
def counted(monkeypatch):
    """Bytes that are copied, and that are hashed, from now on. What is counted is done all the same."""
    counts = Counter()
    copy_all, blake3 = TorchKind.copy_all, objects.blake3

    def counting_copy(self, tensors, memory, starts):
        counts["copied"] += sum(each.nbytes for each in tensors)
        copy_all(self, tensors, memory, starts)

    def counting_hash(data, **more):
        counts["hashed"] += len(data)
        return blake3(data, **more)

    monkeypatch.setattr(TorchKind, "copy_all", counting_copy)
    monkeypatch.setattr(objects, "blake3", counting_hash)
    return counts


def state(model, optimizer):
    """What is saved."""
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def test_each_byte_is_copied_once_and_hashed_once(store, training, counted):
    """Small tensors are hashed a second time, with the pack that they go into."""
    model, optimizer, step = training
    run = store.run("r")
    nbytes = run.save(state(model, optimizer)).nbytes
    counted.clear()
    step()
    run.save(state(model, optimizer)).wait()
    assert counted["copied"] == nbytes
    small = nbytes - LARGE_BYTES
    assert nbytes <= counted["hashed"] <= nbytes + 2 * small


def test_what_did_not_change_is_neither_copied_nor_hashed(store, training, counted):
    """But small tensors, which take no longer than to compare them."""
    model, optimizer, _ = training
    run = store.run("r")
    small = run.save(state(model, optimizer)).wait().nbytes - LARGE_BYTES
    counted.clear()
    run.save(state(model, optimizer)).wait()
    assert counted == {"copied": small, "hashed": small}


def test_a_save_makes_an_object_for_each_large_tensor_and_one_for_all_small_ones(store, training):
    """And what did not change makes none."""
    model, optimizer, step = training
    run = store.run("r")
    run.save(state(model, optimizer)).wait()
    assert len(list(store.objects.names())) == 3 * LAYERS + 1
    assert run.save(state(model, optimizer)).stored_bytes == 0
    assert len(list(store.objects.names())) == 3 * LAYERS + 1
    for each in model[:-1].parameters():
        each.requires_grad_(False)
        each.grad = None
    before = run.last().nbytes
    step()
    assert run.save(state(model, optimizer)).stored_bytes < before / 3
    assert len(list(store.objects.names())) == 3 * LAYERS + 1 + 3 + 1


def test_a_save_takes_few_sql_statements(store, training):
    """One transaction: a statement for the checkpoint, one for its metrics, and what SQLite is asked besides."""
    model, optimizer, _ = training
    run = store.run("r")
    run.save(state(model, optimizer), metrics={"loss": 1.0}).wait()
    statements = []
    connected = store.index._connections.values()
    for each in connected:
        each.set_trace_callback(statements.append)
    run.save(state(model, optimizer), metrics={"loss": 0.5}).wait()
    for each in connected:
        each.set_trace_callback(None)
    assert statements
    assert sum("BEGIN IMMEDIATE" in each for each in statements) == 1
    assert len(statements) <= 12


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_save_takes_few_system_calls(tmp_path):
    """Per object a file, its bytes, its sync, its name and its folder's sync; twice that where the folder is new."""
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-qq", "-s", "8", "-e", "trace=openat,write,pwrite64,fsync,fdatasync,rename,lstat"]
    subprocess.run(
        [*command, "-o", str(trace), sys.executable, "-c", SAVES, str(tmp_path / "store")],
        check=True,
        capture_output=True,
    )
    calls = [match[1] for line in trace.read_text().splitlines() if (match := re.match(r"\d+ +(\w+\(\d?.*)", line))]
    marks = [index for index, call in enumerate(calls) if re.match(r'write\(1, "save', call)]
    last = Counter(call.partition("(")[0] for call in calls[marks[-2] : marks[-1]])
    made = 5 + 1 + 1  # objects, a pack, the manifest
    assert last["rename"] == made
    assert last["fsync"] + last["fdatasync"] <= 4 * made + 4
    assert last["openat"] <= 5 * made + 12
