"""A run's `events.jsonl`: the truth about tags, evictions and the like. Lines are sealed JSON, only ever appended.

A line that a power cut tore is skipped; the next append starts a fresh one.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ClassVar

from ckpt_tracker.disk import fields
from ckpt_tracker.disk.filesystem import FileLock, naming_full_disk, sync, sync_folder, write_all, write_durably
from ckpt_tracker.disk.formats import FORMAT, read_document
from ckpt_tracker.disk.jsonfile import is_sealed, seal, unseal
from ckpt_tracker.disk.plain_files import open_plain, reading
from ckpt_tracker.errors import CkptTrackerError, Damaged
from ckpt_tracker.records import Evaluation, Monitor

_log = logging.getLogger("ckpt_tracker")
_MOST_BYTES = 256 * 2**20
_LONGEST_LINE = 16 * 2**20
_MARKS = ("tag", "untag", "pin", "unpin")


@dataclass(frozen=True)
class EventState:
    """What a run's events add up to."""

    tags: dict[str, int] = field(default_factory=dict)
    """Tag → version."""
    newest: int = 0
    """The highest version that they know of, removed or not: versions are not given twice."""
    finished: bool = False
    """The run's last training came to its end."""
    monitor: Monitor | None = None
    """What the run's last training called best."""
    last_start: dict[str, Any] = field(default_factory=dict)
    """The event of the run's last start."""
    pins: tuple[int, ...] = ()
    """The versions that are pinned."""
    digests: dict[int, str] = field(default_factory=dict)
    """Of checkpoints that lost all but their weights, or got it back: the digest since then."""
    evaluations: tuple[Evaluation, ...] = ()
    """What was measured later, by version and name; of one that was measured twice, the last."""
    damaged: bool = False
    """Some lines could not be read."""


@dataclass(frozen=True)
class Line:
    """One line of the file."""

    number: int
    event: dict[str, Any] | None
    """None where it is damaged."""
    problem: str = ""
    torn: bool = False
    """It may be what an interrupted append left."""
    hash: str = ""
    """Of a damaged one."""
    start: int = 0
    """Where in the file it begins."""


class EventLog:
    """The events of one run."""

    _told: ClassVar[set[Path]] = set()

    def __init__(self, path: Path, *, tmp: Path | None = None) -> None:
        self.path = path
        self.length_file = path.with_name("events.length")
        """Says how long the file is at least, for a verify to miss what is cut off."""
        self._tmp = tmp
        self._settled: tuple[int, int] | None = None

    @property
    def nbytes(self) -> int:
        """How long the file is."""
        try:
            return os.lstat(self.path).st_size
        except FileNotFoundError:
            return 0

    def settle(self) -> int:
        """Makes durable what somebody may have been killed before he synced; returns how long the file is."""
        try:
            descriptor = open_plain(self.path)
        except FileNotFoundError:
            return 0
        try:
            status = os.fstat(descriptor)
            found = (status.st_ino, status.st_size)
            if found != self._settled:
                sync(descriptor)
                self._settled = found
        finally:
            os.close(descriptor)
        return status.st_size

    def append(self, event: str, **details: Any) -> None:
        """Adds one event; durable when it returns. Raises StoreFull, Damaged for what is no file of events.

        Where the log has been given a `tmp` folder it is also written down, durably, how long it is now. Appends take
        turns: half of another's line looks like what an interrupted append left.
        """
        line = _sealed(event, **details)
        with naming_full_disk(self.path.parent), FileLock(self.path).taken():
            least = self.least_length() if self._tmp is not None else 0
            descriptor = open_plain(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            try:
                sync(descriptor)  # a power cut must not damage a line in the middle that a killed process has left
                if os.fstat(descriptor).st_size < least:
                    # longer again, it would not be missed any more
                    line = _sealed("cut", nbytes=least) + line
                _append(descriptor, line, least=least)
                end = os.lseek(descriptor, 0, os.SEEK_CUR)
                sync(descriptor)
            finally:
                os.close(descriptor)
            # also where the file was there: who made it may not have come to sync its name
            sync_folder(self.path.parent)
            if self._tmp is not None:
                write_durably(self.length_file, seal({"format": FORMAT, "nbytes": end}), tmp=self._tmp)

    def least_length(self) -> int:
        """How long the file has been already, as far as it was written down; 0 where that can't be read."""
        try:
            return fields.natural(read_document(self.length_file)["nbytes"])
        except (CkptTrackerError, FileNotFoundError, LookupError, ValueError):
            return 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All events, oldest first, without the damaged ones. Raises Damaged for what is no file of events at all."""
        return (line.event for line in self.lines() if line.event is not None)

    def lines(self) -> Iterator[Line]:
        """All lines, the damaged ones too. Raises Damaged for what is no file of events at all."""
        try:
            descriptor = open_plain(self.path)
        except FileNotFoundError:
            return
        with open(descriptor, "rb") as file, reading(self.path):
            size = os.fstat(descriptor).st_size
            if size > _MOST_BYTES:
                raise Damaged(f"{self.path} has {size} bytes: expected {_MOST_BYTES} at most")
            number = start = 0
            while data := file.readline(_LONGEST_LINE):
                number += 1
                if data != b"\n":
                    yield replace(_line(number, data, path=self.path), start=start)
                start += len(data)

    def state(self) -> EventState:
        """What the events add up to. That some are damaged is said, once in a process."""
        tags: dict[str, int] = {}
        pins: dict[int, None] = {}
        digests: dict[int, str] = {}
        newest = 0
        finished = False
        monitor: Monitor | None = None
        last_start: dict[str, Any] = {}
        damaged: set[str] = set()
        later: dict[tuple[int, str], Evaluation] = {}
        for line in self.lines():
            event = line.event or {"event": None}
            name = event["event"]
            if name is None and not line.torn:
                damaged.add(line.hash)
            elif name in _MARKS:
                mark(event, tags=tags, pins=pins)
            elif name == "evaluate":
                later.update(((each.version, each.name), each) for each in evaluations(event))
            elif name == "finish":
                finished = True
            elif name == "repair":
                damaged -= set(event.get("lines", ()))
            elif name == "start":
                finished = False
                last_start = {key: value for key, value in event.items() if key not in ("event", "code_diff")}
                if event.get("monitor"):
                    monitor = Monitor(event["monitor"], event["mode"])
            newest = max(newest, event.get("newest", 0), *event.get("versions", ()))
            digests.update(zip(event.get("versions", ()), event.get("digests", ()), strict=False))
        if damaged and self.path not in EventLog._told:
            EventLog._told.add(self.path)
            _log.warning("%s has damaged lines, %d in all: see `ckpt verify`", self.path, len(damaged))
        in_order = tuple(later[key] for key in sorted(later))
        return EventState(
            tags, newest, finished, monitor, last_start, tuple(sorted(pins)), digests, in_order, bool(damaged)
        )


def mark(event: Mapping[str, Any], *, tags: dict[str, int], pins: dict[int, None]) -> None:
    """Lets an event change what is tagged and pinned; most kinds of events don't."""
    match event["event"]:
        case "tag":
            tags[event["tag"]] = event["version"]
        case "untag":
            tags.pop(event["tag"], None)
        case "pin":
            pins[event["version"]] = None
        case "unpin":
            pins.pop(event["version"], None)


def evaluations(event: Mapping[str, Any]) -> Iterator[Evaluation]:
    """What an event of kind `evaluate` says. Raises LookupError, TypeError, ValueError where it can't be."""
    from ckpt_tracker.state.tree import decode

    try:
        metrics = fields.mapping(decode(event["metrics"], lambda index: None))
    except Damaged as error:
        raise ValueError(str(error)) from error
    version, at = fields.version(event["version"]), fields.moment(event["at"])
    by, user = fields.optional_text(event.get("by")), fields.optional_text(event.get("user"))
    for name, value in metrics.items():
        number = float(fields.metric(value))
        # one NaN for all: another one would not be equal to it
        yield Evaluation(version, fields.name(name), math.nan if math.isnan(number) else number, at, by, user)


def _line(number: int, data: bytes, *, path: Path) -> Line:
    text = data.rstrip(b"\n")
    where = f"line {number} of {path}"
    try:
        event = _checked(unseal(text, name=where))
    except (Damaged, LookupError, TypeError, ValueError) as error:
        problem = str(error) if isinstance(error, Damaged) else f"{where} is damaged: {error}"
        return Line(number, None, problem, torn=not is_sealed(text), hash=_hash(text))
    if text == data:
        return Line(number, event, f"{where} is damaged: its end is missing", torn=True)
    return Line(number, event)


def _hash(data: bytes) -> str:
    from blake3 import blake3

    return blake3(data).hexdigest()


def _checked(event: dict[str, Any]) -> dict[str, Any]:
    """The event; what is known of its kind is of the right type. Raises LookupError, TypeError, ValueError."""
    name = fields.name(event["event"])
    if name in _MARKS:
        if "tag" in name:
            fields.name(event["tag"])
        if name != "untag":
            fields.version(event["version"])
    elif name == "start":
        _check_start(event)
    elif name == "evaluate":
        list(evaluations(event))
    elif name in ("repair", "cut"):
        _check_all(fields.hash_name, event.get("lines", []))
        fields.natural(event["nbytes"])
    _check_all(fields.version, event.get("versions", []))
    _check_all(fields.hash_name, event.get("digests", []))
    if "newest" in event:
        fields.version(event["newest"])
    return event


def _check_start(event: Mapping[str, Any]) -> None:
    if event.get("monitor") is not None:
        fields.name(event["monitor"])
        if event["mode"] not in ("min", "max"):
            raise ValueError(f"a mode is min or max, and not {event['mode']!r}")
    for member in ("config", "environment", "overrides"):
        fields.mapping(event.get(member, {}))


def _check_all(check: Callable[[object], object], found: object) -> None:
    for each in fields.listing(found):
        check(each)


def _append(descriptor: int, line: bytes, *, least: int) -> None:
    """Puts a line at the end, on a line of its own. What an interrupted append left is excused; what was whole once is
    not.
    """
    torn = _last_line(descriptor)
    if torn:
        interrupted = os.fstat(descriptor).st_size - len(torn) >= least
        line = b"\n" + (_excuse(torn) if interrupted else b"") + line
    write_all(descriptor, line)


def _sealed(event: str, **details: Any) -> bytes:
    at = datetime.now(timezone.utc).isoformat()
    return seal({"event": event, "at": at, **details}) + b"\n"


def _last_line(descriptor: int) -> bytes:
    """What is behind the last line break: nothing, unless an append was interrupted."""
    size = os.fstat(descriptor).st_size
    length, data = 0, b""
    while length < min(size, _LONGEST_LINE) and b"\n" not in data:
        length = min(size, max(1, 4096 * length))
        data = os.pread(descriptor, length, size - length)
    return data.rpartition(b"\n")[2]


def _excuse(torn: bytes) -> bytes:
    """The line that tells a verify that a torn one is no news."""
    return _sealed("repair", lines=[_hash(torn)], nbytes=0)
