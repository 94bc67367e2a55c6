"""`ckpt runs`: what trainings a store holds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ckpt_tracker.cli import human
from ckpt_tracker.cli.command import command
from ckpt_tracker.cli.opening import open_store

if TYPE_CHECKING:
    from ckpt_tracker.records import CheckpointRecord, RunRecord
    from ckpt_tracker.store import Store


@command(
    examples=["ckpt runs", "ckpt runs --store /data/checkpoints --json"],
)
def runs(store: str | None, as_json: bool) -> None:
    """Lists the runs of the store, oldest first: how many checkpoints each has, the newest and the best.

    `finished` says whether the run's last training came to its end; where it did not, it was interrupted, or goes on.
    """
    from ckpt_tracker.cli.output import emit_json, note

    with open_store(store) as opened:
        found = [_look(opened, record) for record in opened.index.runs()]
        if as_json:
            emit_json([each.document() for each in found])
        elif found:
            _print(found)
        else:
            note(f"the store {human.path(opened.path)} has no runs yet")


@dataclass(frozen=True)
class _Run:
    record: RunRecord
    checkpoints: list[CheckpointRecord]
    best: CheckpointRecord | None

    @property
    def last(self) -> CheckpointRecord | None:
        return self.checkpoints[-1] if self.checkpoints else None

    @property
    def stored_bytes(self) -> int:
        return sum(each.stored_bytes for each in self.checkpoints)

    def document(self) -> dict[str, Any]:
        from ckpt_tracker.cli.documents import run_document

        return {
            **run_document(self.record),
            "checkpoints": len(self.checkpoints),
            "last": self.last.ref if self.last else None,
            "best": self.best.ref if self.best else None,
            "stored_bytes": self.stored_bytes,
        }

    def best_text(self) -> str:
        monitor = self.record.monitor
        if self.best is None or monitor is None:
            return human.NONE
        value = human.number(self.best.metrics[monitor.metric])
        return f"v{self.best.version} {human.printable(monitor.metric)}={value}"


def _look(store: Store, run: RunRecord) -> _Run:
    records = store.index.checkpoints(run.name)
    version = store.index.best(run.name, run.monitor) if run.monitor else None
    return _Run(run, records, next((each for each in records if each.version == version), None))


def _print(found: list[_Run]) -> None:
    from ckpt_tracker.cli.tables import Column, print_rows

    now = datetime.now(timezone.utc)

    def age(run: _Run) -> str:
        return human.age(run.last.created_at if run.last else run.record.created_at, now=now)

    columns: list[Column[_Run]] = [
        Column("run", lambda run: run.record.name, text=True),
        Column("checkpoints", lambda run: str(len(run.checkpoints)), spare=2),
        Column("epoch", lambda run: human.optional(run.last and run.last.epoch)),
        Column("step", lambda run: human.optional(run.last and run.last.step), spare=4),
        Column("best", _Run.best_text, text=True, spare=1),
        Column("age", age),
        Column("stored", lambda run: human.size(run.stored_bytes), spare=3),
        Column("finished", lambda run: "yes" if run.record.finished else "no", text=True, spare=1),
    ]
    print_rows(columns, found)
