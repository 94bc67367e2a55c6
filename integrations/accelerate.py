"""CheckpointTracker for a hand-written loop with Hugging Face Accelerate, in one process or in several.

accelerator = Accelerator()
model, optimizer, train_loader, scheduler = accelerator.prepare(model, optimizer, train_loader, scheduler)
with CheckpointTracker("checkpoints", "mnist", accelerator=accelerator,
                       model=model, optimizer=optimizer, scheduler=scheduler) as tracker:
    for epoch in tracker.epochs(20):
        for batch in tracker.batches(train_loader):
            with accelerator.accumulate(model):
                ...
        tracker.log(val_loss=accelerator.gather_for_metrics(losses).mean())
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ckpt_tracker.errors import InvalidOption, MissingExtra
from ckpt_tracker.integrations._loop.tracker import LoopTracker
from ckpt_tracker.integrations._shared import stateful as _stateful
from ckpt_tracker.store import Store

try:
    from accelerate import Accelerator  # type: ignore[import-untyped]
except ImportError as error:
    raise MissingExtra("this tracker needs Accelerate: pip install accelerate") from error

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ckpt_tracker.options import TrackerOptions

__all__ = ["CheckpointTracker"]

_WHOLE = ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_NPU", "MULTI_XPU", "MULTI_MLU", "MULTI_HPU")


class CheckpointTracker(LoopTracker):
    """Takes the run, and restores the objects it is given, when it is made; saves as the loop turns.

    Every process makes one, after `accelerator.prepare`; the first of them writes, and each gets back what was its own.
    The accelerator's scaler, and what was registered with `register_for_checkpointing`, need not be given.
    Raises InvalidOption, RunBusy, CheckpointNotFound, StateMismatch, Damaged.
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | Store | None = None,
        run: str | None = None,
        *,
        accelerator: Accelerator,
        model: Any = None,
        optimizer: Any = None,
        scheduler: Any = None,
        ema: Any = None,
        extra: Mapping[str, Any] | None = None,
        **options: Unpack[TrackerOptions],
    ) -> None:
        if accelerator.distributed_type.name not in _WHOLE:
            raise InvalidOption(
                f"with {accelerator.distributed_type} each process has a part of the model, which is not supported: "
                "train with one process, or with DistributedDataParallel"
            )
        given = {
            **{"model": model, "optimizer": optimizer, "scheduler": scheduler, "ema": ema},
            **{"scaler": accelerator.scaler, "accelerator": _State(accelerator)},
            "extra": dict(extra) if extra else None,
        }
        facts = {
            "mixed_precision": accelerator.mixed_precision,
            "gradient_accumulation_steps": accelerator.gradient_accumulation_steps,
            "split_batches": accelerator.split_batches,
        }
        super().__init__(store, run, given, facts={"accelerator": facts}, **options)


class _State:
    """What an Accelerator itself keeps: the phase of an accumulation, and what was registered with it."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator

    def state_dict(self) -> dict[str, Any]:
        registered = list(self._accelerator._custom_objects)
        return {"step": self._accelerator.step, "registered": _stateful.take_bare(registered)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        registered = list(self._accelerator._custom_objects)
        _stateful.put(registered, state["registered"], name="registered")
        self._accelerator.step = state["step"]
