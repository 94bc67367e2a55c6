"""Does with a store what people do, in a process that may not take much memory, and tells what came of it.

    python -m durability.hostile_visitor

Reads the paths of stores, a line each, and forks for each of them; answers with one line of JSON.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ckpt_tracker import Store
from ckpt_tracker.errors import CkptTrackerError

# what is imported late; here once for all forks
for name in ("cli.app", "index.migrations", "inspection.repair", "retention.reclaim", "run_writer"):
    importlib.import_module(f"ckpt_tracker.{name}")
ALLOWANCE = 256 * 2**20
SECONDS = 30
CANARY = Path("canary")


def sing() -> None:
    """Code ran that nobody called."""
    CANARY.touch()


class Trap(collections.namedtuple("Trap", ["w"])):  # noqa: PYI024
    """A named tuple that sings when it is called."""

    def __new__(cls, *given: object, **named: object) -> Any:
        sing()
        return super().__new__(cls, *given, **named)  # type: ignore[arg-type]


@dataclasses.dataclass
class Snare:
    """A dataclass that sings when it is made, changed or asked for a class inside it."""

    w: int = 0

    def __post_init__(self) -> None:
        sing()

    def __setattr__(self, name: str, value: object) -> None:
        sing()


class Pit(enum.Enum):
    """An enum that sings for values that it does not have."""

    ONE = 1

    @classmethod
    def _missing_(cls, value: object) -> Pit | None:
        sing()
        return None


class Decoy:
    """What sings when an attribute is asked for."""

    @property
    def inside(self) -> type:
        sing()
        return Snare

    def __getattr__(self, name: str) -> object:
        sing()
        raise AttributeError(name)


decoy = Decoy()


def visit(path: str) -> dict[str, Any]:
    """What each step came to: `None`, or the kind of error and its message; and what the neighbour's weights are."""
    told: dict[str, Any] = {}
    store = attempt(told, "open", lambda: Store(path))
    if isinstance(store, Store):
        attempt(told, "neighbour", lambda: told.update(weights=store["good@v1"].load("model")["w"].tolist()))
        attempt(told, "find", lambda: store["r@v1"])
        attempt(told, "load", lambda: repr(store["r@v1"].load())[:100])
        attempt(told, "verify", lambda: _findings(store))
        attempt(told, "save", lambda: store.run("r").save({"model": {"w": np.ones(3)}}, epoch=9).wait().load())
        attempt(told, "evict", lambda: store.evict(store.run("r").plan("last:1")))
        attempt(told, "gc", store.gc)
        attempt(told, "list", lambda: [each.record for run in store.runs() for each in run.checkpoints()])
        attempt(told, "close", store.close)
    return told


def attempt(told: dict[str, Any], step: str, action: Callable[[], object]) -> object:
    """Does it; an error of ours is told with its message, and any other one as a crash."""
    try:
        done = action()
        told[step] = done if isinstance(done, list) and step == "verify" else None
        return done
    except CkptTrackerError as error:
        told[step] = [type(error).__name__, str(error)]
    except BaseException as error:
        told[step] = ["crash", f"{type(error).__name__}: {str(error)[:300]}"]
    return None


def _findings(store: Store) -> list[str]:
    return ["findings", " | ".join(finding.problem[:300] for finding in store.verify(deep=True).findings)]


def limit() -> None:
    """From here on: so much memory more, and so many seconds."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + ALLOWANCE
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    signal.alarm(SECONDS)


def main() -> None:
    """Answers until there are no more questions."""
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            limit()
            print(json.dumps(visit(line.rstrip("\n"))), flush=True)
            os._exit(0)
        status = os.waitpid(process, 0)[1]
        if status:
            print(json.dumps({"died": status}), flush=True)


if __name__ == "__main__":
    main()
