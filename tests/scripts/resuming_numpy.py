"""A training with NumPy alone that does something wrong when it is started again, for `ckpt verify-resume` to find.

Usage: resuming_numpy.py [WRONG]. What WRONG can be is what the code looks for; without it nothing is wrong.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from ckpt_tracker.tracker import Tracker

EPOCHS = 5
WRONG = sys.argv[1] if __name__ == "__main__" and len(sys.argv) > 1 else ""


class Noisy:
    """Samples with noise from a generator of their own."""

    def __init__(self):
        self.rng = np.random.default_rng(None if WRONG == "unseeded" else 0)
        self.stage = 0

    def __getitem__(self, index):
        return self.rng.normal(size=8) + index + (self.stage if WRONG == "variable" else 0)


class Kept:
    """Arrays with a state, as an optimizer, a scheduler or an average has one."""

    def __init__(self, **arrays):
        vars(self).update(arrays)

    def state_dict(self):
        return dict(vars(self))

    def load_state_dict(self, state):
        vars(self).update(state)


class Momentum(Kept):
    """The optimizer's."""


class HalvingScheduler(Kept):
    """The learning rate's."""


class EMA(Kept):
    """The average of the weights."""


STORE = Path(os.environ.get("CKPT_TRACKER_TRIAL", "checkpoints"))
TO_BE_KILLED = STORE.name.startswith("kill") and not any(STORE.glob("runs/*/manifests/*.json"))
"""Not so when it is started again."""
ASIDE = STORE.with_name(f"{STORE.name}-aside")


def wait_for_the_kill():
    """Blocks where a kill is to come."""
    if TO_BE_KILLED:
        signal.pause()


def epochs():
    """How many there are to do."""
    return 1 if WRONG == "once" or (WRONG == "early" and TO_BE_KILLED) else EPOCHS


def begin():
    """The tracker, and the state to go on from."""
    if WRONG == "fails":
        raise SystemExit("no GPU here")
    if WRONG == "silent":
        raise SystemExit(0)
    if WRONG == "late" and TO_BE_KILLED:
        os.environ["CKPT_TRACKER_TRIAL"] = str(ASIDE)
    name = {"unnamed": None, "renamed": f"toy-{os.getpid()}"}.get(WRONG, "toy")
    tracker = Tracker("checkpoints", name, resume="never" if WRONG == "never" else "auto", keep="last:1")
    resumed = tracker.begin()
    if WRONG == "fails when resumed" and resumed:
        raise SystemExit("shapes differ")
    return tracker, tracker.take_state()


def child_of_its_own_session():
    """What a launcher of several ranks does; the child outlives its parent."""
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    Path("child").write_text(str(child.pid))


class Training:
    """What is trained, and everything that has to be saved with it."""

    def __init__(self):
        self.data = Noisy()
        self.weights = np.zeros(8)
        self.parts = {
            "optimizer": Momentum(velocity=np.zeros(8)),
            "scheduler": HalvingScheduler(rate=1.0),
            "ema": EMA(shadow=np.zeros(8)),
        }

    def step(self, batch):
        """One step of everything."""
        momentum, schedule, average = self.parts.values()
        momentum.velocity = 0.9 * momentum.velocity + self.data[batch]
        self.weights -= schedule.rate * momentum.velocity
        if WRONG == "set":
            self.weights += sum(len(each) / (1 + place) for place, each in enumerate({"a", "bb", "ccc", "dddd"}))
        average.shadow = 0.9 * average.shadow + 0.1 * self.weights

    def save(self):
        """The state, without what is to be lost."""
        state = {name: part.state_dict() for name, part in self.parts.items() if name != WRONG}
        if WRONG != "generator":
            state["extra"] = {"rng": self.data.rng.bit_generator.state}
        if WRONG == "time":
            state["callbacks"] = {"seconds": time.perf_counter()}
        return {"model": {"weights": self.weights}, **state}

    def load(self, state):
        """Puts a state back."""
        self.weights[:] = state["model"]["weights"]
        for name in self.parts.keys() & state.keys():
            self.parts[name].load_state_dict(state[name])
        if "extra" in state:
            self.data.rng.bit_generator.state = state["extra"]["rng"]


def main():
    """Trains to the end, from where the run stopped."""
    tracker, state = begin()
    training = Training()
    if state:
        training.load(state)
    for epoch in range(state["loop"]["epoch"] if state else 0, epochs()):
        for batch in range(4):
            if WRONG == "hangs":
                signal.pause()
            if (epoch, batch) == (EPOCHS - 1, 2) and WRONG != "late":
                if WRONG == "child":
                    child_of_its_own_session()
                wait_for_the_kill()
            training.step(batch)
        training.parts["scheduler"].rate /= 2
        training.data.stage += 1
        saved = {**training.save(), "loop": {"epoch": epoch + 1}}
        tracker.save(saved, epoch=epoch, step=4 * epoch + 4, metrics={"weight": training.weights[0]})
    tracker.close(finished=True)
    if WRONG == "late" and TO_BE_KILLED:
        # all at once, so that there is no moment before the last
        ASIDE.rename(STORE)
        wait_for_the_kill()


if __name__ == "__main__":
    main()
