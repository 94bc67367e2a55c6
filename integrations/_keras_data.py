"""What of a fit's data goes into a checkpoint, and what cannot.

Arrays are shuffled by NumPy (JAX) or torch, whose random states are kept, and by TensorFlow in an order that follows
from its seed. What else says where the data stand is kept here. What hides it is named once, with the remedy.
"""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Mapping
from typing import Any

import keras

from ckpt_tracker.errors import CheckpointWarning
from ckpt_tracker.integrations._keras_passes import Passes, is_tf_dataset
from ckpt_tracker.integrations._keras_pydataset import Attributes, carriers

_SEED = "call keras.utils.set_random_seed(...), with the same number each time, where the script begins"
_UNSEEDED = f"TensorFlow shuffles without a seed, in an order that can't be had again: {_SEED}"
_OTHERWISE = (
    "the data are not shuffled as they were when the checkpoint was made, because the seed is another one, or the "
    f"same tf.data.Dataset was used before: {_SEED}, and make the data set anew"
)
_HIDDEN = (
    "this version of Keras or TensorFlow hides how tf.data shuffles, so a continued training may see its "
    "samples in another order: use a keras.utils.PyDataset"
)
_GENERATOR = (
    "a Python generator can't be put back to where it was, so a continued training starts it anew: "
    "use a keras.utils.PyDataset"
)
_STEPS = (
    "with steps_per_epoch, an epoch may end anywhere in the data, and a continued training starts "
    "them anew: leave it out, so that an epoch is one pass"
)


class DataState:
    """The data of one fit; `arguments` are those that fit was called with, and its `epoch_iterator`."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._arguments = arguments
        self._sources: dict[str, Attributes | Passes | _Arrays] = {}
        for name, argument in (("train", "x"), ("validation", "validation_data")):
            source = _source(arguments.get(argument), shuffled=self._shuffled and name == "train")
            if source is not None:
                self._sources[name] = source
        self._count("train", arguments.get("epoch_iterator"))

    def begin_validation(self, epoch_iterator: Any) -> None:
        """Validation is about to go through its data."""
        self._count("validation", epoch_iterator)

    def capture(self) -> dict[str, Any]:
        """The state of the data by `train` and `validation`, where there is any."""
        states = {name: source.capture() for name, source in self._sources.items()}
        return {name: state for name, state in states.items() if state}

    def restore(self, states: Mapping[str, Any]) -> None:
        """Puts the data back, as far as those of this fit are of that kind."""
        for name, source in self._sources.items():
            if name in states and source.restore(states[name]) is False:
                warnings.warn(_OTHERWISE, CheckpointWarning, stacklevel=2)

    def limits(self) -> list[str]:
        """Why a continued training may see its samples in another order, and what to do: one sentence each."""
        source = self._sources.get("train")
        found = []
        if self._arguments.get("steps_per_epoch") is not None:
            found.append(_STEPS)
        if isinstance(self._arguments.get("x"), types.GeneratorType):
            found.append(_GENERATOR)
        if isinstance(source, Passes) and (source.seeds() is None or not source.counted):
            found.append(_HIDDEN)
        elif isinstance(source, (Passes, _Arrays)) and not source.seeded():
            found.append(_UNSEEDED)
        return found

    @property
    def _shuffled(self) -> bool:
        return bool(self._arguments.get("shuffle"))

    def _count(self, name: str, epoch_iterator: Any) -> None:
        source = self._sources.get(name)
        if isinstance(source, Passes):
            source.count_in(epoch_iterator)


class _Arrays:
    """Arrays that TensorFlow shuffles: the same way in each epoch, given the seed."""

    def capture(self) -> dict[str, Any]:
        return {"seed": self._seed()}

    def restore(self, state: Mapping[str, Any]) -> bool:
        return bool(self._seed() == state["seed"])

    def seeded(self) -> bool:
        return self._seed() is not None

    def _seed(self) -> Any:
        context = getattr(sys.modules.get("tensorflow.python.eager.context"), "context", None)
        return getattr(context(), "_seed", None) if context else None


def _source(data: Any, *, shuffled: bool) -> Attributes | Passes | _Arrays | None:
    if is_tf_dataset(data):
        return Passes(data)
    if carriers(data):
        return Attributes(data)
    if shuffled and keras.backend.backend() == "tensorflow" and not isinstance(data, types.GeneratorType):
        return _Arrays()
    return None
