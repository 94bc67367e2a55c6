"""What one training of a trial left: its checkpoints, in the order they were saved, and the evidence beside them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ckpt_tracker import trial
from ckpt_tracker.comparison import SavedState
from ckpt_tracker.files import run_files
from ckpt_tracker.records import CheckpointRecord
from ckpt_tracker.store import Store


@dataclass(frozen=True)
class Key:
    """Which checkpoint of a training it is, in any of its repetitions: versions differ, these don't."""

    run: str
    epoch: int | None
    step: int | None

    def __str__(self) -> str:
        parts = [f"epoch {self.epoch}" if self.epoch is not None else "", f"step {self.step}" if self.step else ""]
        return f"run {self.run}, {', '.join(filter(None, parts)) or 'without epoch or step'}"


class Saved:
    """The store of one training of a trial."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def records(self) -> list[CheckpointRecord]:
        """All checkpoints, oldest first."""
        if not self.path.exists():
            return []
        with Store(self.path, create=False) as store:
            found = [record for run in store.runs() for record in store.index.checkpoints(run.name)]
        return sorted(found, key=lambda record: (record.created_at, record.version))

    @cached_property
    def by_key(self) -> dict[Key, CheckpointRecord]:
        """The last checkpoint of each key."""
        return {key_of(record): record for record in self.records}

    @property
    def keys(self) -> list[Key]:
        """The checkpoints' keys, oldest first."""
        return [key_of(record) for record in self.records]

    @property
    def runs(self) -> list[str]:
        """The runs that have checkpoints."""
        return list(dict.fromkeys(record.run for record in self.records))

    def last_key(self, run: str) -> Key | None:
        """The run's last checkpoint; None where it has none."""
        return next((key_of(record) for record in reversed(self.records) if record.run == run), None)

    def state(self, record: CheckpointRecord) -> SavedState:
        """A checkpoint's leaves."""
        with Store(self.path, create=False) as store:
            return SavedState.read(store.layout, store.objects, record)

    def starts(self) -> list[dict[str, Any]]:
        """The events of all starts of the runs that have checkpoints, oldest first; each with its `run`."""
        with Store(self.path, create=False) as store:
            return [
                {**event, "run": run}
                for run in self.runs
                for event in run_files.events(store.layout, run)
                if event["event"] == "start"
            ]

    def is_unnamed(self, run: str) -> bool:
        """Nobody named the run: outside of a trial a restart would begin another one."""
        with Store(self.path, create=False) as store:
            return store.run_record(run).unnamed

    def evidence(self, key: Key) -> dict[str, Any]:
        """The evidence beside a checkpoint; without any objects where there is none."""
        file = trial.evidence_file(self.path, key.run, epoch=key.epoch, step=key.step)
        try:
            found: dict[str, Any] = json.loads(file.read_bytes())
        except FileNotFoundError:
            return {"objects": [], "variables": {}, "integrations": []}
        return found


def key_of(record: CheckpointRecord) -> Key:
    """The record's key."""
    return Key(record.run, record.epoch, record.step)
