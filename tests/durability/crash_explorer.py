"""Goes through every crash of a recorded job: each disk that it could leave is made, and looked at."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from durability.crash_checks import Promises, violations
from durability.crash_disk import Disk
from durability.crash_recording import Op

_STARTS = ("settled", "explore")


@dataclass
class Exploration:
    """What has been seen so far. States are told apart by their content and by what was promised."""

    folder: Path
    """On a file system where nothing costs much: each state is written there, and deleted."""
    limit: int
    """States per crash, at most."""
    states: Counter[str] = field(default_factory=Counter)
    """Distinct ones, by scenario."""
    crashes: int = 0
    found: list[str] = field(default_factory=list)
    """Violations."""
    _seen: set[tuple[str, str]] = field(default_factory=set)
    _went_on: set[tuple[str, str]] = field(default_factory=set)

    def explore(self, job: str, ops: list[Op], *, until_found: bool = False) -> None:
        """Every crash of the job, from where it begins to count."""
        for done, promises in _crashes(ops):
            self.crashes += 1
            for problem in self._crash(job, Disk(ops, seed=job), done, promises):
                self.found.append(f"{job}, after {done} operations of {len(ops)}: {problem}")
                if until_found:
                    return

    def _crash(self, job: str, disk: Disk, done: int, promises: Promises) -> Iterator[str]:
        for state in disk.states(done, limit=self.limit):
            key = (state.digest(), repr(promises))
            if key in self._seen:
                continue
            self._seen.add(key)
            self.states[job] += 1
            core = (state.digest(index=False), repr(promises))
            target = self.folder / "disk"
            state.write(target)
            # an index that was found to say what the manifests say has no further say
            yield from violations(target / "store", promises, go_on=core not in self._went_on)
            self._went_on.add(core)
            shutil.rmtree(target)


def _crashes(ops: list[Op]) -> Iterator[tuple[int, Promises]]:
    """(operations done, what was promised by then) for every moment from the first that counts."""
    promises = Promises()
    counts = not any(each in op.mark for op in ops for each in _STARTS)
    if counts:
        yield 0, promises
    for done, op in enumerate(ops, start=1):
        if op.kind == "mark":
            promises = promises.kept(op)
            counts = counts or any(each in op.mark for each in _STARTS)
        if counts:
            yield done, promises
