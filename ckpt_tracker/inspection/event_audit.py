"""What a run's events tell a verify: which of them are damaged or cut off, and which checkpoints there must be."""

from __future__ import annotations

from dataclasses import dataclass

from ckpt_tracker.disk import fields
from ckpt_tracker.disk.formats import read_document
from ckpt_tracker.errors import CkptTrackerError
from ckpt_tracker.files.events import EventLog, Line


@dataclass(frozen=True)
class Audit:
    """What there is to check."""

    damaged: tuple[Line, ...]
    """Lines that no repair has told of. What an append left that was interrupted, and told nobody, is none."""
    least: int
    """How long the file must be."""
    excused: int
    """How long it once was, when a repair found it too short."""
    cut: bool
    """It was too short, and has been written to since."""
    problem: str
    """What is wrong with the file that says how long it must be."""
    removed: frozenset[int]
    """Versions that retention or a person removed."""
    known: frozenset[int]
    """Versions that must have been there."""


def audit(log: EventLog) -> Audit:
    """Reads all events. Raises Damaged for what is no file of events at all."""
    damaged: dict[str, Line] = {}
    excused = cut = 0
    removed: set[int] = set()
    known: set[int] = set()
    for line in log.lines():
        if line.problem:
            damaged[line.hash] = line
        event = line.event or {"event": None}
        match event:
            case {"event": "repair", "lines": lines, "nbytes": nbytes}:
                damaged = {name: each for name, each in damaged.items() if name not in lines}
                excused = max(excused, nbytes)
            case {"event": "cut", "nbytes": nbytes}:
                cut = max(cut, nbytes)
            case {"event": "tag" | "pin" | "evaluate", "version": version}:
                known.add(version)
            case {"event": "evict" | "remove", "versions": versions}:
                removed.update(versions)
            case {"event": "restore" | "strip", "versions": versions}:
                removed.difference_update(versions)
                known.update(versions)
        known.update([event["newest"]] if "newest" in event else [])
    least, problem = _length(log)
    told = tuple(line for line in damaged.values() if line.start < least or not line.torn)
    least = max(least, cut if cut > excused else 0)
    return Audit(told, least, excused, cut > excused, problem, frozenset(removed), frozenset(known))


def _length(log: EventLog) -> tuple[int, str]:
    """How long the file has been at least, and what keeps that from being known."""
    try:
        return fields.natural(read_document(log.length_file)["nbytes"]), ""
    except FileNotFoundError:
        return 0, f"{log.length_file} is missing"
    except CkptTrackerError as error:
        return 0, str(error)
    except (LookupError, ValueError) as error:
        return 0, f"{log.length_file} is damaged: {error}"
