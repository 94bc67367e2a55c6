"""What `ckpt demo` does, and what it measured.

The trainings are processes of their own, so that the kill is a real one.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ckpt_tracker.errors import CkptTrackerError
from ckpt_tracker.records import CheckpointRecord, Monitor
from ckpt_tracker.store import Store

_TRAINING = "ckpt_tracker.cli.demo_training"
_SEED = "CKPT_DEMO_SEED"
_KILL_AT = (4, 11)
"""Epoch and batch, both counted from 0."""


@dataclass(frozen=True)
class Story:
    """What came of it; every figure is measured, or read from the store."""

    store: Path
    run: str
    records: list[CheckpointRecord]
    best: CheckpointRecord
    monitor: Monitor
    resumed_from: str | None
    training_seconds: float
    uninterrupted_digest: str

    @property
    def digest(self) -> str:
        """Of the restarted training's last checkpoint."""
        return self.records[-1].digest

    @property
    def equal(self) -> bool:
        """Both trainings ended in the same state."""
        return self.digest == self.uninterrupted_digest

    @property
    def nbytes(self) -> int:
        """Logical bytes of all checkpoints together."""
        return sum(each.nbytes for each in self.records)

    @property
    def stored_bytes(self) -> int:
        """Bytes that they take in the store."""
        return sum(each.stored_bytes for each in self.records)

    @property
    def stall_seconds(self) -> float:
        """Time that the training waited for its checkpoints."""
        return sum(each.stall_seconds for each in self.records)

    def document(self) -> dict[str, Any]:
        """What `--json` prints."""
        from ckpt_tracker.cli.documents import checkpoint_document

        return {
            "store": str(self.store.absolute()),
            "run": self.run,
            "killed": dict(zip(("epoch", "batch"), _KILL_AT, strict=True)),
            "resumed_from": self.resumed_from,
            "checkpoints": [checkpoint_document(each, best=each == self.best) for each in self.records],
            "best": self.best.ref,
            "nbytes": self.nbytes,
            "stored_bytes": self.stored_bytes,
            "stall_seconds": self.stall_seconds,
            "training_seconds": self.training_seconds,
            "digest": self.digest,
            "uninterrupted_digest": self.uninterrupted_digest,
            "equal": self.equal,
        }


def tell(store: Path, scratch: Path, *, quiet: bool) -> Story:
    """Trains three times: through to the end, up to the kill, and on from there. Raises CkptTrackerError."""
    say = _Teller(quiet=quiet)
    run = _free_name(store)
    say("1. A training that nobody interrupts")
    untouched = scratch / "uninterrupted"
    with _training(untouched, run, seed=0) as lines:
        _follow(lines, say)
    epoch, batch = _KILL_AT
    say(f"\n2. The same training again, killed with SIGKILL in epoch {epoch}, after batch {batch}")
    started = time.monotonic()
    with _training(store, run, seed=0, kill_at=_KILL_AT) as lines:
        _follow(lines, say)
    say("\n3. Started once more, with another random seed")
    with _training(store, run, seed=1) as lines:
        resumed_from = _follow(lines, say)
    seconds = time.monotonic() - started
    with Store(untouched, create=False) as other:
        digest = other.find_run(run).last().digest
    with Store(store, create=False) as opened:
        found = opened.find_run(run)
        records = [each.record for each in found.checkpoints()]
        monitor = found.record.monitor
        assert monitor is not None
        return Story(store, run, records, found.best().record, monitor, resumed_from, seconds, digest)


class _Teller:
    """Prints the story as it goes, or nothing."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def __call__(self, line: str) -> None:
        if not self._quiet:
            click.echo(line)


def _follow(lines: Iterator[list[str]], say: _Teller) -> str | None:
    """Reads a training's lines to their end; returns what it continued from."""
    resumed_from = None
    for word, *rest in lines:
        if word == "resumed" and rest != ["-"]:
            resumed_from = rest[0]
            say(f"   continues from {resumed_from}")
        elif word == "epoch":
            say(f"   epoch {rest[0]}: {', '.join(rest[1:])}")
        elif word == "killed":
            say(f"   killed (process {rest[0]})")
    return resumed_from


@contextlib.contextmanager
def _training(
    store: Path, run: str, *, seed: int, kill_at: tuple[int, int] | None = None
) -> Iterator[Iterator[list[str]]]:
    """A training in a process of its own, and the lines it prints, as words. It ends with the block at the latest."""
    arguments = [sys.executable, "-m", _TRAINING, str(store), run]
    process = subprocess.Popen(
        arguments,
        env={**os.environ, _SEED: str(seed)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    with process:
        try:
            yield _lines(process, kill_at)
        finally:
            process.kill()


def _lines(process: subprocess.Popen[str], kill_at: tuple[int, int] | None) -> Iterator[list[str]]:
    assert process.stdout is not None
    other: deque[str] = deque(maxlen=20)
    mark = ["batch", *map(str, kill_at)] if kill_at else None
    for line in process.stdout:
        words = line.split()
        if words == mark:
            process.kill()
            process.wait()
            yield ["killed", str(process.pid)]
            return
        if words and words[0] in ("resumed", "epoch", "batch"):
            yield words
        else:
            other.append(line)
    if process.wait() != 0 or kill_at:
        raise CkptTrackerError(f"the training ended with exit code {process.returncode}:\n{''.join(other)}")


def _free_name(store: Path) -> str:
    """`digits`, or the first of `digits-2`, `digits-3`, … that the store has no run of."""
    with Store(store) as opened:
        taken = {run.name for run in opened.runs()}
    number = 1
    while (name := "digits" if number == 1 else f"digits-{number}") in taken:
        number += 1
    return name
