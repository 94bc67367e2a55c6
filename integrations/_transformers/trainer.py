"""Everything of a transformers Trainer that is not handed to a callback: finding it, its `train`, its private figures.

A Trainer decides at which epoch to begin before any callback is asked, and only from the folder given to `train`. So
`train` is wrapped, on the one object, and gives it such a folder. The private names are those of the running loss,
which the log shows; where they are missing, the log's first loss after a restart counts from there.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

from ckpt_tracker.errors import InvalidOption, MissingExtra

_OLDEST = (5, 3)
Train = Callable[..., Any]
Fetch = Callable[[Any], Any]
NEVER = 2**126
"""A step that lies behind the end of every training."""


def require_transformers() -> None:
    """Raises MissingExtra where a package that the Trainer needs is not installed, or too old; imports nothing."""
    for package in ("transformers", "accelerate", "torch"):
        if find_spec(package) is None:
            raise MissingExtra(f"{package!r} is not installed: pip install 'ckpt-tracker[transformers]'")
    found = version("transformers")
    if tuple(int(number) for number in re.findall(r"\d+", found)[:2]) < _OLDEST:
        # older ones load their best model before the last words, and hide the running loss
        raise MissingExtra(
            f"transformers {found} is installed, and 5.3 or later needed: pip install -U 'ckpt-tracker[transformers]'"
        )


def calling_trainer() -> Any:
    """The Trainer that is calling this callback, or None."""
    from transformers import Trainer

    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        found = frame.f_locals.get("self")
        if isinstance(found, Trainer):
            return found
        frame = frame.f_back
    return None


def wrap_train(trainer: Any, around: Callable[[Any, Train, Any, Any], Any]) -> None:
    """Lets `around(trainer, train, resume_from_checkpoint, trial)` stand in for `trainer.train`."""
    original = trainer.train

    @functools.wraps(original)
    def train(resume_from_checkpoint: Any = None, trial: Any = None, *args: Any, **options: Any) -> Any:
        def go_on(given: Any) -> Any:
            return original(given, trial, *args, **options)

        return around(trainer, go_on, resume_from_checkpoint, trial)

    trainer.train = train


def wrap_fetch(trainer: Any, around: Callable[[Fetch, Any], Any]) -> None:
    """Lets `around(fetch, batches)` stand in for `trainer.get_batch_samples`, which brings a step's data."""
    original = trainer.get_batch_samples

    @functools.wraps(original)
    def get_batch_samples(epoch_iterator: Any, *args: Any, **options: Any) -> Any:
        return around(lambda batches: original(batches, *args, **options), epoch_iterator)

    trainer.get_batch_samples = get_batch_samples


def wrap_load(trainer: Any, around: Callable[[str], bool]) -> None:
    """Lets `around(folder)` restore the model, where it returns True, instead of what reads it from the folder."""
    if loads_alone(trainer):
        return
    original = trainer._load_from_checkpoint

    @functools.wraps(original)
    def load(folder: Any, *args: Any, **options: Any) -> None:
        if not around(folder):
            original(folder, *args, **options)

    trainer._load_from_checkpoint = load


def loads_alone(trainer: Any) -> bool:
    """It needs the whole folder: there are several processes, it may begin again, or it loads in a way of its own."""
    several = trainer.args.world_size > 1 or getattr(trainer.args, "auto_find_batch_size", False)
    methods = (
        getattr(type(trainer), name, None) for name in ("_load_from_checkpoint", "_load_optimizer_and_scheduler")
    )
    return several or any(getattr(each, "__module__", None) != "transformers.trainer" for each in methods)


def put_last(trainer: Any, tracker: Any) -> None:
    """What other callbacks do at the start of an epoch is to be done before the tracker saves or restores."""
    callbacks = trainer.callback_handler.callbacks
    if tracker in callbacks:
        callbacks.remove(tracker)
    callbacks.append(tracker)


def require_whole_checkpoints(trainer: Any) -> None:
    """Raises InvalidOption where each rank holds only a part of the model."""
    for name in ("deepspeed", "fsdp"):
        if getattr(trainer, f"is_{name}_enabled", False):
            raise InvalidOption(
                f"with {name} each rank holds a part of the model, which a store does not hold yet: "
                "use the Trainer's own save_strategy"
            )


def optimizer(trainer: Any) -> Any:
    """torch's own, without what Accelerate has wrapped it in."""
    return getattr(trainer.optimizer, "optimizer", trainer.optimizer)


def scaler(trainer: Any) -> Any:
    """The gradient scaler of fp16, or None."""
    return getattr(trainer.accelerator, "scaler", None)


def running_loss(trainer: Any) -> dict[str, Any] | None:
    """The sum of the losses since the last log, and the step of that."""
    if not _has_running_loss(trainer):
        return None
    return {"sum": trainer._tr_loss.item(), "since": trainer._globalstep_last_logged}


def put_running_loss(trainer: Any, saved: Mapping[str, Any] | None) -> None:
    """Puts it back; the average over the training that `train` returns is still of what this process trained."""
    if saved is not None and _has_running_loss(trainer):
        trainer._tr_loss.fill_(saved["sum"])
        trainer._globalstep_last_logged = saved["since"]
        trainer._total_loss_scalar = -saved["sum"]


def forget_random_states(trainer: Any, folder: str) -> None:
    """Leaves the Trainer none to set in this process."""
    args = trainer.args
    name = "rng_state.pth" if args.world_size <= 1 else f"rng_state_{args.process_index}.pth"
    Path(folder, name).unlink(missing_ok=True)


def lasting_eval_loaders(trainer: Any) -> list[Any]:
    """The loaders of an evaluation that are there until the next one."""
    found = trainer.eval_dataset
    if found is None or not trainer.args.dataloader_persistent_workers:
        return []
    names = list(found) if isinstance(found, dict) else [None]
    return [trainer.get_eval_dataloader(name) for name in names]


def put_step(trainer: Any, step: int) -> None:
    """Ends the pretence of a training that is told to be at NEVER, so that it trains nothing."""
    trainer.state.global_step = step
    for name in ("_initial_global_step", "_globalstep_last_logged"):
        if hasattr(trainer, name):
            setattr(trainer, name, step)


def _has_running_loss(trainer: Any) -> bool:
    return all(hasattr(trainer, name) for name in ("_tr_loss", "_globalstep_last_logged", "_total_loss_scalar"))
