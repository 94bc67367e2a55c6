"""A small Lightning training, and a process that forks it: imported once, killed and started again many times.

Usage: lightning_training.py PACKAGE, then one JSON object a line on standard input, each answered by one line: the exit
status of a fork that ran the training so described, and the digests of its run's checkpoints. With `devices` there is a
fork for each rank, and a list of statuses.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
import traceback
import warnings

import torch
from lightning_data import loaders
from lightning_models import make_gan, make_model

__all__ = ["loaders", "make_model"]
EPOCHS = 4
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


def disturb(model, case):
    """Kills this process, sends itself a signal or raises an error, where the case says so."""
    wanted = {tuple(point): what for *point, what in case.get("disturb", ())}
    if case.get("kill"):
        wanted[("train", *case["kill"])] = "SIGKILL"
    only = case.get("rank")

    def point(where, index):
        trainer = model.trainer
        what = wanted.get((where, trainer.current_epoch, index))
        if what is None or trainer.sanity_checking or only not in (None, trainer.global_rank):
            return
        if what == "error":
            raise ValueError("disturbed")
        if what == "SIGKILL":
            # what was saved is durable: where the resumed training begins does not depend on chance
            if trainer.is_global_zero:
                trainer.callbacks[-1].run.checkpoints()
            os.kill(os.getpid(), signal.SIGKILL)
        for name in what.split():
            os.kill(os.getpid(), getattr(signal, name))

    model.point = point
    return model


def make_callbacks(lightning, case):
    """The callbacks of a case: by name, with their arguments."""
    callbacks = importlib.import_module(f"{lightning.__name__}.callbacks")
    made = [callbacks.EarlyStopping("val_loss", patience=50)]
    for each in case.get("callbacks", ()):
        name, options = (each, {}) if isinstance(each, str) else each
        made.append(OTHERS[name](callbacks) if name in OTHERS else getattr(callbacks, name)(**options))
    return made


def freezing(callbacks):
    """A callback that freezes a layer, and BatchNorm's statistics, in the second epoch; it has no state."""

    class Freezing(callbacks.Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 1:
                module.net[0].requires_grad_(False)
                module.net[1].track_running_stats = False
                module.net[3].eval()

    return Freezing()


def accumulating(callbacks):
    """Two batches to a step from the second epoch on."""
    return callbacks.GradientAccumulationScheduler({1: 2})


OTHERS = {"Freezing": freezing, "Accumulating": accumulating}


def fit(lightning, case):
    """Trains as the case says; returns the digest of each checkpoint, by epoch and step."""
    from ckpt_tracker.integrations.lightning import CheckpointTracker
    from ckpt_tracker.state import overlap

    lightning.seed_everything(case["seed"] + int(os.environ.get("LOCAL_RANK", "0")), verbose=False)
    tracker = CheckpointTracker(
        case["store"],
        "run",
        monitor="val_loss",
        mode="min",
        every=case.get("every", "1 epoch"),
        keep="last:99",
        overrides=case.get("overrides"),
        overlap=case.get("overlap", False),
    )
    # the models here are small
    overlap.SMALL = 0
    options = {"max_epochs": EPOCHS, **case.get("trainer", {})}
    if options.get("strategy") == "ddp":
        strategies = importlib.import_module(f"{lightning.__name__}.strategies")
        options["strategy"] = strategies.DDPStrategy(process_group_backend="gloo", **case.get("ddp", {}))
    trainer = lightning.Trainer(callbacks=[tracker, *make_callbacks(lightning, case)], **QUIET, **options)
    generator = torch.Generator().manual_seed(case["seed"]) if case.get("generator") else None
    if case.get("handler"):
        signal.signal(signal.SIGTERM, lambda *_: None)
    if case.get("model") == "gan":
        model = make_gan(lightning)
    else:
        model = make_model(lightning, scheduler=case.get("scheduler"), sync=case.get("sync", True))
    train, validate = loaders(
        case.get("data", "shuffled"),
        workers=case.get("workers", 0),
        generator=generator,
        breaks_at=case.get("breaks_at"),
    )
    trainer.fit(disturb(model, case), train, validate)
    if not trainer.is_global_zero:
        return None
    return {f"{each.epoch}:{each.step}": each.digest for each in tracker.run.checkpoints()}


def forked(lightning, case):
    """Runs `fit` in a fork, or in one for each rank; returns the first one's exit status, negative for a signal, and
    its digests.
    """
    reading, writing = os.pipe()
    ranks = case.get("trainer", {}).get("devices", 1)
    addresses = rendezvous() if ranks > 1 else {}
    children = [fork(lightning, case, writing, rank=rank, addresses=addresses) for rank in range(ranks)]
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        digests = answer.read()
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return statuses[0] if ranks == 1 else statuses, json.loads(digests or "null")


def fork(lightning, case, writing, *, rank, addresses):
    """One training process; its number."""
    child = os.fork()
    if child:
        return child
    if addresses:
        os.environ.update(addresses, LOCAL_RANK=str(rank))
    status = 1
    try:
        digests = fit(lightning, case)
        if digests is not None:
            os.write(writing, json.dumps(digests).encode())
        status = 0
    except SystemExit as ending:
        status = ending.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def rendezvous():
    """What two ranks on this machine find each other by."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}


def main():
    """Answers until standard input ends."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lightning = importlib.import_module(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(forked(lightning, json.loads(line))), file=answers)


if __name__ == "__main__":
    main()
