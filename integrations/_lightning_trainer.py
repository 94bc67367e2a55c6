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
from ckpt_tracker.integrations._stateful import check_tensors

_SHARDED = ("DeepSpeedStrategy", "FSDPStrategy", "ModelParallelStrategy")


def is_tuning(trainer: Any) -> bool:
    """This `fit` is one of a Tuner's: it trains for trial, and puts everything back."""
    return any(getattr(each, "_early_exit", False) for each in trainer.callbacks)


def require_whole_checkpoints(trainer: Any) -> None:
    """Raises InvalidOption for strategies that write each rank's part themselves, past every `checkpoint_io`."""
    for name in _SHARDED:
        if _named(trainer.strategy, name):
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
        if _named(each, "GradientAccumulationScheduler"):
            # it is told of the start of epochs only
            trainer.accumulate_grad_batches = each.get_accumulate_grad_batches(trainer.current_epoch)
    warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch")


def skip_validation(trainer: Any) -> Callable[[], None]:
    """Keeps Lightning from validating once more before it goes on. What is returned ends that.

    It also lets the end of the epoch be one like any other: Lightning would leave plateau schedulers out.
    """
    interval = trainer.val_check_batch
    if isinstance(interval, int):
        trainer.val_check_batch = sys.maxsize

    def undo() -> None:
        trainer.val_check_batch = interval
        trainer.fit_loop._restarting = False

    return undo


def train_loader(trainer: Any) -> Any:
    """The CombinedLoader that `fit` takes its batches from. Raises InvalidOption where the position can't be kept."""
    fetcher = getattr(trainer.fit_loop, "_data_fetcher", None)
    loader = getattr(fetcher, "combined_loader", None)
    problem = None
    if loader is None:
        problem = f"{_version(trainer)} hides its train dataloader"
    elif type(fetcher).__name__ != "_PrefetchDataFetcher":
        problem = "training_step(dataloader_iter) fetches its batches itself"
    elif trainer.num_training_batches == float("inf"):
        problem = "a train dataloader without a length is read ahead of the training"
    if problem is None:
        return loader
    raise InvalidOption(f"{problem}, so no checkpoint inside an epoch can be continued: use every='1 epoch'")


def draw_order(trainer: Any) -> None:
    """Iterates the train dataloader anew."""
    iter(trainer.fit_loop._data_fetcher)


def load_validation(trainer: Any) -> None:
    """Lets Lightning ask for the validation dataloaders, where it has not needed them yet."""
    if trainer.val_dataloaders is None:
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
        trainer.training = True


def restores_at_epochs_only(trainer: Any) -> bool:
    """Weight averaging is under way that Lightning takes up again at an epoch's start, and not inside one."""
    averaging = (each for each in trainer.callbacks if _named(each, "StochasticWeightAveraging"))
    return any(each.swa_start <= trainer.current_epoch for each in averaging)


def gather(trainer: Any, value: Any) -> list[Any]:
    """Every rank's value, on every rank."""
    if trainer.world_size == 1:
        return [value]
    from torch import distributed

    values: list[Any] = [None] * trainer.world_size
    distributed.all_gather_object(values, value)
    return values


def agree(trainer: Any, value: Any) -> Any:
    """The first rank's value, on every rank: ranks that decide differently wait for each other for ever."""
    return value if trainer.world_size == 1 else trainer.strategy.broadcast(value)


def wait(trainer: Any) -> None:
    """Until every rank has come here."""
    if trainer.world_size > 1:
        trainer.strategy.barrier("ckpt_tracker")


def _named(value: object, name: str) -> bool:
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
