"""What is no state of a Keras training, but makes a resume right or wrong; and what is to change on purpose."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from ckpt_tracker import guard
from ckpt_tracker.checkpoint import Checkpoint
from ckpt_tracker.errors import InvalidOption
from ckpt_tracker.integrations._keras.data import DataState
from ckpt_tracker.integrations._keras.values import quietly

_log = logging.getLogger("ckpt_tracker")
_CLIPS = ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm")


def config(model: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """What Keras knows of the hyperparameters."""
    optimizer = getattr(model, "optimizer", None)
    known = None
    if isinstance(optimizer, keras.optimizers.Optimizer):
        with quietly():
            known = optimizer.get_config()
    return {
        "backend": keras.backend.backend(),
        "epochs": params.get("epochs"),
        "steps": params.get("steps"),
        "optimizer": known,
    }


def context(model: Any, data: DataState) -> dict[str, Any]:
    """The facts that a checkpoint is saved with."""
    policy, strategy = getattr(model, "dtype_policy", None), getattr(model, "distribute_strategy", None)
    return {
        "world_size": getattr(strategy, "num_replicas_in_sync", 1),
        "backend": keras.backend.backend(),
        "dtype_policy": getattr(policy, "name", None),
        "data": data.facts(),
    }


def check(checkpoint: Checkpoint, now: Mapping[str, Any], *, inside: bool) -> None:
    """Shows what has changed since then. Raises StateMismatch where that makes the rest of an epoch another one."""
    if not checkpoint.context:
        return
    found = guard.changes(checkpoint.context, now)
    if inside:
        elsewhere = "never" if checkpoint.epoch is None else f"{checkpoint.run}@epoch:{checkpoint.epoch}"
        remedy = (
            "an epoch that was begun ends with the same data and the same backend: put them back, "
            f"or begin that epoch again with resume={elsewhere!r}"
        )
        guard.refuse(guard.among(found, "world_size", "backend", "data"), ref=checkpoint.ref, remedy=remedy)
    # the backend is part of the config, and shown with that
    guard.show([change for change in found if change.name != "backend"], ref=checkpoint.ref)
    if guard.among(found, "backend"):
        _log.warning("%s: weights, optimizer and callbacks go on; another backend draws other numbers", checkpoint.ref)


def override(optimizers: Iterable[Any], overrides: Mapping[str, Any]) -> None:
    """Sets `overrides` in the optimizers. Raises InvalidOption for what none of them has, or can't be set."""
    settable = [(optimizer, _settable(optimizer)) for optimizer in optimizers]
    for given, value in overrides.items():
        name = "learning_rate" if given == "lr" else given
        having = [optimizer for optimizer, names in settable if name in names]
        if not having:
            there_are = sorted({each for _, names in settable for each in names})
            raise InvalidOption(f"overrides={{{given!r}: ...}}: the optimizer has {', '.join(there_are) or 'none'}")
        for optimizer in having:
            _set(optimizer, name, value, given)


def _settable(optimizer: Any) -> list[str]:
    """The numbers that an optimizer looks at in each step, without those that its variables depend on."""
    with quietly():
        known = optimizer.get_config()
    return ["learning_rate"] + [
        name for name, value in known.items() if hasattr(optimizer, name) and (name in _CLIPS or type(value) is float)
    ]


def _set(optimizer: Any, name: str, value: Any, given: str) -> None:
    rate = getattr(optimizer, "_learning_rate", None)
    if name == "learning_rate" and callable(rate) and not isinstance(rate, keras.Variable):
        raise InvalidOption(
            f"overrides={{{given!r}: {value!r}}}: the learning rate comes from a schedule ({type(rate).__name__}), "
            "which is the script's and no state: change it there, and leave the override out"
        )
    setattr(optimizer, name, value)
