"""Every system call that a scenario's thread makes fails once: strace lets the first fail, then the second, and so on.

A fork of this process runs the scenario up to where it counts, waits until strace holds the one thread that is to
suffer, and goes on. What it was promised it tells through shared memory, which takes no system call.

python -m durability.fault_injection FOLDER FAULT STEP
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import json
import logging
import mmap
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from durability import crash_scenarios, fault_scenarios
from durability.crash_checks import Promises, violations
from durability.crash_recording import Op
from durability.fault_scenarios import SCENARIOS

from ckpt_tracker import writer
from ckpt_tracker.disk import formats
from ckpt_tracker.errors import CkptTrackerError
from ckpt_tracker.files import objects

FAULTS = {"EIO": "error=EIO", "ENOSPC": "error=ENOSPC", "KILL": "signal=KILL"}
CALLS = (
    *("openat", "write", "pwrite64", "writev", "pwritev", "fsync", "fdatasync", "ftruncate", "fallocate"),
    *("rename", "unlink", "mkdir", "rmdir", "utimensat", "flock"),
)
_WRITES = re.compile(r"O_(CREAT|WRONLY|RDWR)")
_END = '"/proc/self/fd"'
_LITTER = "half"
_ANY_PROCESS = ctypes.c_ulong(-1)
_PR_SET_PTRACER = 0x59616D61


class Board:
    """Lines that a process leaves for its parent, in memory that they share."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 2**20)
        self._end = 0

    def tell(self, **told: Any) -> None:
        """Adds a line."""
        line = json.dumps(told).encode() + b"\n"
        self._memory[self._end : self._end + len(line)] = line
        self._end += len(line)

    def read(self) -> list[dict[str, Any]]:
        """All lines."""
        return [json.loads(line) for line in self._memory[:].rstrip(b"\0").splitlines()]


@dataclass(frozen=True)
class Gate:
    """Where the thread that is to suffer waits for strace: `main`, or `writer`."""

    wanted: str
    arrived: int
    go_on: int

    def arrive(self, name: str) -> None:
        """Waits, if this is the thread."""
        if name == self.wanted and not _passed:
            _passed.append(name)
            os.write(self.arrived, str(threading.get_native_id()).encode())
            os.read(self.go_on, 1)


_passed: list[str] = []


def main(folder: Path, fault: str, step: int) -> None:
    """Prints what was tried, every so manieth call, and what went wrong, as JSON."""
    objects.SMALL = 64
    sys.argv = ["scenario"]
    logging.disable(logging.CRITICAL)
    for module in (crash_scenarios, fault_scenarios):
        module.mark = lambda **told: None  # type: ignore[attr-defined]
    for name, (_, scenario) in SCENARIOS.items():
        # whatever is imported late is there when the others are forked
        scenario(folder / f"warm {name}")
    fault_scenarios.SETTLED.clear()
    tried, found = 0, []
    for name, (threads, _) in SCENARIOS.items():
        for thread in threads:
            calls = list(write_side(Attempt(folder / "try", name, thread).trace()))
            for call, count in calls[list(FAULTS).index(fault) % step :: step]:
                found += Attempt(folder / "try", name, thread, call, count, fault).problems()
                tried += 1
    logging.disable(logging.NOTSET)
    print(json.dumps({"tried": tried, "found": found}))


def write_side(trace: str) -> Iterator[tuple[str, int]]:
    """Of what strace saw of a thread the calls that change something, each with its number among those of its name."""
    lines = trace.splitlines()
    counts: Counter[str] = Counter()
    for line, following in itertools.pairwise([*lines, ""]):
        name = line.partition("(")[0]
        if _END in line:
            return
        if name in CALLS:
            counts[name] += 1
            if name != "openat" or _WRITES.search(line) or following.startswith("fsync"):
                yield name, counts[name]


@dataclass(frozen=True)
class Attempt:
    """One scenario with one call that fails, or with none."""

    folder: Path
    scenario: str
    thread: str
    call: str = ",".join(CALLS)
    count: int = 0
    fault: str = ""

    def trace(self) -> str:
        """What strace sees of the thread."""
        self._run()
        trace = (self.folder / "strace").read_text()
        shutil.rmtree(self.folder)
        return trace

    def problems(self) -> list[str]:
        """What is not as it was promised."""
        told, status = self._run()
        trace = (self.folder / "strace").read_text()
        found = list(problems(self, told, status))
        if "(INJECTED)" not in trace and not (self.fault == "KILL" and "killed by SIGKILL" in trace):
            found.append("there was no such call")
        shutil.rmtree(self.folder)
        return [f"{self.scenario}, {self.thread}, {self.call} {self.count}: {each}" for each in found]

    def _run(self) -> tuple[list[dict[str, Any]], int]:
        self.folder.mkdir()
        board, (arrived, tell_arrived), (wait, go_on) = Board(), os.pipe(), os.pipe()
        child = os.fork()
        if not child:
            os.close(arrived)
            os.close(go_on)
            self._suffer(board, Gate(self.thread, tell_arrived, wait))
        os.close(tell_arrived)
        os.close(wait)
        strace = self._hold(os.read(arrived, 20).decode())
        os.write(go_on, b"x")
        _, status = os.waitpid(child, 0)
        os.close(arrived)
        os.close(go_on)
        strace.communicate()
        return board.read(), status

    def _hold(self, thread: str) -> subprocess.Popen[str]:
        """Lets strace hold a thread."""
        inject = ["-e", f"inject={self.call}:{FAULTS[self.fault]}:when={self.count}"] if self.fault else []
        command = ["strace", "-o", str(self.folder / "strace"), "-e", f"trace={self.call}", *inject, "-p", thread]
        strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert strace.stderr is not None
        line = strace.stderr.readline()
        assert "attached" in line, line
        return strace

    def _suffer(self, board: Board, gate: Gate) -> NoReturn:
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANY_PROCESS, 0, 0, 0)
        work = writer._work

        def work_later(jobs: Any) -> None:
            gate.arrive(fault_scenarios.thread_now())
            work(jobs)

        def mark(**told: Any) -> None:
            board.tell(**told)
            if "settled" in told:
                fault_scenarios.SETTLED.append(True)
                gate.arrive("main")

        writer._work = work_later
        for module in (crash_scenarios, fault_scenarios):
            module.mark = mark  # type: ignore[attr-defined]
        logging.disable(logging.NOTSET)
        logging.getLogger("ckpt_tracker").addHandler(Telling(board))
        warnings.showwarning = lambda message, *rest: board.tell(warned=str(message)[:300])
        before = _descriptors()
        try:
            SCENARIOS[self.scenario][1](self.folder / "store")
        except BaseException as error:
            board.tell(raised=repr(error), ours=isinstance(error, CkptTrackerError), os=isinstance(error, OSError))
            error.__traceback__ = error.__cause__ = error.__context__ = None
        gc.collect()
        board.tell(ended=True, leaked=[each for each in _descriptors() if each not in before])
        os._exit(0)


class Telling(logging.Handler):
    """Warnings go to the board: what was said was not silent."""

    def __init__(self, board: Board) -> None:
        super().__init__(logging.WARNING)
        self._board = board

    def emit(self, record: logging.LogRecord) -> None:
        """Tells it."""
        self._board.tell(warned=record.getMessage()[:300])


def problems(attempt: Attempt, told: list[dict[str, Any]], status: int) -> Iterator[str]:
    """What is not as it should be after one failed call."""
    path = attempt.folder / "store"
    ended = next((each for each in told if "ended" in each), None)
    errors = [each for each in told if "raised" in each]
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if killed != (attempt.fault == "KILL") or (ended is None) != killed:
        yield f"it ended with status {status}"
    yield from (f"raised {each['raised']}" for each in errors if not (each["ours"] or each["os"]))
    if ended is not None:
        if ended["leaked"]:
            yield f"leaks {ended['leaked']}"
        left = [] if attempt.call == "unlink" else [each.name for each in path.glob("tmp/*") if each.name != _LITTER]
        if left:
            yield f"leaves {left} in tmp"
    promises = Promises()
    for each in told:
        promises = promises.kept(Op("mark", mark=each))
    said = errors or any("warned" in each for each in told)
    if ended is not None and not said:
        yield from _not_done(path, told)
    yield from violations(path, promises)


def _not_done(path: Path, told: list[dict[str, Any]]) -> Iterator[str]:
    """What was to be removed and is still there, though nobody said so."""
    for run, version in (key for each in told for key in each.get("removing", ())):
        if version in formats.versions(path / "runs" / run / "manifests"):
            yield f"{run}@v{version} was not removed, and that was not said"
    if not any("completed" in each for each in told):
        yield "it did not come to its end, and that was not said"


def _descriptors() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:
            continue
    return [each for each in found if "/proc/" not in each]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
