"""Exports for torch: a `.pt` file that `torch.load(weights_only=True)` reads."""

from __future__ import annotations

import collections
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ckpt_tracker.cli.export_state import Source, StoredTensor, flatten
from ckpt_tracker.errors import MissingExtra
from ckpt_tracker.records import TensorSpec

_PLAIN = (str, int, float, bool, complex, bytes, bytearray, type(None))
_LEFT_OUT = object()


def writer() -> Callable[[Source, Path], None]:
    """The function that writes. Raises MissingExtra where torch isn't installed."""
    if importlib.util.find_spec("torch") is None:
        raise MissingExtra('a .pt file is written by torch, which is not installed: pip install "ckpt-tracker[torch]"')
    return write


def write(source: Source, file: Path) -> None:
    """Writes the section as the tree that it is; what `weights_only` would refuse is left out."""
    import torch

    tree = source.tree()
    source.expect({leaf.index: leaf for _, leaf in flatten(tree, "") if isinstance(leaf, StoredTensor)}.values())
    built = _Builder(source).build(tree, "")
    with file.open("xb") as target:
        torch.save(built, target)


class _Builder:
    """Makes a tree of StoredTensors one of torch tensors; tied ones stay tied."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._built: dict[int, Any] = {}

    def build(self, value: Any, path: str) -> Any:
        """The value, or `_LEFT_OUT`."""
        import torch

        if isinstance(value, StoredTensor):
            return self._tensor(value, path)
        if isinstance(value, Mapping):
            return self._mapping(value, path)
        if isinstance(value, (list, tuple, set, frozenset, collections.deque)) and not isinstance(value, torch.Size):
            built = [self.build(each, f"{path}.{index}".lstrip(".")) for index, each in enumerate(value)]
            kind = {tuple: tuple, set: set}.get(type(value), tuple if isinstance(value, tuple) else list)
            return kind(each for each in built if each is not _LEFT_OUT)
        return self._leaf(value, path)

    def _mapping(self, value: Mapping[Any, Any], path: str) -> dict[Any, Any]:
        ordered = isinstance(value, collections.OrderedDict)
        made: dict[Any, Any] = collections.OrderedDict() if ordered else {}
        for key, each in value.items():
            built = self.build(each, f"{path}.{key}".lstrip("."))
            if built is not _LEFT_OUT:
                made[key if type(key) in _PLAIN else str(key)] = built
        metadata = getattr(value, "_metadata", None)
        if metadata is not None:
            # the versions of a module's parts, which load_state_dict looks at
            made._metadata = metadata  # type: ignore[attr-defined]
        return made

    def _leaf(self, value: Any, path: str) -> Any:
        import numpy as np
        import torch

        if type(value) in _PLAIN or isinstance(value, (torch.dtype, torch.device, torch.Size)):
            return value
        if isinstance(value, np.generic) and type(value.item()) in _PLAIN:
            return value.item()
        self._source.left_out.append(path)
        return _LEFT_OUT

    def _tensor(self, tensor: StoredTensor, path: str) -> Any:
        import torch

        from ckpt_tracker.state.torch_tensors import TorchKind

        spec = tensor.spec
        if not isinstance(getattr(torch, spec.dtype, None), torch.dtype):
            self._source.left_out.append(path)
            return _LEFT_OUT
        if tensor.index not in self._built:
            data = self._source.read(tensor)
            as_torch = TensorSpec("torch", spec.dtype, spec.shape, spec.nbytes, spec.flags)
            self._built[tensor.index] = TorchKind().build(as_torch, data)
        return self._built[tensor.index]
