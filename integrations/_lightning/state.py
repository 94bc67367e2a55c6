"""Lightning's checkpoint dict ⇄ the sections of a checkpoint.

What Lightning leaves out of its dict, and an exact resume needs, travels in it under `EXTRA`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ckpt_tracker.checkpoint import Checkpoint
from ckpt_tracker.errors import StateMismatch, UnstorableLeaf
from ckpt_tracker.state.tree import encode

EXTRA = "ckpt_tracker"

_SECTIONS = {
    "model": "state_dict",
    "optimizer": "optimizer_states",
    "scheduler": "lr_schedulers",
    "callbacks": "callbacks",
}
# what every rank has its own of, besides random states
_DATA = ("generators", "counters", "order", "validation")
_GATHERED = ("torchmetrics", "averages")
_MONITORED = "monitored"
_LOOP = ("loops", "epoch", "global_step")
_HYPERPARAMETERS = ("hyper_parameters", "datamodule_hyper_parameters")
_HYPERPARAMETER_NAMES = ("hparams_name", "datamodule_hparams_name")
_TYPES = ("hparams_type", "datamodule_hparams_type")


def to_state(checkpoint: Mapping[str, Any], trainer: Any) -> dict[str, object]:
    """Sorts Lightning's dict into sections. Nothing is copied."""
    rest = dict(checkpoint)
    extra = rest.pop(EXTRA)
    # classes, which only `load_from_checkpoint` looks at, and finds by itself
    _take(rest, _TYPES)
    state: dict[str, Any] = {to: rest.pop(key) for to, key in _SECTIONS.items() if key in rest}
    ranks = extra["ranks"]
    state["loop"] = {**_take(rest, _LOOP), **extra["loop"], _MONITORED: [each[_MONITORED] for each in ranks]}
    state["rng"] = [each["rng"] for each in ranks]
    state["data"] = {
        "ranks": [{key: each[key] for key in _DATA} for each in ranks],
        "datamodule": _take(rest, [_name(trainer.datamodule)]),
    }
    gathered = [{key: each[key] for key in _GATHERED} for each in ranks]
    waiting = [each["gradients"] for each in ranks]
    optional = {
        "scaler": _take(rest, [_name(trainer.precision_plugin)]),
        "torchmetrics": gathered if any(each[key] for each in gathered for key in _GATHERED) else [],
        "gradients": waiting if any(waiting) else [],
        "hyperparameters": _take(rest, [*_HYPERPARAMETERS, *_HYPERPARAMETER_NAMES]),
        "ranks": [each["own"] for each in ranks] if any(each["own"] for each in ranks) else [],
        "lightning": rest,
    }
    return {**state, **{section: value for section, value in optional.items() if value}}


def to_checkpoint(state: Mapping[str, Any], *, ref: str) -> dict[str, Any]:
    """Lightning's dict again, from the sections that `to_state` made. Raises StateMismatch for others."""
    rest = dict(state)
    try:
        checkpoint = {key: rest.pop(section) for section, key in _SECTIONS.items() if section in rest}
        loop, data = dict(rest.pop("loop")), dict(rest.pop("data"))
        checkpoint.update({key: loop.pop(key) for key in _LOOP}, **data.pop("datamodule"))
        nothing: list[Any] = [{key: {} for key in _GATHERED}] * len(data["ranks"])
        parts = zip(
            rest.pop("rng"),
            data["ranks"],
            rest.pop("torchmetrics", nothing),
            rest.pop("gradients", [{}] * len(data["ranks"])),
            loop.pop(_MONITORED),
            rest.pop("ranks", [[]] * len(data["ranks"])),
            strict=True,
        )
        ranks = [
            {"rng": rng, **order, **gathered, "gradients": gradients, _MONITORED: monitored, "own": own}
            for rng, order, gathered, gradients, monitored, own in parts
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise _foreign(ref, state) from error
    for merged in rest.values():
        checkpoint.update(merged)
    return {**checkpoint, EXTRA: {"loop": loop, "ranks": ranks}}


def comparable(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What one rank may have otherwise than another: not what the script itself says."""
    script = (EXTRA, *_HYPERPARAMETERS, *_HYPERPARAMETER_NAMES, *_TYPES)
    return {key: value for key, value in checkpoint.items() if key not in script}


def put_model(module: Any, checkpoint: Mapping[str, Any], own: Iterable[tuple[list[Any], Any]]) -> None:
    """Puts in the tensors that a rank had of its own: DistributedDataParallel has set them to the first rank's."""
    # with averaged weights, the model's own are under another name
    section = "current_model_state" if "current_model_state" in checkpoint else _SECTIONS["model"]
    values = {path[1]: value for path, value in own if len(path) == 2 and path[0] == section}
    if values:
        module.load_state_dict(values, strict=False)


def loop_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The loop section. Raises StateMismatch for a checkpoint that another tracker saved."""
    loop = checkpoint.load("loop") if "loop" in checkpoint.sections else None
    if not isinstance(loop, dict) or "loops" not in loop:
        raise _foreign(checkpoint.ref, checkpoint.sections)
    return loop


def drop_unstorable_hyperparameters(checkpoint: dict[str, Any]) -> list[str]:
    """Takes out what has no form without pickle, and says what it was: a resumed training has them from its script."""
    refused = []
    for key in _HYPERPARAMETERS:
        for name, value in list(checkpoint.get(key, {}).items()):
            try:
                encode({name: value})
            except UnstorableLeaf as error:
                checkpoint[key] = {k: v for k, v in checkpoint[key].items() if k != name}
                refused.append(str(error))
    return refused


def stopped_early(trainer: Any) -> bool:
    """Some EarlyStopping has said that it is enough. Lightning forgets, and would train another epoch."""
    return trainer.should_stop and any(
        getattr(each, "stopped_epoch", 0) or getattr(each, "wait_count", -1) >= getattr(each, "patience", 0)
        for each in trainer.callbacks
    )


def modes(module: Any) -> dict[str, list[str]]:
    """What is frozen, or in evaluation mode: callbacks such as BackboneFinetuning change it, and don't restore it."""
    modules = dict(module.named_modules())
    return {
        "frozen": [name for name, each in module.named_parameters() if not each.requires_grad],
        "evaluating": [name for name, each in modules.items() if not each.training],
        "untracked": [name for name, each in modules.items() if _tracks(each) is False],
    }


def restore_modes(module: Any, saved: Mapping[str, list[str]]) -> None:
    """The reverse of `modes`."""
    frozen, evaluating, untracked = (set(saved[key]) for key in ("frozen", "evaluating", "untracked"))
    for name, parameter in module.named_parameters():
        if parameter.requires_grad == (name in frozen):
            parameter.requires_grad_(name not in frozen)
    for name, each in module.named_modules():
        each.training = name not in evaluating
        if _tracks(each) == (name in untracked):
            each.track_running_stats = name not in untracked


def prepare_loops(loops: dict[str, Any]) -> None:
    """Takes out the states of loaders, which Lightning would restore a batch too late, or not at all."""
    loops["fit_loop"]["state_dict"].pop("combined_loader", None)


def at_epoch_end(loops: dict[str, Any]) -> None:
    """Turns the loops' counters back to the end of the epoch that is over.

    Lightning itself saves there, between `processed` and `completed`, and resumes best from there; by the time the
    plateau schedulers have been stepped, it has gone on counting.
    """
    progress = loops["fit_loop"]["epoch_progress"]
    for counters in (progress["total"], progress["current"]):
        done = counters["processed"]
        counters.update(ready=done, started=done, completed=done - 1)


def _foreign(ref: str, sections: Iterable[str]) -> StateMismatch:
    return StateMismatch(
        f"{ref} was not saved by the Lightning tracker: it has the sections {', '.join(sections)}. "
        "Give this training another run name; what you need of it, checkpoint.load('model') loads"
    )


def _take(source: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: source.pop(key) for key in keys if key in source}


def _name(owner: object) -> str:
    return type(owner).__qualname__


def _tracks(module: Any) -> bool | None:
    """A BatchNorm keeps running statistics; None for modules that have none."""
    return getattr(module, "track_running_stats", None)
