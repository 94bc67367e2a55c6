"""A script in a process of its own: started as part of a trial, watched, and killed with everything it has started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ckpt_tracker import trial
from ckpt_tracker.disk.formats import versions
from ckpt_tracker.errors import InvalidOption
from ckpt_tracker.files.layout import Layout

Watch = Callable[[int], None]
"""Told how many checkpoints are durable, again and again."""
_INTERVAL = 0.01
_PATIENCE = 30.0
_TAIL_BYTES = 8192
_TAIL_LINES = 15


@dataclass(frozen=True)
class Kill:
    """When to kill: some seconds after so many checkpoints are durable."""

    after: int
    seconds: float


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    seconds: float
    exit_code: int | None
    """None where it was killed by us: as planned, or for taking too long."""
    durable: tuple[float, ...]
    """When each of the checkpoints that came to be was seen to be durable, in seconds from the start."""
    tail: str
    """The last lines of what it printed."""
    timed_out: bool = False


class Script:
    """A command that trains, with the store that it is to use."""

    def __init__(self, command: Sequence[str], store: Path, *, shown: bool, timeout: float | None) -> None:
        self._command = list(command)
        self._store = store
        self._shown = shown
        self._timeout = timeout

    def run(self, *, hash_seed: int, kill: Kill | None = None, watch: Watch = lambda count: None) -> Ended:
        """Runs it to its end, or to its death. Raises InvalidOption where it can't be started."""
        log = self._store.with_name(f"{self._store.name}.log")
        started = time.monotonic()
        with log.open("ab") as output:
            process = self._start(hash_seed, None if self._shown else output.fileno())
            follower = _Follower(self._store, started)
            try:
                timed_out = self._follow(process, follower, kill, watch)
                exit_code = process.poll()
            finally:
                # also where a script has come to its end: ranks and workers that outlive it hold the run's lock
                kill_all(process, self._store)
        follower.look()
        tail = "" if self._shown else _tail(log)
        return Ended(time.monotonic() - started, exit_code, tuple(follower.durable), tail, timed_out)

    def _start(self, hash_seed: int, output: int | None) -> subprocess.Popen[bytes]:
        # a seed of the user's own holds for every start; else each process has another, as without us
        hashes = {} if os.environ.get("PYTHONHASHSEED", "random") != "random" else {"PYTHONHASHSEED": str(hash_seed)}
        stream = 2 if output is None else output
        try:
            return subprocess.Popen(
                self._command,
                env={**os.environ, **hashes, **trial.environment(self._store)},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        except OSError as error:
            raise InvalidOption(f"{self._command[0]!r} can't be started: {error.strerror}") from error

    def _follow(self, process: subprocess.Popen[bytes], follower: _Follower, kill: Kill | None, watch: Watch) -> bool:
        """Returns when the process has ended, is to be killed, or has taken too long: True."""
        kill_at: float | None = None
        while process.poll() is None:
            durable = follower.look()
            watch(durable)
            now = time.monotonic()
            if kill is not None and kill_at is None and durable >= kill.after:
                kill_at = now + kill.seconds
            if kill_at is not None and now >= kill_at:
                return False
            if self._timeout is not None and now - follower.started > self._timeout:
                return True
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_INTERVAL if kill_at is None else min(_INTERVAL, kill_at - now))
        return False


class _Follower:
    """Counts the checkpoints of a store that were not there at the start."""

    def __init__(self, store: Path, started: float) -> None:
        self._layout = Layout(store)
        self.started = started
        self.durable: list[float] = []
        self._before = self._count()

    def look(self) -> int:
        """How many there are now."""
        count = self._count() - self._before
        self.durable += [time.monotonic() - self.started] * (count - len(self.durable))
        return count

    def _count(self) -> int:
        return sum(len(versions(self._layout.manifests(run))) for run in self._layout.run_names())


def kill_all(process: subprocess.Popen[bytes], store: Path) -> None:
    """SIGKILL for the process, its group, and all that carry the trial's name; returns when they are gone."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    # launchers start ranks in sessions of their own
    mark, patience = f"{trial.VARIABLE}={store}".encode(), time.monotonic() + _PATIENCE
    while (others := _carrying(mark)) and time.monotonic() < patience:
        for each in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        time.sleep(_INTERVAL)


def _carrying(mark: bytes) -> list[int]:
    """The processes that were started with `mark` in their environment. Linux only; a dead one has none."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        text = file.read().decode(errors="replace")
    return "\n".join(text.replace("\r", "\n").rstrip().splitlines()[-_TAIL_LINES:])
