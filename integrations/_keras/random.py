"""Random states of a Keras training: Python's, NumPy's, torch's, Keras' own and TensorFlow's.

Seed generators that belong to layers are variables of the model. Here is what belongs to nobody: the generator
that `keras.random` falls back on, and TensorFlow's eager and global generators. Neither has a public door.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from ckpt_tracker.errors import MissingExtra
from ckpt_tracker.integrations._keras.pipeline import seeded_draws
from ckpt_tracker.integrations._keras.values import fingerprint
from ckpt_tracker.integrations._shared import random as _random

_GENERATOR = "global_seed_generator"


def capture() -> dict[str, Any]:
    """All random states that the training may have used up to now."""
    state: dict[str, Any] = _random.capture()
    state["keras"] = _capture_keras()
    state["tensorflow"] = _capture_tensorflow()
    return state


def restore(state: dict[str, Any]) -> None:
    """Puts all of them back, but those that the state does not name."""
    _restore_tensorflow(state["tensorflow"])
    if "keras" in state:
        _restore_keras(state["keras"])
    _random.restore({name: each for name, each in state.items() if name not in ("keras", "tensorflow")})


def moved_by(draw: Callable[[], object]) -> frozenset[str]:
    """Which of Python's, NumPy's, torch's and Keras' random states that moves; all of them are put back."""
    torch = sys.modules.get("torch")
    doors: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
        "python": (random.getstate, random.setstate),
        "numpy": (np.random.get_state, np.random.set_state),
        "keras": (_capture_keras, _restore_keras),
        **({} if torch is None else {"torch": (torch.get_rng_state, torch.set_rng_state)}),
    }
    before = {name: get() for name, (get, _) in doors.items()}
    try:
        draw()
        return frozenset(name for name, (get, _) in doors.items() if fingerprint(get()) != fingerprint(before[name]))
    finally:
        for name, (_, put) in doors.items():
            put(before[name])


def limits(model: Any) -> list[str]:
    """What the step that the model has been trained with draws, and whose state can't be had; with the remedy."""
    closure = getattr(getattr(model, "train_function", None), "__closure__", None) or ()
    listings = [getattr(cell.cell_contents, "_list_all_concrete_functions", None) for cell in closure]
    graphs = [each.graph for listing in listings if listing is not None for each in listing()]
    drawing = sorted(seeded_draws(graphs))
    if not drawing:
        return []
    return [
        f"the training step draws from tf.random ({', '.join(drawing)}), whose state can't be restored, so a "
        "continued training draws other numbers: use keras.random, with a SeedGenerator that the model holds"
    ]


def _global_state() -> Any:
    try:
        from keras.src.backend.common import global_state
    except ImportError as error:
        raise MissingExtra(
            f"Keras {keras.__version__} keeps the generator of keras.random in an unknown place, so "
            "that its state can't be saved: use a version of Keras that this ckpt_tracker was tested with"
        ) from error
    return global_state


def _capture_keras() -> Any:
    generator = _global_state().get_global_attribute(_GENERATOR)
    return None if generator is None else np.array(keras.ops.convert_to_numpy(generator.state))


def _restore_keras(state: Any) -> None:
    generator = _global_state().get_global_attribute(_GENERATOR)
    if state is None:
        generator = None
    else:
        # a compiled step holds on to the one that there is
        generator = generator or keras.random.SeedGenerator(0)
        generator.state.assign(state)
    _global_state().set_global_attribute(_GENERATOR, generator)


def _capture_tensorflow() -> dict[str, Any] | None:
    context = _loaded("tensorflow.python.eager.context", "context")
    if context is None:
        return None
    seed = getattr(context(), "_seed", None)
    generator = _loaded("tensorflow.python.ops.stateful_random_ops", "global_generator")
    return {
        "seed": seed,
        "eager": None if seed is None else _random_state(context()._rng.getstate()),
        # asking TensorFlow for it would make one
        "generator": None if generator is None else [generator.algorithm, generator.state.numpy()],
    }


def _restore_tensorflow(state: dict[str, Any] | None) -> None:
    context = _loaded("tensorflow.python.eager.context", "context")
    if state is None or context is None:
        return
    import tensorflow as tf

    if getattr(context(), "_seed", None) != state["seed"]:
        tf.random.set_seed(state["seed"])
    if state["eager"] is not None:
        version, words, gauss = state["eager"]
        context()._rng.setstate((version, tuple(words.tolist()), gauss))
    if state["generator"] is not None:
        algorithm, words = state["generator"]
        tf.random.set_global_generator(tf.random.Generator.from_state(words, algorithm))


def _random_state(state: tuple[int, tuple[int, ...], float | None]) -> list[Any]:
    version, words, gauss = state
    return [version, np.asarray(words, dtype=np.uint32), gauss]


def _loaded(module: str, name: str) -> Any:
    return getattr(sys.modules.get(module), name, None)
