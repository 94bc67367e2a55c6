"""For tests: a process that has imported Transformers once, and trains in forks of itself."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest


class Training(NamedTuple):
    """What became of one."""

    status: int
    checkpoints: list
    """[epoch, step, reason, digest] of each."""
    model: str | None
    """The hash of the one that it ended with."""

    @property
    def digests(self):
        """By epoch and step."""
        return {(epoch, step): digest for epoch, step, _, digest in self.checkpoints}


class Trainings:
    """Says to the process what to train."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory()
        self._errors = Path(self._folder.name, "errors")
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, Path(__file__).with_name("transformers_training.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0"},
            )

    def train(self, case, store, *, seed, stop=None):
        """A training, from its start, or where an earlier one in the store had come to, to its end or its death."""
        line = json.dumps({**case, "store": str(store), "seed": seed, "stop": stop})
        print(line, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        return Training(*json.loads(answer)) if answer else pytest.fail(self.said())

    def said(self):
        """What the trainings have said until now."""
        return self._errors.read_text()

    def close(self):
        """The process ends."""
        self._process.communicate(timeout=60)
        self._folder.cleanup()
