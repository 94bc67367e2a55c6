"""The evidence that a trial leaves beside a checkpoint: what lived in the process then, and what of it was captured.

A state that uninterrupted trainings have alike at some checkpoint, and a restarted one has not, was not brought back.
Nothing here goes into a checkpoint or changes the training; a failure is written down, and the training goes on.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from blake3 import blake3

from ckpt_tracker.disk.jsonfile import dump, dump_sorted, plain
from ckpt_tracker.state.tree import encode, replace_tensors
from ckpt_tracker.trial.objects import Living, survey

if TYPE_CHECKING:
    from ckpt_tracker.state.staging import CapturedState

_SHOWN = 8


def collect(state: CapturedState, file: Path) -> None:
    """Writes the evidence of this moment."""
    try:
        document = _evidence(state)
    except Exception as error:  # whatever it is, the training is not to blame
        document = {"failed": f"{type(error).__name__}: {error}", "objects": [], "variables": {}, "integrations": []}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(dump(plain(document)))


def _evidence(state: CapturedState) -> dict[str, Any]:
    captured = _Captured(state)
    surveyed = survey()
    objects = [found for each in surveyed.objects if (found := _describe(each, captured)) is not None]
    prefix = "ckpt_tracker.integrations."
    integrations = [name.removeprefix(prefix) for name in sys.modules if name.startswith(prefix)]
    return {
        "objects": sorted(objects, key=lambda each: (each["kind"], each["type"], each["holder"], each["state"])),
        "variables": surveyed.variables,
        "integrations": sorted(name for name in integrations if not name.startswith("_")),
    }


class _Captured:
    """What the checkpoint holds, to be recognised by its content."""

    def __init__(self, state: CapturedState) -> None:
        self.hashes = {blake3(memoryview(each)).hexdigest() for each in state.data}
        names = [blake3(memoryview(each)).hexdigest() for each in state.data]
        specs = state.specs
        tree = replace_tensors(state.skeleton, lambda index: _logical(specs[index], names[index]))
        self._trees = {_digest(each) for each in _subtrees(tree)}

    def has(self, tree: Any, hashes: set[str]) -> bool:
        """The checkpoint has that tree somewhere, or each of its tensors."""
        return _digest(tree) in self._trees or (bool(hashes) and hashes <= self.hashes)


def _describe(each: Living, captured: _Captured) -> dict[str, Any] | None:
    """An object as evidence; None for one whose state can't be had."""
    document = {"kind": each.kind, "type": _type(each.value), "holder": each.holder, "captured": True}
    if each.holder.endswith("'s own generator"):
        document.update(type=each.holder, holder="")
    if each.kind == "loader":
        shown = {name: getattr(each.value, name, None) for name in ("num_workers", "persistent_workers")}
        return {**document, "state": "", "shown": shown}
    try:
        state = _state(each)
        tree, hashes, shapes = _taken_apart(state)
    except Exception:  # an object of anybody's: sharded over ranks, half made, closed, …
        return None
    # the average of a loss is no average of weights
    if (each.kind == "average" and not any(shapes)) or (each.kind == "module" and not shapes):
        return None
    known = captured.has(tree, hashes) or (
        isinstance(each.value, random.Random) and _words(each.value) in captured.hashes
    )
    return {**document, "captured": known, "state": _digest(tree), "shown": _shown(each, state)}


def _state(each: Living) -> Any:
    """The object's state, as its tracker would save it."""
    value = each.value
    if each.kind == "generator":
        return _generator_state(value)
    if each.kind == "buffer":
        return {"buffer": value}
    if each.kind == "sampler":
        return {"epoch": vars(value)["epoch"]}
    if hasattr(value, "_parameters"):
        return dict(_tensors(value, ""))
    if isinstance(value, (dict, list)):
        return value
    if hasattr(value, "state_dict"):
        return value.state_dict()
    return {name: part for name, part in vars(value).items() if not hasattr(part, "_parameters") and not callable(part)}


def _generator_state(value: Any) -> Any:
    if isinstance(value, random.Random):
        return value.getstate()
    if hasattr(value, "bit_generator"):
        return value.bit_generator.state
    if hasattr(value, "getstate"):
        return value.getstate()
    if hasattr(value, "get_state"):
        return value.get_state(legacy=False) if isinstance(value, np.random.RandomState) else value.get_state()
    # a variable of Keras or TensorFlow
    return np.asarray(value.state)


def _tensors(module: Any, above: str) -> Iterator[tuple[str, Any]]:
    """Parameters and the buffers that a module saves."""
    passing = module._non_persistent_buffers_set
    for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
        if tensor is not None and name not in passing:
            yield above + name, tensor
    for name, inner in module._modules.items():
        if inner is not None:
            yield from _tensors(inner, f"{above}{name}.")


def _taken_apart(state: Any) -> tuple[Any, set[str], list[tuple[int, ...]]]:
    """The state's tree with hashes for tensors; the hashes; the tensors' shapes."""
    encoded = encode(state)
    names = []
    for leaf in encoded.leaves:
        data = np.empty(leaf.spec.nbytes, dtype=np.uint8)
        leaf.kind.copy_into(leaf.tensor, data)
        names.append(blake3(memoryview(data)).hexdigest())
    specs = [leaf.spec for leaf in encoded.leaves]
    tree = replace_tensors(encoded.skeleton, lambda index: _logical(specs[index], names[index]))
    return tree, {*names}, [spec.shape for spec in specs]


def _logical(spec: Any, name: str) -> Any:
    return {"$tensor": [spec.dtype, list(spec.shape), name]}


def _digest(tree: Any) -> str:
    return blake3(dump_sorted(tree)).hexdigest()[:32]


def _subtrees(tree: Any) -> Iterator[Any]:
    if isinstance(tree, (dict, list)):
        yield tree
        for each in tree.values() if isinstance(tree, dict) else tree:
            yield from _subtrees(each)


def _words(generator: random.Random) -> str:
    """Python's generators are saved as an array of their words."""
    return blake3(memoryview(np.array(generator.getstate()[1], dtype=np.uint32)).cast("B")).hexdigest()


def _type(value: Any) -> str:
    cls = type(value)
    name = cls.__qualname__
    if hasattr(value, "bit_generator"):
        return f"numpy {name} ({type(value.bit_generator).__name__})"
    if cls.__module__ in ("random", "torch._C"):
        return f"{'torch' if cls.__module__ == 'torch._C' else 'random'}.{name}"
    return f"numpy {name}" if cls.__module__.startswith("numpy.") else name


def _shown(each: Living, state: Any) -> dict[str, Any]:
    """A few of its numbers, for people."""
    if each.kind == "optimizer":
        return {"lr": [float(group["lr"]) for group in each.value.param_groups[:_SHOWN] if "lr" in group]}
    if each.kind not in ("scheduler", "sampler", "object") or not isinstance(state, Mapping):
        return {}
    numbers = {str(name): value for name, value in state.items() if _is_short(value)}
    return dict(list(numbers.items())[:_SHOWN])


def _is_short(value: Any) -> bool:
    if isinstance(value, list):
        return 0 < len(value) <= 4 and all(map(_is_short, value))
    return type(value) in (int, float, bool) and abs(value) < 2**63
