"""However a training ends, what it had saved by then is durable, and its process ends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ckpt_tracker import Store

SCRIPT = Path(__file__).parent / "scripts" / "exits.py"
ENDS = {"return": 0, "exit": 3, "error": 1, "ctrl-c": 1, "sigterm": 143}


@pytest.fixture(scope="module")
def trainings():
    """The process that trains in forks of itself."""
    process = subprocess.Popen([sys.executable, SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process
    process.communicate(timeout=60)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("framework", ["torch", "lightning", "keras"])
def test_what_was_saved_is_durable_however_the_training_ends(trainings, tmp_path, framework, end):
    """At its return, at sys.exit, at an error, at Ctrl-C twice, at SIGTERM: two epochs at least, and every byte."""
    store, output = tmp_path / "store", tmp_path / "output"
    print(json.dumps([framework, str(store), end, str(output)]), file=trainings.stdin, flush=True)
    status = int(trainings.stdout.readline())
    told = output.read_text(encoding="utf-8")
    assert status == ENDS[end], told
    assert ("KeyboardInterrupt" in told) == (end == "ctrl-c")
    with Store(store, create=False) as opened:
        checkpoints = opened.run("run").checkpoints()
        assert opened.verify(deep=True).ok
    assert [each.epoch for each in checkpoints][:2] == [0, 1]
    assert [each.reason for each in checkpoints if each.reason == "SIGTERM"] == ["SIGTERM"] * (end == "sigterm")
    assert not list((store / "tmp").iterdir())


def test_a_tracker_that_nobody_closes_loses_nothing(trainings, tmp_path):
    """Without a `with` block the interpreter's exit waits for what is queued."""
    store = tmp_path / "store"
    print(json.dumps(["torch", str(store), "no with", str(tmp_path / "output")]), file=trainings.stdin, flush=True)
    assert trainings.stdout.readline() == "0\n", (tmp_path / "output").read_text(encoding="utf-8")
    with Store(store, create=False) as opened:
        assert [each.epoch for each in opened.run("run").checkpoints()] == [0, 1, 2]
