"""Trainings in forks of one process that has imported what they need: started, killed, started again, compared."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


class Trainings:
    """Runs the trainings of a script; those without an interruption once only. A context manager."""

    def __init__(self, script, folder):
        command = [sys.executable, TESTS / script]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._folder = Path(folder)
        self._stores = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(60) == 0

    def run(self, **case):
        """The exit status, negative for a signal, and what the training told."""
        print(
            json.dumps({key: str(value) if key == "store" else value for key, value in case.items()}),
            file=self._process.stdin,
            flush=True,
        )
        return json.loads(self._process.stdout.readline())

    def whole(self, case):
        """What the uninterrupted training tells."""
        _, status, told = self._kept(case)
        assert status in (0, [0, 0]), told
        return told

    def interrupted(self, case, **how):
        """A copy of the store that an interrupted training has left, its exit status and what it told."""
        store, status, told = self._kept({**case, **how})
        self._stores["copies"] = self._stores.get("copies", 0) + 1
        return shutil.copytree(store, self._folder / f"copy {self._stores['copies']}"), status, told

    def resumed(self, store, case, **more):
        """What the training tells that goes on in that store, with other seeds."""
        status, told = self.run(store=store, seed=2, **case, **more)
        assert status in (0, [0, 0]), told
        return told

    def _kept(self, case):
        name = json.dumps(case, sort_keys=True)
        if name not in self._stores:
            store = self._folder / f"store {len(self._stores)}"
            self._stores[name] = (store, *self.run(**{"store": store, "seed": 1, **case}))
        return self._stores[name]


def agree(resumed, whole):
    """Every checkpoint of the uninterrupted training that the other one has, too, is the same, and so is the last."""
    common = {name: digest for name, digest in resumed["saved"].items() if name in whole["saved"]}
    last = next(reversed(whole["saved"]))
    return last in common and common == {name: whole["saved"][name] for name in common}


def check_overlapped(trainings, case, *, kill):
    """With `overlap` its checkpoints are those that are copied at once, also after a kill, and nothing is said."""
    whole, overlapped = trainings.whole(case), {**case, "overlap": True}
    store, _, _ = trainings.interrupted(overlapped, kill=kill)

    told = trainings.resumed(store, overlapped)

    assert trainings.whole(overlapped)["saved"] == whole["saved"]
    assert told["done"][0] != [0, 0]
    assert (agree(told, whole), told["said"]) == (True, [])
