"""SIGKILL at random moments, again and again: `python -m durability.kills FOLDER KILLS SEED`."""

from __future__ import annotations

import json
import logging
import random
import sys
import time
from pathlib import Path

from durability import crash_scenarios
from durability.busy import Busy, held, kept
from durability.crash_checks import after_collection, violations
from durability.crash_scenarios import RUN, save, started

from ckpt_tracker import Store
from ckpt_tracker.files import objects


def main(folder: Path, kills: int, seed: int) -> None:
    """Prints what was tried, and what went wrong, as JSON."""
    objects.SMALL = 64
    sys.argv = ["kills"]
    logging.disable(logging.CRITICAL)
    crash_scenarios.mark = lambda **told: None
    generator = random.Random(seed)
    with Store(folder / "warm") as store:
        # whatever is imported late is there when the others are forked
        save(started(store, RUN), 1)
        store.gc()
        violations(folder / "warm", held(folder / "warm"))
    path, acknowledged, longest, found = folder / "store", 0, 0.0, []
    for kill in range(kills):
        before = held(path)
        busy = Busy(path, 1000 * kill)
        busy.live(generator)
        assert busy.end(), "it ended by itself"
        told = busy.told()
        acknowledged += sum("saved" in each for each in told)
        begin = time.perf_counter()
        Store(path).close()
        longest = max(longest, time.perf_counter() - begin)
        problems = violations(path, kept(before, told), go_on=kill % 10 == 9)
        found += [f"kill {kill}: {each}" for each in problems]
    with Store(path) as store:
        found += after_collection(store)
    print(json.dumps({"kills": kills, "acknowledged": acknowledged, "longest opening": longest, "found": found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
