"""State of the other callbacks of a fit. Keras' own and the user's keep it in plain attributes.

Of Keras' callbacks the attributes that are state are listed here: the rest is arguments, open files and paths.
Of anybody else's, every attribute is state that has changed since training began, or that holds variables.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ckpt_tracker.errors import CheckpointWarning, UnstorableLeaf
from ckpt_tracker.integrations._keras.values import Changes, NoState, holds_variables, pack, unpack
from ckpt_tracker.state.tree import encode

_BATCHES = ("_batches_seen_since_last_saving", "_last_batch_seen")
_KERAS_STATE: dict[str, tuple[str, ...]] = {
    "EarlyStopping": ("wait", "best", "best_epoch", "best_weights", "stopped_epoch"),
    "ReduceLROnPlateau": ("wait", "best", "cooldown_counter"),
    "ModelCheckpoint": ("best", *_BATCHES),
    "OrbaxCheckpoint": ("best", "_total_batches_seen", *_BATCHES),
    "History": ("epoch", "history"),
    "SwapEMAWeights": ("_ema_weights_in_model",),
    "TensorBoard": ("_global_train_batch", "_global_test_batch"),
}
# MonitorCallback sets monitor_op at the first epoch's end, and then turns the sign of min_delta as well
_OF_KERAS = frozenset(("params", "_model", "monitor_op", "min_delta"))


class CallbackStates:
    """The callbacks of one fit, without the tracker; made when all of them have begun, and nothing is restored.

    `earlier`: the states of the fit before, where the same tracker saw one.
    """

    def __init__(self, callbacks: Iterable[Any], *, earlier: CallbackStates | None = None) -> None:
        self._callbacks = _named(callbacks)
        self._changes = {
            name: Changes(self._capture_one(name, []), changed=earlier.changed(callback) if earlier else ())
            for name, callback in self._callbacks.items()
        }
        self._warned: set[str] = set()

    def changed(self, callback: Any) -> Collection[str]:
        """The attributes of that callback that training has changed."""
        return next((self._changes[name].changed for name, each in self._callbacks.items() if each is callback), ())

    def capture(self, *, apart_from: Collection[int] = (), inside: bool = False) -> dict[str, dict[str, Any]]:
        """Attributes by callback and name. What can't be stored is left out, and said once.

        `apart_from`: the ids of variables that are stored elsewhere. What is different `inside` an epoch may be as it
        was when it ends, and doesn't count as changed for that.
        """
        left_out: list[str] = []
        states = {}
        for name, callback in self._callbacks.items():
            listed, changes = _listed(callback), self._changes[name]
            state = self._capture_one(name, left_out, apart_from)
            states[name] = {
                each: value
                for each, value in state.items()
                if _always(each, value, listed) or (changes.differs if inside else changes.has)(each, value)
            }
        self._warn([each for each in left_out if each not in self._warned])
        return {name: state for name, state in states.items() if state}

    def all_changed(self) -> dict[str, list[str]]:
        """What counts as changed, by callback."""
        return {name: sorted(changes.changed) for name, changes in self._changes.items() if changes.changed}

    def restore(self, states: Mapping[str, Mapping[str, Any]], *, changed: Mapping[str, Collection[str]]) -> None:
        """Sets the attributes again; after the callbacks' own `on_train_begin`, which resets them.

        Callbacks that the script has no more are passed over. `changed`: what counts as changed since training began.
        """
        lost: list[str] = []
        for name in states.keys() & self._callbacks.keys():
            attributes, listed = vars(self._callbacks[name]), _listed(self._callbacks[name])
            kept = {each for each, value in states[name].items() if _always(each, value, listed)}
            self._changes[name].changed.update(set(changed.get(name, ())) - kept)
            for attribute, stored in states[name].items():
                try:
                    attributes[attribute] = unpack(stored, attributes.get(attribute))
                except LookupError:
                    lost.append(f"{name}.{attribute}")
        if lost:
            warnings.warn(
                f"{', '.join(sorted(lost))} can't take its state back from the checkpoint, and starts "
                "anew: make such objects when the callback is made, and as they were",
                CheckpointWarning,
                stacklevel=2,
            )

    def _warn(self, left_out: Collection[str]) -> None:
        self._warned.update(left_out)
        if left_out:
            warnings.warn(
                f"left out of the checkpoints, because it has no form without pickle: {', '.join(left_out)}. "
                "If training depends on it, keep it in numbers, strings, lists, dicts or arrays",
                CheckpointWarning,
                stacklevel=2,
            )

    def _capture_one(self, name: str, left_out: list[str], apart_from: Collection[int] = ()) -> dict[str, Any]:
        """The storable attributes of one callback, also those that have not changed."""
        state: dict[str, Any] = {}
        attributes = vars(self._callbacks[name])
        for attribute in _attributes(self._callbacks[name]):
            try:
                packed = pack(attributes[attribute], apart_from=apart_from)
                encode(packed)
                state[attribute] = packed
            except NoState:
                continue
            except UnstorableLeaf:
                left_out.append(f"{name}.{attribute}")
        return state


def _named(callbacks: Iterable[Any]) -> dict[str, Any]:
    """`EarlyStopping`, `EarlyStopping#2`, …: names that a restarted script gives the same callbacks again."""
    named: dict[str, Any] = {}
    for callback in callbacks:
        name, number = type(callback).__name__, 1
        while (key := name if number == 1 else f"{name}#{number}") in named:
            number += 1
        named[key] = callback
    return named


def _attributes(callback: Any) -> list[str]:
    listed = _listed(callback)
    if _is_keras(type(callback)):
        return [name for name in listed if name in vars(callback)]
    return [name for name in vars(callback) if name in listed or name not in _OF_KERAS]


def _always(attribute: str, packed: object, listed: Collection[str]) -> bool:
    """Whether it is state in any case, and need not have changed."""
    return attribute in listed or holds_variables(packed)


def _listed(callback: Any) -> list[str]:
    """The attributes that are state by the list above, also of a class that derives from Keras'."""
    bases = (base for base in type(callback).__mro__ if _is_keras(base))
    return [name for base in bases for name in _KERAS_STATE.get(base.__name__, ())]


def _is_keras(cls: type) -> bool:
    return cls.__module__.split(".")[0] == "keras"
