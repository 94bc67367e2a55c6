"""`ckpt watch`: each checkpoint is told as it comes, and the end is clean."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys

import pytest

from ckpt_tracker.tracker import Tracker

WATCH = """
import sys
sys.argv[0] = "ckpt"
from ckpt_tracker.cli import main
main()
"""


@pytest.fixture
def training(path):
    """A training that goes on, with one checkpoint."""
    tracker = Tracker(path, "r", monitor="loss", mode="min", keep="last:9")
    tracker.begin()
    save(tracker, 0)
    yield tracker
    tracker.close()


def save(tracker, epoch):
    """One more checkpoint, durable."""
    metrics = {"loss": 1 / (epoch + 1)}
    tracker.save({"model": {}}, epoch=epoch, step=10 * epoch, metrics=metrics, reason="1 epoch").wait()


def test_a_pipe_gets_a_line_a_checkpoint_until_the_end(training, path, start):
    """The newest at once, each other when it is durable; when the training is finished the exit code is 0."""
    watching = start(WATCH, "watch", "r", "--interval", "0.05", "--store", path)
    assert watching.line().split() == ["r@v1", "epoch", "0", "step", "0", "loss=1", "0", "B", "best"]
    save(training, 1)
    assert watching.line().split()[:5] == ["r@v2", "epoch", "1", "step", "10"]
    training.close(finished=True)
    assert watching.end() == ("", "")
    assert watching.popen.returncode == 0


def test_as_json_each_line_is_a_checkpoint(training, path, start):
    """With the keys of `ckpt ls --json`."""
    watching = start(WATCH, "watch", "r", "--interval", "0.05", "--json", "--store", path)
    assert json.loads(watching.line())["ref"] == "r@v1"
    save(training, 1)
    assert json.loads(watching.line())["metrics"] == {"loss": 0.5}


def test_ctrl_c_ends_it(training, path, start):
    """Exit code 130, without a traceback."""
    watching = start(WATCH, "watch", "r", "--store", path)
    watching.line()
    watching.popen.send_signal(signal.SIGINT)
    assert watching.end() == ("", "")
    assert watching.popen.returncode == 130


def test_a_terminal_gets_a_table_and_has_its_cursor_back(training, path):
    """It is drawn anew; Ctrl-C leaves the terminal as it was."""
    save(training, 1)
    save(training, 2)
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "ckpt_tracker", "watch", "r", "--store", str(path)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24", "PYTHONUTF8": "1"}
    with subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment) as watching:
        os.close(terminal)
        drawn = b""
        while "loss █▃▁".encode() not in drawn:
            drawn += os.read(controller, 4096)
        watching.send_signal(signal.SIGINT)
        while True:
            try:
                drawn += os.read(controller, 4096)
            except OSError:  # the other end is closed
                break
    os.close(controller)
    assert watching.returncode == 130
    assert b"v3" in drawn
    assert drawn.rindex(b"\x1b[?25h") > drawn.rindex(b"\x1b[?25l")
    assert b"Traceback" not in drawn
