"""The objects of a hand-written loop, as the sections of its checkpoints.

Optimizer steps are counted here, for they say where a state is consistent. Of a wrapper such as Accelerate's around an
optimizer or a scheduler, what it wraps is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ckpt_tracker.errors import InvalidOption, StateMismatch
from ckpt_tracker.integrations._shared import generators as _generators
from ckpt_tracker.integrations._shared import overrides as _overrides
from ckpt_tracker.integrations._shared import stateful as _stateful
from ckpt_tracker.integrations._shared.gradients import Gradients
from ckpt_tracker.integrations._shared.overlap import Overlap

OWN = ("rng", "generators", "loop", "data", "gradients", "ranks")
"""Sections that are not an object's."""
_COMMON = ("model", "optimizer", "ema")


class Parts:
    """What the training hands over, by the names of the keywords."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.objects = {name: _inner(value) for name, value in given.items() if value is not None}
        for name, value in self.objects.items():
            _stateful.check(value, name=name)
        self.optimizers = dict(_stateful.members(self.objects.get("optimizer", ()), "optimizer"))
        self.schedulers = dict(_stateful.members(self.objects.get("scheduler", ()), "scheduler"))
        for name, optimizer in self.optimizers.items():
            if not hasattr(optimizer, "register_step_post_hook"):
                raise InvalidOption(f"{name} is a {type(optimizer).__qualname__}: expected a torch.optim.Optimizer")
        self.generators = self._generators()
        self.gradients = Gradients(self.optimizers)
        self.steps = 0
        """Steps of any optimizer since `count_steps`."""
        self._hooks: list[Any] = []

    def count_steps(self, count: Callable[[], None]) -> None:
        """`count` is called at each step of the first optimizer: of a GAN's two, each batch is a step of each."""
        for index, optimizer in enumerate(self.optimizers.values()):
            hook = self._hook(count if index == 0 else None)
            self._hooks.append(optimizer.register_step_post_hook(hook))

    def overlap(self, settle: Callable[[], None]) -> Overlap:
        """`settle` is called before an optimizer steps, and before a state is put into it or into the model."""
        return Overlap(settle, models=self._models(), optimizers=self.optimizers.values())

    def release(self) -> None:
        """Leaves the optimizers as they were."""
        while self._hooks:
            self._hooks.pop().remove()

    def take(self) -> dict[str, Any]:
        """A section for each object, and the gradients that wait for a step. Still the objects' own memory."""
        state = {name: _stateful.take_bare(value) for name, value in self.objects.items()}
        gradients = self.gradients.take()
        return {**state, "gradients": gradients} if gradients else state

    def put(
        self,
        state: Mapping[str, Any],
        *,
        ref: str,
        own: Mapping[str, Any] | None,
        overrides: Mapping[str, Any],
    ) -> None:
        """Puts back what `take` gave, then what `take_own` did, then the `overrides`.

        Raises StateMismatch, InvalidOption.
        """
        saved = {name for name in state if name not in OWN}
        if saved != set(self.objects):
            raise StateMismatch(
                f"this tracker was given {sorted(self.objects)}, and {ref} holds {sorted(saved)}: "
                "give the tracker the same objects, or use another run name"
            )
        for name, value in self.objects.items():
            _stateful.put(value, state[name], name=name)
        self.gradients.put(state.get("gradients", {}))
        if own is not None:
            self._put_own(own)
        if overrides:
            _overrides.apply(self.optimizers.values(), self.schedulers.values(), overrides)

    # -- what each process of several has of its own ---------------------------------------------------------

    def take_own(self) -> dict[str, Any]:
        """What may be different in each of several processes: all but what they keep equal by averaging gradients."""
        groups = {
            name: [{key: value for key, value in group.items() if key != "params"} for group in each.param_groups]
            for name, each in self.optimizers.items()
        }
        own = {name: _stateful.take_bare(value) for name, value in self.objects.items() if name not in _COMMON}
        return {"objects": own, "groups": groups, "buffers": [each.detach() for each in self._buffers()]}

    def _put_own(self, own: Mapping[str, Any]) -> None:
        for name, state in own["objects"].items():
            _stateful.put(self.objects[name], state, name=name)
        for name, groups in own["groups"].items():
            for group, values in zip(self.optimizers[name].param_groups, groups, strict=True):
                for key, value in values.items():
                    group[key] = group[key].copy_(value) if isinstance(group.get(key), torch.Tensor) else value
        with torch.no_grad():
            for buffer, value in zip(self._buffers(), own["buffers"], strict=True):
                buffer.copy_(value)

    def _buffers(self) -> list[Any]:
        return [buffer for each in self._models() for buffer in each.buffers()]

    def _models(self) -> list[Any]:
        models = [each for _, each in _stateful.members(self.objects.get("model", ()), "model")]
        return [_stateful.bare(each) for each in models if hasattr(each, "buffers")]

    # -- behind ----------------------------------------------------------------------------------------------

    def _hook(self, count: Callable[[], None] | None) -> Callable[..., None]:
        def stepped(optimizer: Any, *_: object) -> None:
            self.steps += 1
            self.gradients.stepped(optimizer)
            if count is not None:
                count()

        return stepped

    def _generators(self) -> dict[str, Any]:
        """Those handed over, and those that modules hold, each once."""
        found: dict[int, tuple[str, Any]] = {}
        for name, value in self.objects.items():
            for path, each in _stateful.members(value, name):
                generators = {path: each} if _generators.is_generator(each) else {}
                if hasattr(each, "named_modules"):
                    generators = _generators.in_modules(_stateful.bare(each), name=path)
                for place, generator in generators.items():
                    found.setdefault(id(generator), (place, generator))
        return dict(found.values())


def _inner(value: Any) -> Any:
    """The optimizers and schedulers inside wrappers that only stand before them."""
    if isinstance(value, Mapping):
        return {name: _inner(each) for name, each in value.items()}
    if type(value) in (list, tuple):
        return [_inner(each) for each in value]
    for name in ("optimizer", "scheduler"):
        inner = getattr(value, "__dict__", {}).get(name)
        if type(value).__module__.startswith("accelerate.") and inner is not None:
            return inner
    return value
