"""What a checkpoint holds of a transformers Trainer beside model, optimizer and scheduler; without times and paths."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ckpt_tracker.integrations._shared import stateful as _stateful
from ckpt_tracker.integrations._transformers import trainer as inner

# of the process, of the machine, or kept in a section of its own
_LEFT_OUT = {
    *("best_model_checkpoint", "is_local_process_zero", "is_world_process_zero"),
    *("is_hyper_param_search", "trial_name", "trial_params", "stateful_callbacks", "log_history"),
}
_MEASURED = re.compile(r"_(runtime|per_second|preparation_time|compilation_time)$|_mem_[cg]pu")
_SECRET = re.compile(r"(^|_)(token|secret|password|(api|access)_?key)$", re.IGNORECASE)
# where a training writes to, and how it is shown; what a restart often sets anew
_NO_HYPERPARAMETERS = {
    *("output_dir", "logging_dir", "run_name", "local_rank", "resume_from_checkpoint"),
    *("disable_tqdm", "log_level", "log_level_replica"),
}


def large(trainer: Any) -> dict[str, Any]:
    """The sections with the model and what steps it. Still the objects' own memory."""
    state = {
        "model": _stateful.take(trainer.model),
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": trainer.lr_scheduler.state_dict(),
    }
    scaler = inner.scaler(trainer)
    return state if scaler is None else {**state, "scaler": scaler.state_dict()}


def put_model(trainer: Any, saved: Mapping[str, Any]) -> None:
    """Puts the model's section of `large` back. Its names and shapes are checked by now."""
    _stateful.bare(trainer.model).load_state_dict(saved)


def put_optimizer(trainer: Any, saved: Mapping[str, Any]) -> None:
    """Puts optimizer and scheduler of `large` back. Raises StateMismatch."""
    _stateful.put(inner.optimizer(trainer), saved["optimizer"], name="optimizer")
    _stateful.put(trainer.lr_scheduler, saved["scheduler"], name="scheduler")


def of_trainer(trainer: Any, *, operations: float) -> dict[str, Any]:
    """The TrainerState, with the floating point operations that the Trainer has yet to add to it."""
    fields = (each.name for each in dataclasses.fields(trainer.state))
    state = {name: plain(getattr(trainer.state, name)) for name in fields if name not in _LEFT_OUT}
    state["total_flos"] += operations
    state["log_history"] = [plain(lasting(each)) for each in trainer.state.log_history if not is_summary(each)]
    return state


def is_summary(logs: Mapping[str, Any]) -> bool:
    """The log that ends a training: its figures are those of the process."""
    return "train_runtime" in logs and "train_loss" in logs


def lasting(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Logs or metrics without how long it took and how much memory."""
    return {name: value for name, value in logs.items() if not _MEASURED.search(name)}


def has_evaluated(trainer: Any) -> bool:
    """The training, as far as it is done, was evaluated."""
    return any(name.startswith("eval_") for logs in trainer.state.log_history for name in logs)


def of_callbacks(callbacks: Iterable[Any]) -> dict[str, list[Any]]:
    """The states of those that export theirs, by class."""
    found: dict[str, list[Any]] = {}
    for each in _exporting(callbacks):
        found.setdefault(type(each).__name__, []).append(each.state())
    return found


def name_callbacks(trainer: Any) -> None:
    """Lets a Trainer that saves know those that were not there when the checkpoint was taken."""
    for each in _exporting(trainer.callback_handler.callbacks):
        trainer.state.stateful_callbacks.setdefault(type(each).__name__, each.state())


def put_callbacks(callbacks: Iterable[Any], saved: Mapping[str, list[Any]]) -> None:
    """Puts back what changes in the course of a training; what a callback was made with stays as the script says."""
    waiting = {name: list(states) for name, states in saved.items()}
    for each in _exporting(callbacks):
        states = waiting.get(type(each).__name__)
        if states:
            for name, value in states.pop(0).get("attributes", {}).items():
                setattr(each, name, value)


def best_folder(trainer: Any) -> str | None:
    """Where the Trainer itself has written its best model, if it has."""
    step = getattr(trainer.state, "best_global_step", None)
    folder = os.path.join(trainer.args.output_dir, f"checkpoint-{step}")
    return folder if os.path.isdir(folder) else None


def config(args: Any) -> dict[str, Any]:
    """The TrainingArguments as hyperparameters, without secrets."""
    return {name: value for name, value in _public(args.to_dict()).items() if name not in _NO_HYPERPARAMETERS}


def _public(values: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in values.items() if value is not None and not _SECRET.search(str(name))}
    return {name: _public(value) if isinstance(value, Mapping) else value for name, value in kept.items()}


def _exporting(callbacks: Iterable[Any]) -> list[Any]:
    from transformers.trainer_callback import ExportableState

    return [each for each in callbacks if isinstance(each, ExportableState)]


def plain(value: Any) -> Any:
    """As JSON has it, because a restart reads it from JSON: numbers of NumPy and torch as Python's."""
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    if hasattr(value, "item") and getattr(value, "size", None) is not None:
        return value.item() if _is_single(value) else value.tolist()
    return str(value) if isinstance(value, (str, os.PathLike)) else None


def _is_single(value: Any) -> bool:
    return bool((value.numel() if hasattr(value, "numel") else value.size) == 1)
