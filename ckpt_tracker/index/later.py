"""Evaluations in the index: what was measured later is ranked as the training's own metrics are, and never above them.

`_evaluations` says what a run's events say; for each checkpoint that is there, `_metrics` has a row of it besides,
unless the training itself recorded a metric of that name.
"""

from __future__ import annotations

from collections.abc import Callable

Execute = Callable[[str, tuple[object, ...]], object]
_FORGET = (
    "DELETE FROM _metrics WHERE later AND (run, version, name) IN "
    "(SELECT run, version, name FROM _evaluations WHERE run = ?)"
)
_RANK = (
    "INSERT OR IGNORE INTO _metrics (run, version, name, value, ranked, moment, later) "
    "SELECT each.run, each.version, each.name, each.value, CASE WHEN nonfinite = '{}' AND value > -9e999 "
    "AND value < 9e999 THEN value END, moment, 1 FROM _evaluations AS each "
    "JOIN _checkpoints AS it ON it.run = each.run AND it.version = each.version WHERE each.run = ?"
)


def forget(execute: Execute, run: str) -> None:
    """Takes those of a run out of `_metrics`: they are about to change."""
    execute(_FORGET, (run,))


def rank(execute: Execute, run: str, version: int | None = None) -> None:
    """Puts those of a run's checkpoints, or of one, into `_metrics`."""
    if version is None:
        execute(_RANK, (run,))
    else:
        execute(f"{_RANK} AND each.version = ?", (run, version))
