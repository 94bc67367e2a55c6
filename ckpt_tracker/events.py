"""A run's `events.jsonl`: the truth about tags, evictions and the like. Lines are sealed JSON, only ever appended.

A line that a power cut tore is skipped; the next append starts a fresh one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ckpt_tracker.errors import Damaged
from ckpt_tracker.filesystem import sync, sync_path, write_all
from ckpt_tracker.jsonfile import seal, unseal
from ckpt_tracker.records import Monitor


@dataclass(frozen=True)
class EventState:
    """What a run's events add up to."""

    tags: dict[str, int] = field(default_factory=dict)
    """Tag → version."""
    newest_removed: int = 0
    """The highest version ever removed: versions are not given twice."""
    finished: bool = False
    """The run's last training came to its end."""
    monitor: Monitor | None = None
    """What the run's last training called best."""
    last_start: dict[str, Any] = field(default_factory=dict)
    """The event of the run's last start."""


class EventLog:
    """The events of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, event: str, **details: Any) -> None:
        """Adds one event; durable when it returns."""
        at = datetime.now(timezone.utc).isoformat()
        line = seal({"event": event, "at": at, **details}) + b"\n"
        created = not self.path.exists()
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            write_all(descriptor, b"\n" + line if torn else line)
            sync(descriptor)
        finally:
            os.close(descriptor)
        if created:
            sync_path(self.path.parent)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All events, oldest first, without the damaged ones."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        for number, line in enumerate(lines, start=1):
            try:
                yield unseal(line, name=f"line {number} of {self.path}")
            except Damaged:
                continue

    def state(self) -> EventState:
        """What the events add up to."""
        tags: dict[str, int] = {}
        newest_removed = 0
        finished = False
        monitor: Monitor | None = None
        last_start: dict[str, Any] = {}
        for event in self:
            name = event["event"]
            if name == "tag":
                tags[event["tag"]] = event["version"]
            elif name in ("evict", "remove"):
                newest_removed = max(newest_removed, *event["versions"])
            elif name == "finish":
                finished = True
            elif name == "start":
                finished = False
                last_start = {key: value for key, value in event.items() if key not in ("event", "code_diff")}
                if event.get("monitor"):
                    monitor = Monitor(event["monitor"], event["mode"])
        return EventState(tags, newest_removed, finished, monitor, last_start)
