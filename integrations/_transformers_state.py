"""What a checkpoint holds of a transformers Trainer beside model, optimizer and scheduler; without times and paths."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ckpt_tracker.integrations import _stateful
from ckpt_tracker.integrations import _transformers_trainer as inner

# of the process, of the machine, or kept in a section of its own
_LEFT_OUT = {
    *("best_model_checkpoint", "is_local_process_zero", "is_world_process_zero"),
    *("is_hyper_param_search", "trial_name", "trial_params", "stateful_callbacks", "log_history"),
}
_MEASURED = re.compile(r"_(runtime|per_second|preparation_time|compilation_time)$|_mem_[cg]pu")
_SECRET = re.compile(r"token|secret|password|api_key", re.IGNORECASE)


def large(trainer: Any) -> dict[str, Any]:
    """The sections with the model and what steps it. Still the objects' own memory."""
    state = {
        "model": _stateful.take(trainer.model),
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": trainer.lr_scheduler.state_dict(),
    }
    scaler = inner.scaler(trainer)
    return state if scaler is None else {**state, "scaler": scaler.state_dict()}


def of_trainer(trainer: Any) -> dict[str, Any]:
    """The TrainerState."""
    fields = (each.name for each in dataclasses.fields(trainer.state))
    state = {name: _plain(getattr(trainer.state, name)) for name in fields if name not in _LEFT_OUT}
    state["total_flos"] += inner.floating_point_operations(trainer)
    state["log_history"] = [_plain(lasting(each)) for each in trainer.state.log_history if not is_summary(each)]
    return state


def is_summary(logs: Mapping[str, Any]) -> bool:
    """The log that ends a training: its figures are those of the process."""
    return "train_runtime" in logs and "train_loss" in logs


def lasting(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Logs or metrics without how long it took and how much memory."""
    return {name: value for name, value in logs.items() if not _MEASURED.search(name)}


def of_callbacks(callbacks: Iterable[Any]) -> dict[str, list[Any]]:
    """The states of those that export theirs, by class."""
    found: dict[str, list[Any]] = {}
    for each in _exporting(callbacks):
        found.setdefault(type(each).__name__, []).append(each.state())
    return found


def put_callbacks(callbacks: Iterable[Any], saved: Mapping[str, list[Any]]) -> None:
    """Puts back what changes in the course of a training; what a callback was made with stays as the script says."""
    waiting = {name: list(states) for name, states in saved.items()}
    for each in _exporting(callbacks):
        states = waiting.get(type(each).__name__)
        if states:
            for name, value in states.pop(0).get("attributes", {}).items():
                setattr(each, name, value)


def of_loader(loader: Any) -> dict[str, Any]:
    """What the order of its samples comes from, beside the process' random states."""
    seed = getattr(_sampler(loader), "initial_seed", None)
    return {"seed": seed, "generators": [each.get_state() for each in _generators(loader)]}


def put_loader(loader: Any, saved: Mapping[str, Any]) -> None:
    """Puts it back, so that another seed of the process does not change the order."""
    sampler = _sampler(loader)
    if saved["seed"] is not None and hasattr(sampler, "initial_seed"):
        sampler.initial_seed = saved["seed"]
    for generator, state in zip(_generators(loader), saved["generators"], strict=False):
        generator.set_state(state)


def best_folder(trainer: Any) -> str | None:
    """Where the Trainer itself has written its best model, if it has."""
    step = getattr(trainer.state, "best_global_step", None)
    folder = os.path.join(trainer.args.output_dir, f"checkpoint-{step}")
    return folder if os.path.isdir(folder) else None


def config(args: Any) -> dict[str, Any]:
    """The TrainingArguments as hyperparameters, without secrets."""
    found = args.to_dict()
    return {name: value for name, value in found.items() if value is not None and not _SECRET.search(name)}


def _exporting(callbacks: Iterable[Any]) -> list[Any]:
    from transformers.trainer_callback import ExportableState

    return [each for each in callbacks if isinstance(each, ExportableState)]


def _sampler(loader: Any) -> Any:
    sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    # a BatchSamplerShard holds the batch sampler of which it takes this process' part
    inside = getattr(getattr(getattr(loader, "batch_sampler", None), "batch_sampler", None), "sampler", None)
    return inside or sampler


def _generators(loader: Any) -> list[Any]:
    """Those that go on from epoch to epoch; with a seed they begin anew in each."""
    if hasattr(_sampler(loader), "initial_seed"):
        return []
    found = [getattr(loader, "generator", None), getattr(_sampler(loader), "generator", None)]
    return list({id(each): each for each in found if hasattr(each, "set_state")}.values())


def _plain(value: Any) -> Any:
    """As JSON has it, because a restart reads it from JSON: numbers of NumPy and torch as Python's."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    if hasattr(value, "item") and getattr(value, "size", None) is not None:
        return value.item() if _is_single(value) else value.tolist()
    return str(value) if isinstance(value, (str, os.PathLike)) else None


def _is_single(value: Any) -> bool:
    return bool((value.numel() if hasattr(value, "numel") else value.size) == 1)
