"""Metrics of a Lightning training: those to record with a checkpoint, and what is still being gathered.

Lightning shows the metrics of an old validation as if they were new, and saves nothing of what is half gathered.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ckpt_tracker.tracker import Tracker


@dataclass(frozen=True)
class Moment:
    """A consistent point of the training, with what is recorded of it."""

    epoch: int | None
    step: int
    reason: str | None
    metrics: dict[str, float]
    validated: bool
    """The metrics of a validation are among them, or there is no validation at all."""
    inside: bool
    """Inside an epoch, and not at the end of one."""
    redo: bool = False
    """Before a validation, which the resumed training begins again."""
    random: dict[str, Any] | None = None
    """The random states of that point, where they are others now."""


class Validation:
    """Which metrics come from validation, and when they were last taken."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self._before: dict[str, Any] = {}
        self._epoch = self._step = -1

    def started(self, trainer: Any) -> None:
        """Metrics that change from here on are those of a validation."""
        self._before = dict(trainer.callback_metrics)

    def ended(self, trainer: Any) -> None:
        """They are all there."""
        now = trainer.callback_metrics
        self.names |= {name for name, value in now.items() if value is not self._before.get(name)}
        self._before = {}
        self._epoch, self._step = trainer.current_epoch, trainer.global_step

    def moment(self, trainer: Any, epoch: int | None, *, inside: bool, reason: str | None = None) -> Moment:
        """This point with the metrics of its epoch; inside the epoch, validation's only if they are of this step."""
        fresh = self._step == trainer.global_step if inside else self._epoch == trainer.current_epoch
        metrics = {
            name: float(value) for name, value in trainer.callback_metrics.items() if fresh or name not in self.names
        }
        validated = fresh or not trainer.enable_validation
        return Moment(epoch, trainer.global_step, reason, metrics, validated, inside)


@contextlib.contextmanager
def expecting(moment: Moment, tracker: Tracker) -> Iterator[None]:
    """A monitored metric is not missing, and nothing to warn of, where no validation could give it."""
    key = f"metric:{tracker.monitor.metric}" if tracker.monitor else ""
    silenced = not moment.validated and key not in tracker._warned
    if silenced:
        tracker._warned.add(key)
    try:
        yield
    finally:
        if silenced:
            tracker._warned.discard(key)


def monitored(trainer: Any) -> dict[str, Any]:
    """The metrics that schedulers and callbacks decide by, as last logged: an epoch may pass without them."""
    names = {config.monitor for config in trainer.lr_scheduler_configs if config.reduce_on_plateau}
    names |= {each for each in (getattr(cb, "monitor", None) for cb in trainer.callbacks) if each}
    return {key: value for key, value in trainer.callback_metrics.items() if key in names}


def metric_states(module: Any, *, copied: bool = False) -> dict[str, dict[str, Any]]:
    """What the module's torchmetrics have gathered: its state_dict leaves them out."""
    return {
        name: {
            "updates": metric.update_count,
            "state": {key: _copied(value) if copied else value for key, value in metric.metric_state.items()},
        }
        for name, metric in _metrics(module)
        if metric.update_count
    }


def restore_metric_states(module: Any, states: Mapping[str, Mapping[str, Any]]) -> None:
    """The reverse of `metric_states`; metrics that had gathered nothing are emptied."""
    for name, metric in _metrics(module):
        metric.reset()
        if name in states:
            for key, value in states[name]["state"].items():
                setattr(metric, key, _moved(value, metric.device))
            metric._update_count = states[name]["updates"]


def averages(trainer: Any) -> dict[str, dict[str, Any]]:
    """What `self.log(..., on_epoch=True)` has gathered since the epoch began."""
    return {
        key: dict(result.metric_state)
        for key, result in _results(trainer)
        if result.is_tensor and result.meta.on_epoch and not result.has_reset
    }


def add_averages(trainer: Any, saved: dict[str, dict[str, Any]]) -> None:
    """Adds what was gathered before to what is gathered now; takes from `saved` what it has used."""
    for key, result in _results(trainer):
        if key not in saved or result.has_reset:
            continue
        for name, before in saved.pop(key).items():
            now = getattr(result, name)
            pair = (before.to(now.device), now)
            extreme = result.meta.is_max_reduction or result.meta.is_min_reduction
            setattr(result, name, result.meta.reduce_fx(*pair) if extreme else pair[0] + pair[1])
        result._computed = None


def _metrics(module: Any) -> list[tuple[str, Any]]:
    torchmetrics = sys.modules.get("torchmetrics")
    if torchmetrics is None:
        return []
    return [(name, each) for name, each in module.named_modules() if isinstance(each, torchmetrics.Metric)]


def _results(trainer: Any) -> list[tuple[str, Any]]:
    return list(getattr(trainer.fit_loop.epoch_loop, "_results", {}).items())


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value.clone()


def _moved(value: Any, device: Any) -> Any:
    return [each.to(device) for each in value] if isinstance(value, list) else value.to(device)
