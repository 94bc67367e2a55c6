"""Trials: the trainings that `ckpt verify-resume` starts, kills and starts again, to see whether they resume exactly.

A tracker asks here whether it is part of one. Then its store is the trial's, whatever the script says, and beside each
checkpoint some evidence is left: what else lives in the process that a restart would have to bring back.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckpt_tracker.run_writer import Capture

VARIABLE = "CKPT_TRACKER_TRIAL"
STORE = "CKPT_TRACKER_STORE"
RUN = "trial"
"""The name that a run without a name has in a trial."""


def folder() -> Path | None:
    """The trial's store, or None outside of a trial."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


def environment(store: Path) -> dict[str, str]:
    """What makes a process that is started with it part of the trial."""
    return {STORE: str(store), VARIABLE: str(store)}


def evidence_file(store: Path, run: str, *, epoch: int | None, step: int | None) -> Path:
    """Where the evidence beside a checkpoint is: next to the store, for it is none of its files."""
    return store.with_name(f"{store.name}.evidence") / run / f"{epoch}-{step}.json"


def collect(capture: Capture, *, run: str, epoch: int | None, step: int | None) -> None:
    """Leaves the evidence of this moment, in which `capture` was taken. Does nothing outside of a trial."""
    store = folder()
    if store is None:
        return
    from ckpt_tracker.trial.evidence import collect as collect_evidence

    collect_evidence(capture.state, evidence_file(store, run, epoch=epoch, step=step))
