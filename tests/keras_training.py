"""A process that has imported Keras with one backend, and trains in forks of itself, which may be killed.

Each line of standard input is a JSON object that describes a training; it is answered by one line: the exit status of
the fork, the digests of its run's checkpoints, and what it was warned of. Nothing may have been computed before: the
backends' runtimes don't survive a fork.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import traceback
import warnings

import keras
import keras_scenarios
import tensorflow  # noqa: F401  Keras imports it when it first trains, whatever its backend is
import torch

from ckpt_tracker.errors import CheckpointWarning
from ckpt_tracker.integrations.keras import CheckpointTracker


class Interrupt(keras.callbacks.Callback):
    """Sends a signal to its own process at a batch of an epoch, or of its validation, which is `[epoch, batch]`."""

    def __init__(self, tracker, at, number, times, *, validating):
        super().__init__()
        self.tracker, self.at, self.number, self.times = tracker, at, number, times
        self.epoch, self.validating = None, validating

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if not self.validating:
            self.come(batch)

    def on_test_batch_end(self, batch, logs=None):
        if self.validating:
            self.come(batch)

    def come(self, batch):
        if [self.epoch, batch] == self.at:
            # what was saved is durable: where the resumed training begins does not depend on chance
            self.tracker.run.checkpoints()
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


def train(case):
    """Trains as the case says; returns the digest of each checkpoint by epoch and step, and where it began."""
    if case["seed"]:
        keras.utils.set_random_seed(case["seed"])
        torch.manual_seed(case["seed"])
    tracker = CheckpointTracker(
        case["store"], "run", keep="last:99", every=case.get("every", "1 epoch"), overrides=case.get("overrides")
    )
    number = getattr(signal, case.get("signal", "SIGKILL"))
    validating = case.get("validating", False)
    interrupt = Interrupt(tracker, case.get("kill"), number, case.get("times", 1), validating=validating)
    # in front of the tracker, behind it, and without a place of their own
    fit = getattr(keras_scenarios, case["scenario"])(case["seed"], **case.get("options", {}))
    fit(callbacks=[interrupt, tracker], epochs=case.get("epochs", 4), verbose=0)
    resumed = tracker.resumed_from
    return {
        "from": resumed and f"{resumed.epoch}:{resumed.step}",
        "reasons": [each.reason for each in tracker.run.checkpoints()],
        "digests": {f"{each.epoch}:{each.step}": each.digest for each in tracker.run.checkpoints()},
    }


def answer(case):
    """Trains, and says what came of it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", CheckpointWarning)
        trained = train(case)
    return {**trained, "warnings": [str(each.message) for each in caught]}


def forked(case):
    """Runs that in a fork; returns its exit status, negative for a signal, and its answer."""
    # no pipe: workers of a killed training would hold it open
    with tempfile.TemporaryFile("w+") as answered:
        child = os.fork()
        if child == 0:
            os._exit(_child(case, answered))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        answered.seek(0)
        return status, json.loads(answered.read() or "null")


def _child(case, answered):
    try:
        json.dump(answer(case), answered)
    except SystemExit as leaving:
        return leaving.code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        answered.flush()
        sys.stderr.flush()
    return 0


def main():
    """Answers until standard input ends."""
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(forked(json.loads(line))), file=answers)


if __name__ == "__main__":
    main()
