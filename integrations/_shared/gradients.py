"""Gradients that no optimizer has used yet: what a loop accumulates beyond an epoch's end is in no object's state."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import Any


class Gradients:
    """Knows of each optimizer whether gradients have come since its last step."""

    def __init__(self, optimizers: Mapping[str, Any]) -> None:
        self._optimizers = dict(optimizers)
        self._used: dict[int, tuple[Any, int]] = {}

    def stepped(self, optimizer: Any) -> None:
        """The optimizer has just used its gradients. Called at every step, so it looks at one of them only."""
        gradient = _first_gradient(optimizer)
        if gradient is not None:
            self._used[id(optimizer)] = (weakref.ref(gradient), gradient._version)

    def take(self) -> dict[str, Any]:
        """The gradients that wait for a step, by optimizer."""
        return {
            name: [parameter.grad for parameter in parameters(each)]
            for name, each in self._optimizers.items()
            if self._waiting(each)
        }

    def put(self, state: Mapping[str, Any]) -> None:
        """Lets the gradients wait again."""
        for name, optimizer in self._optimizers.items():
            for parameter, gradient in zip(parameters(optimizer), state.get(name, ()), strict=False):
                if gradient is not None:
                    parameter.grad = gradient.to(device=parameter.device, copy=True)

    def _waiting(self, optimizer: Any) -> bool:
        gradient = _first_gradient(optimizer)
        if gradient is None:
            return False
        used = self._used.get(id(optimizer))
        if used is not None and used[0]() is gradient and used[1] == gradient._version:
            return False
        # set to zero instead of None
        return any(_is_set(each.grad) for each in parameters(optimizer))


def parameters(optimizer: Any) -> Iterator[Any]:
    """All that an optimizer changes."""
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _first_gradient(optimizer: Any) -> Any:
    return next((each.grad for each in parameters(optimizer) if each.grad is not None), None)


def _is_set(gradient: Any) -> bool:
    return gradient is not None and not gradient.is_sparse and bool(gradient.any())
