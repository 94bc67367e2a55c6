"""A process that does to one store, without end, what a store is for; and tells what it was promised."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from durability import crash_scenarios
from durability.crash_checks import Promises
from durability.crash_recording import Op
from durability.crash_scenarios import RUN, evict, save, started, tag, trash

from ckpt_tracker import Store
from ckpt_tracker.retention import Best, Last

_DEEDS = ("save", "save", "save", "evict", "trash", "tag", "gc", "empty", "rebuild", "reopen")


def work(path: Path, first: int, told: int) -> None:
    """Saves, evicts, trashes, tags, sweeps, rebuilds the index; `told` is the descriptor for its promises."""
    crash_scenarios.mark = lambda **details: os.write(told, json.dumps(details).encode() + b"\n")
    generator = random.Random(first)
    seed = first
    while True:
        with Store(path) as store:
            run = started(store, RUN)
            while (deed := generator.choice(_DEEDS)) != "reopen":
                seed += deed == "save"
                _do(deed, store, seed)
            del run


def _do(deed: str, store: Store, seed: int) -> None:
    run = store.run(RUN)
    if deed == "save":
        save(run, seed)
    elif not run.checkpoints():
        return
    elif deed == "evict":
        evict(store, run, Last(2) | Best(1, "loss", mode="min"))
    elif deed == "trash":
        trash(store, run, Last(3))
    elif deed == "tag":
        tag(run, f"t{seed % 3}")
    elif deed == "gc":
        store.gc()
    elif deed == "empty":
        store.empty_trash()
    else:
        store.index.path.unlink(missing_ok=True)
        store.index.rebuild()


_MOST_PROMISES = 9
_SECONDS = 0.03


class Busy:
    """The process, from its start to its end by SIGKILL."""

    def __init__(self, path: Path, first: int) -> None:
        self._lines, told = os.pipe()
        self.process = os.fork()
        if not self.process:
            try:
                os.close(self._lines)
                work(path, first, told)
            finally:
                os._exit(1)
        os.close(told)
        self._heard = b""

    def live(self, generator: random.Random) -> None:
        """Lets it come to some promises, and on into what it does then, by chance."""
        wanted = generator.randrange(_MOST_PROMISES)
        while self._heard.count(b"\n") < wanted and (more := os.read(self._lines, 4096)):
            self._heard += more
        time.sleep(generator.uniform(0, _SECONDS))

    def end(self) -> bool:
        """Kills it, wherever it is; False where it had ended by itself."""
        os.kill(self.process, signal.SIGKILL)
        _, status = os.waitpid(self.process, 0)
        return os.WIFSIGNALED(status)

    def told(self) -> list[dict[str, Any]]:
        """What it was promised; to be asked once, after its end."""
        with open(self._lines, "rb") as lines:
            heard = self._heard + lines.read()
        return [json.loads(line) for line in heard.splitlines(keepends=True) if line.endswith(b"\n")]


def kept(promises: Promises, told: list[dict[str, Any]]) -> Promises:
    """Those, and what a process was promised since."""
    for each in told:
        promises = promises.kept(Op("mark", mark=each))
    return promises


def held(path: Path) -> Promises:
    """What a store holds now, all of which it has to go on holding."""
    if not (path / "store.json").exists():
        return Promises()
    with Store(path) as store:
        runs = list(store.runs())
        saved = {run.name: dict(_seeds(store, run.name)) for run in runs}
        tags = {run.name: dict(run.record.tags) for run in runs}
    return Promises(saved, {run: max(versions, default=0) for run, versions in saved.items()}, tags)


def _seeds(store: Store, run: str) -> Iterator[tuple[int, int]]:
    for checkpoint in store.run(run).checkpoints():
        assert checkpoint.epoch is not None
        yield checkpoint.version, checkpoint.epoch
