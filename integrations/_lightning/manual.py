"""Gradients that wait for a step: with manual optimization, a module may gather them over as many batches as it likes.

With automatic optimization none wait where a checkpoint is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckpt_tracker.integrations._shared.gradients import Gradients


class ManualGradients:
    """Of one `fit`, by the optimizer's number."""

    def __init__(self) -> None:
        self._gradients = Gradients({})
        self._hooks: list[Any] = []

    def watch(self, trainer: Any) -> None:
        """From now on; the optimizers are made."""
        if trainer.lightning_module.automatic_optimization:
            return
        gradients = Gradients({str(number): each for number, each in enumerate(trainer.optimizers)})
        self._gradients = gradients
        self._hooks = [
            each.register_step_post_hook(lambda optimizer, *_: gradients.stepped(optimizer))
            for each in trainer.optimizers
        ]

    def release(self) -> None:
        """Leaves the optimizers as they were."""
        for each in self._hooks:
            each.remove()

    def capture(self) -> dict[str, Any]:
        """Still the parameters' own memory."""
        return self._gradients.take()

    def restore(self, saved: Mapping[str, Any]) -> None:
        """The reverse of `capture`."""
        self._gradients.put(saved)
