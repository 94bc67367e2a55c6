"""What a training with `overlap=True` tells its tracker: what stays as it is for a while, and when that is over.

Parameters, and what optimizers keep of them, are changed by a step; and where a state is put into them. A closure that
an optimizer is given comes before its step: it is there that the next forward and backward pass are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ckpt_tracker.integrations._shared.gradients import parameters


class Overlap:
    """Has a training wait, by `settle`, where it changes what may be copied while it computes."""

    def __init__(self, settle: Callable[[], None], *, models: Iterable[Any], optimizers: Iterable[Any]) -> None:
        import torch

        self._models = list(models)
        self._optimizers = list(optimizers)
        changing, stepping = _Changing(settle), _Stepping(settle)
        self._hooks: list[Any] = []
        for optimizer in self._optimizers:
            self._hooks.append(optimizer.register_step_pre_hook(stepping))
            self._hooks.append(optimizer.register_load_state_dict_pre_hook(changing))
        # a state may be put into a part alone; scripted ones take no hooks
        for module in {id(each): each for model in self._models for each in model.modules()}.values():
            if not isinstance(module, torch.jit.ScriptModule):
                self._hooks.append(module._register_load_state_dict_pre_hook(changing))

    def steady(self) -> frozenset[int]:
        """The addresses of what nothing is expected to change but a step; none where no optimizer steps."""
        import torch

        if not self._optimizers:
            return frozenset()
        tensors = [each for model in self._models for each in model.parameters()]
        for optimizer in self._optimizers:
            for parameter in parameters(optimizer):
                kept = optimizer.state.get(parameter, {}).values()
                tensors += [parameter, *(each for each in kept if isinstance(each, torch.Tensor))]
        return frozenset(each.data_ptr() for each in tensors)

    def release(self) -> None:
        """Leaves models and optimizers as they were."""
        while self._hooks:
            self._hooks.pop().remove()


class _Changing:
    """A hook that has a training wait. Copied or pickled with its model it does nothing, for that is another one."""

    def __init__(self, settle: Callable[[], None]) -> None:
        self._settle = settle

    def __call__(self, *_: object) -> None:
        self._settle()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (_nothing,)


class _Stepping(_Changing):
    """Before a step it waits at once; where there is a closure, once that has been called."""

    def __call__(self, _: Any, args: Any, options: Any) -> Any:  # type: ignore[override]
        # torch hands over what `step` was called with, the optimizer itself being the first
        closure = args[1] if len(args) > 1 else options.get("closure")
        if not callable(closure):
            self._settle()
            return None

        def settled(*inputs: Any, **more: Any) -> Any:
            value = closure(*inputs, **more)
            self._settle()
            return value

        if len(args) > 1:
            return (args[0], settled, *args[2:]), options
        return args, {**options, "closure": settled}


def _nothing() -> None:
    pass
