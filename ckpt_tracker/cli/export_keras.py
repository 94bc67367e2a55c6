"""Exports of Keras models: a `.keras` file that `keras.models.load_model` reads.

The tracker for Keras keeps a model's architecture as JSON and its variables by path; here they become a model again.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ckpt_tracker.cli.export_state import Source, StoredTensor
from ckpt_tracker.errors import MissingExtra, StateMismatch
from ckpt_tracker.state.tensors import kind_named

_BACKENDS = {"tensorflow": "tensorflow", "torch": "torch", "jax": "jax"}


def writer() -> Callable[[Source, Path], None]:
    """The function that writes. Raises MissingExtra where Keras isn't installed."""
    if importlib.util.find_spec("keras") is None:
        raise MissingExtra(
            'a .keras file is written by Keras, which is not installed: pip install "ckpt-tracker[keras]"'
        )
    return write


def write(source: Source, file: Path) -> None:
    """Rebuilds the model and lets Keras save it.

    Raises StateMismatch where there is no Keras model, or one that only its own code can make.
    """
    ref = source.checkpoint.ref
    architecture = source.section_tree("architecture")
    if not isinstance(architecture, Mapping) or "json" not in architecture:
        raise StateMismatch(f"{ref} holds no Keras model: export it as .safetensors, .npz or .pt")
    if architecture["json"] is None:
        raise StateMismatch(
            f"{ref} holds a Keras model that only its own code can make (a lambda, or no get_config): "
            "export the weights as .npz"
        )
    _choose_backend(source)
    arrays = _arrays(source)
    model = _rebuilt(architecture, arrays, ref=ref)
    model.save(file)


def _choose_backend(source: Source) -> None:
    """The training's own backend, unless the user names one: Keras reads this once, when it is imported."""
    config = source.store.run_record(source.checkpoint.run).config
    candidates = [str(config.get("backend")), *_BACKENDS]
    for name in candidates:
        if name in _BACKENDS and importlib.util.find_spec(_BACKENDS[name]) is not None:
            os.environ.setdefault("KERAS_BACKEND", name)
            return


def _arrays(source: Source) -> dict[str, Any]:
    stored: Mapping[str, StoredTensor] = source.tree()
    source.expect(stored.values())
    return {path: kind_named("numpy").build(each.spec, source.read(each)) for path, each in stored.items()}


def _rebuilt(architecture: Mapping[str, Any], arrays: Mapping[str, Any], *, ref: str) -> Any:
    import keras

    from ckpt_tracker.integrations._keras.state import ModelState

    try:
        model = keras.models.model_from_json(architecture["json"])
    except (TypeError, ValueError, ImportError) as error:
        first = str(error).strip().splitlines()[0]
        raise StateMismatch(
            f"the Keras model of {ref} can't be made without its own code ({first}): export the weights as .npz"
        ) from error
    state = {"model": arrays, "optimizer": None, "architecture": architecture}
    ModelState(model).restore(state, ref=ref)
    return model
