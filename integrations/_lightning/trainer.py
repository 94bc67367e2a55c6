"""Everything of a Lightning Trainer that is reached by a private name, and what is said when it is not there.

Lightning has no public way to restore without a path given to `fit`, to begin an epoch with restored random
states, or to continue inside one exactly.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from ckpt_tracker.errors import InvalidOption, StateMismatch
from ckpt_tracker.integrations._shared.stateful import check_tensors

_SHARDED = ("DeepSpeedStrategy", "FSDPStrategy", "ModelParallelStrategy")


def is_tuning(trainer: Any) -> bool:
    """This `fit` is one of a Tuner's: it trains for trial, and puts everything back."""
    return any(getattr(each, "_early_exit", False) for each in trainer.callbacks)


def require_whole_checkpoints(trainer: Any) -> None:
    """Raises InvalidOption for strategies that write each rank's part themselves, past every `checkpoint_io`."""
    for name in _SHARDED:
        if named(trainer.strategy, name):
            raise InvalidOption(
                f"strategy {name} writes sharded checkpoints by itself, which a store does not hold yet: "
                "use a strategy with whole checkpoints, such as 'ddp'"
            )


def can_inject(trainer: Any) -> bool:
    """Lightning keeps a loaded checkpoint where it can be put without a path."""
    return hasattr(getattr(trainer, "_checkpoint_connector", None), "_loaded_checkpoint")


def inject(trainer: Any, checkpoint: dict[str, Any]) -> None:
    """Lets the `fit` that is setting up restore `checkpoint`, unless it was given a path itself."""
    if not can_inject(trainer):
        raise not_restored(trainer)
    connector = trainer._checkpoint_connector
    if not connector._loaded_checkpoint:
        connector._loaded_checkpoint = checkpoint


def not_restored(trainer: Any) -> StateMismatch:
    """The error for a Lightning that does not restore by itself."""
    return StateMismatch(
        f"{_version(trainer)} does not take up a checkpoint by itself any more: "
        "pass trainer.fit(..., ckpt_path=tracker.ckpt_path)"
    )


def begin_epoch(fit_loop: Any, counters: Mapping[str, Any]) -> None:
    """Makes a `fit` restored at the end of an epoch begin the next one like any other.

    With `max_steps`, Lightning would end the old epoch a second time; else it would draw the order of the data too
    early. Its sanity check has reset the counters of validation.
    """
    fit_loop.load_state_dict(counters)
    progress = fit_loop.epoch_progress
    for each in (progress.total, progress.current):
        each.ready = each.started = each.completed = each.processed
    fit_loop.epoch_loop.restarting = False
    fit_loop._restarting = False
    fit_loop._resuming_from_checkpoint = False
    for loop in (fit_loop, fit_loop.epoch_loop):
        _forget_restart(loop)


def continue_epoch(trainer: Any, counters: Mapping[str, Any]) -> None:
    """Makes a `fit` restored inside an epoch go on with its next batch. The order of the data is left to others."""
    fit_loop = trainer.fit_loop
    fit_loop.load_state_dict(counters)
    if not hasattr(fit_loop, "restarted_mid_epoch"):
        # before 2.5 the epoch is counted as begun once more
        for each in (fit_loop.epoch_progress.total, fit_loop.epoch_progress.current):
            each.ready = each.started = each.processed
    for each in trainer.callbacks:
        if named(each, "GradientAccumulationScheduler"):
            # it is told of the start of epochs only
            trainer.accumulate_grad_batches = each.get_accumulate_grad_batches(trainer.current_epoch)
    warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch")


def skip_validation(trainer: Any) -> Callable[[], None]:
    """Keeps Lightning from validating once more before it goes on. What is returned ends that."""
    interval = trainer.val_check_batch
    if isinstance(interval, int):
        trainer.val_check_batch = sys.maxsize

    def undo() -> None:
        trainer.val_check_batch = interval

    return undo


def watch_loader(trainer: Any, watch: Callable[[Any], None]) -> Callable[[], None]:
    """Shows `watch` each CombinedLoader of the training before its first iteration. What is returned ends that."""
    fit_loop = trainer.fit_loop
    plain = type(fit_loop)._load_combined_loader_states.__get__(fit_loop)

    def made() -> None:
        plain()
        watch(fit_loop._combined_loader)

    def undo() -> None:
        fit_loop.__dict__.pop("_load_combined_loader_states", None)

    fit_loop._load_combined_loader_states = made
    return undo


def validation_loaders(trainer: Any) -> Any:
    """Those that Lightning has asked for, or will: what `fit` was given. A method that makes some is not called."""
    source = trainer.fit_loop.epoch_loop.val_loop._data_source
    return trainer.val_dataloaders or (None if source.is_module() else source.instance)


def load_validation(trainer: Any) -> None:
    """Lets Lightning ask for the validation dataloaders, where it has not needed them yet."""
    if trainer.val_dataloaders is None:
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
        trainer.training = True


def start_averaging(trainer: Any) -> None:
    """Lets weight averaging go on that was under way: inside an epoch it would wait for the next one's begin."""
    progress = trainer.fit_loop.epoch_progress.current
    for each in trainer.callbacks:
        if not named(each, "StochasticWeightAveraging") or each._initialized or each._scheduler_state is None:
            continue
        epoch = progress.completed
        # in the epoch after the last, which is for BatchNorm alone, it would not take its scheduler up
        progress.completed = min(epoch, each.swa_end)
        each.on_train_epoch_start(trainer, trainer.lightning_module)
        progress.completed = epoch


def is_averaged(trainer: Any) -> bool:
    """The epoch that begins is the one after the last, in which averaged weights stand in the place of the model's."""
    epoch = trainer.current_epoch
    return any(named(each, "StochasticWeightAveraging") and epoch > each.swa_end for each in trainer.callbacks)


def named(value: object, name: str) -> bool:
    return any(cls.__name__ == name for cls in type(value).__mro__)


def _forget_restart(loop: Any) -> None:
    if hasattr(loop, "reset_restart_stage"):  # since 2.5
        loop.reset_restart_stage()


def _version(trainer: Any) -> str:
    package = type(trainer).__module__.partition(".")[0]
    return f"{package} {getattr(sys.modules.get(package), '__version__', '')}".strip()


def require_shapes(module: Any, saved: Mapping[str, Any]) -> None:
    """Raises StateMismatch where a tensor has another shape in the checkpoint; missing ones are Lightning's to name.

    A module that changes what it loads, in an `on_load_checkpoint` of its own, is left to that.
    """
    if type(module).on_load_checkpoint.__module__.split(".")[0] not in ("lightning", "pytorch_lightning"):
        return
    own = module.state_dict()
    common = own.keys() & saved.keys()
    check_tensors({key: own[key] for key in common}, {key: saved[key] for key in common}, name="the module")
