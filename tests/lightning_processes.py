"""Processes that have imported a Lightning and train in forks of themselves: the import takes longer than they do."""

import atexit
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("lightning_training.py")
_started = {}


class Trainings:
    """A process that has imported one of the packages."""

    def __init__(self, package):
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        self._whole = {}
        self._process = subprocess.Popen(
            [sys.executable, SCRIPT, package],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def fit(self, case, store, *, seed, **more):
        """The exit status of a training, and the digests of its run's checkpoints by epoch and step."""
        line = json.dumps({**case, "store": str(store), "seed": seed, **more})
        print(line, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        return json.loads(answer) if answer else pytest.fail(self.errors())

    def whole(self, case, folder):
        """The digests of the training that nothing interrupts."""
        key = json.dumps(case)
        if key not in self._whole:
            status, self._whole[key] = self.fit(case, folder / "whole", seed=1)
            assert status == 0, self.errors()
        return self._whole[key]

    def errors(self):
        """What it wrote to standard error."""
        self._errors.seek(0)
        return self._errors.read()[-8000:]

    def close(self):
        """Ends it."""
        self._process.communicate(timeout=60)


def trainings(package="lightning.pytorch"):
    """The process of that package; started when first asked for."""
    if package not in _started:
        _started[package] = Trainings(package)
        atexit.register(_started[package].close)
    return _started[package]


def killed_and_resumed(case, folder, *, package="lightning.pytorch", kill):
    """What a training leaves that was killed at (epoch, batch) and begun again with other seeds, and what it should."""
    process = trainings(package)
    whole = process.whole(case, folder)
    status, _ = process.fit(case, folder / "killed", seed=1, kill=kill)
    assert status == -signal.SIGKILL, process.errors()
    status, restarted = process.fit(case, folder / "killed", seed=2)
    assert status == 0, process.errors()
    return restarted, whole
