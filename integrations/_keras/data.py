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
from ckpt_tracker.integrations._keras.passes import Passes
from ckpt_tracker.integrations._keras.pipeline import is_tf_dataset
from ckpt_tracker.integrations._keras.pydataset import Attributes, carriers

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
_PARALLEL = (
    "a step of the tf.data pipeline draws random numbers in several calls at a time, in an order that hangs on chance, "
    "so no two trainings are equal: leave num_parallel_calls out of that step, or draw with tf.random.stateless_*"
)
_THREADS = (
    "TensorFlow loads the data in threads of its own, in each of which keras.random begins with a seed by chance: pass "
    "it seed=keras.random.SeedGenerator(...), and let the data set hold that"
)
_WORKERS = (
    "workers load the data, and each batch draws from a random generator ({}) in an order that hangs on chance, so no "
    "two trainings are equal: draw in on_epoch_end, or from a generator made of the epoch and the index, or use "
    "workers=1 without multiprocessing"
)
# of those that Keras knows, a generator and a pipeline of grain can't be begun again
_REPEATABLE = {"ArrayDataAdapter", "PyDatasetAdapter", "TorchDataLoaderAdapter", "TFDatasetAdapter"}


class DataState:
    """The data of one fit; `arguments` are those that fit was called with, and its `epoch_iterator`."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._arguments = arguments
        self._sources: dict[str, Attributes | Passes | _Arrays] = {}
        for name, argument in (("train", "x"), ("validation", "validation_data")):
            order = arguments.get("epoch_iterator") if self._shuffled and name == "train" else None
            source = _source(arguments.get(argument), order)
            if source is not None:
                self._sources[name] = source
        self.iterator: Any = arguments.get("epoch_iterator")
        """What Keras takes its batches from; None outside of its own `fit`."""
        self.drawn_ahead: frozenset[str] = frozenset()
        """Random states that loading a batch moves while an earlier one is trained on."""
        self._count("train", self.iterator)
        self._look_at_draws()
        self._clear_queue()

    @property
    def repeatable(self) -> bool:
        """An epoch that begins as another one began has the same batches."""
        kind = type(getattr(self.iterator, "data_adapter", None)).__name__
        return kind in _REPEATABLE and self._arguments.get("steps_per_epoch") is None

    def facts(self) -> dict[str, Any]:
        """What an epoch depends on, in plain values."""
        adapter, data = getattr(self.iterator, "data_adapter", None), self._arguments.get("x")
        if adapter is None:
            return {}
        return {
            "type": type(data).__name__,
            "length": _length(data),
            "batches": _whole(adapter.num_batches),
            "batch_size": _whole(adapter.batch_size),
            "shuffle": self._shuffled,
            "steps_per_epoch": self._arguments.get("steps_per_epoch"),
            "steps_per_execution": self.iterator.steps_per_execution,
            "workers": getattr(data, "workers", None),
        }

    def begin_validation(self, epoch_iterator: Any) -> None:
        """Validation is about to go through its data."""
        self._count("validation", epoch_iterator)

    def capture(self, *, complete: bool = False) -> dict[str, Any]:
        """The state of the data by `train` and `validation`, where there is any.

        `complete`: also of what has not changed since training began.
        """
        states = {name: source.capture(complete=complete) for name, source in self._sources.items()}
        return {name: state for name, state in states.items() if state}

    def restore(self, states: Mapping[str, Any], *, complete: bool = False) -> None:
        """Puts the data back, as far as those of this fit are of that kind."""
        for name, source in self._sources.items():
            if name in states and source.restore(states[name], complete=complete) is False:
                warnings.warn(_OTHERWISE, CheckpointWarning, stacklevel=2)

    def limits(self) -> list[str]:
        """Why a continued training may see its samples in another order, and what to do: one sentence each."""
        source = self._sources.get("train")
        found = []
        if self._arguments.get("steps_per_epoch") is not None:
            found.append(_STEPS)
        if isinstance(self._arguments.get("x"), types.GeneratorType):
            found.append(_GENERATOR)
        if isinstance(source, Passes) and (source.seeds is None or not source.counted):
            found.append(_HIDDEN)
        elif isinstance(source, (Passes, _Arrays)) and not source.seeded:
            found.append(_UNSEEDED)
        if isinstance(source, Passes) and source.in_parallel:
            found.append(_PARALLEL)
        if "keras" in self.drawn_ahead:
            found.append(_THREADS)
        if self._drawn_by_workers:
            found.append(_WORKERS.format(", ".join(sorted(self._drawn_by_workers))))
        return found

    @property
    def _shuffled(self) -> bool:
        return bool(self._arguments.get("shuffle"))

    def _look_at_draws(self) -> None:
        source, data = self._sources.get("train"), self._arguments.get("x")
        forked = getattr(data, "use_multiprocessing", False)
        several = forked or getattr(data, "workers", 1) > 1
        self._drawn_by_workers: frozenset[str] = frozenset()
        if isinstance(source, Attributes) and (several or keras.backend.backend() == "tensorflow"):
            drawn = source.draws()
            self._drawn_by_workers = drawn if several else frozenset()
            self.drawn_ahead = frozenset() if forked else drawn

    def _clear_queue(self) -> None:
        """What workers loaded to build the model by is left over; each epoch would hand out some of the one before."""
        queue = getattr(getattr(getattr(self.iterator, "data_adapter", None), "enqueuer", None), "ready_queue", None)
        while queue is not None and not queue.empty():
            queue.get_nowait()

    def _count(self, name: str, epoch_iterator: Any) -> None:
        source = self._sources.get(name)
        if isinstance(source, Passes):
            source.count_in(epoch_iterator)


class _Arrays:
    """Arrays that TensorFlow shuffles: the same way in each epoch, given the seed."""

    def __init__(self, epoch_iterator: Any) -> None:
        self._iterator = epoch_iterator

    def capture(self, *, complete: bool = False) -> dict[str, Any]:
        return {"seed": self._seed()}

    def restore(self, state: Mapping[str, Any], *, complete: bool = False) -> bool:
        """Makes the order anew where the script has another seed. False where the order has none, or is hidden."""
        if self._seed() == state["seed"]:
            return True
        strategy = getattr(self._iterator, "_distribute_strategy", None)
        if state["seed"] is None or strategy is None:
            return False
        sys.modules["tensorflow"].random.set_seed(state["seed"])
        pipeline = self._iterator.data_adapter.get_tf_dataset()
        self._iterator._distributed_dataset = strategy.experimental_distribute_dataset(pipeline)
        return True

    @property
    def seeded(self) -> bool:
        """There is an order that can be had again."""
        return self._seed() is not None

    def _seed(self) -> Any:
        context = getattr(sys.modules.get("tensorflow.python.eager.context"), "context", None)
        return getattr(context(), "_seed", None) if context else None


def _length(data: Any) -> int | None:
    """Samples, where they can be counted."""
    if isinstance(data, keras.utils.PyDataset) or is_tf_dataset(data):
        return None
    first: Any = next(iter(keras.tree.flatten(getattr(data, "dataset", data))), None)
    return len(first) if hasattr(first, "__len__") else None


def _whole(count: Any) -> int | None:
    return None if count is None else int(count)


def _source(data: Any, order: Any) -> Attributes | Passes | _Arrays | None:
    """`order`: the iterator that shuffles the data, where Keras is to do that."""
    if is_tf_dataset(data):
        return Passes(data)
    if carriers(data):
        return Attributes(data)
    if order is not None and keras.backend.backend() == "tensorflow" and not isinstance(data, types.GeneratorType):
        return _Arrays(order)
    return None
