"""Memory that saving takes beside the training: the most of it, and whether it grows from save to save."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.report import Findings, Settings, Table

TITLE = "Memory"
LAYERS = 2


def measure(settings: Settings) -> Findings:
    """The process' largest resident size while it trains alone, after the first save, and after all."""
    from benchmarks import workloads
    from ckpt_tracker import Store
    from ckpt_tracker.retention import Last

    training = workloads.gpt(layers=LAYERS)
    saves = 10 if settings.quick else 50
    for _ in range(3):
        training.step()
    alone = _most_resident()
    marks = []
    with Store(settings.folder / "store") as store:
        run = store.run("bench")
        for _ in range(saves):
            run.save(training.state()).wait()
            training.step()
            store.evict(run.plan(Last(1)))
            marks.append(_most_resident() - alone)
    state = training.nbytes
    rows = [
        [f"after save {number}", f"{marks[number - 1] / 1e6:.0f}", f"{marks[number - 1] / state:.3f}"]
        for number in (1, 2, saves)
    ]
    note = f"A state of {state / 1e6:.0f} MB; the training alone had {alone / 1e6:.0f} MB resident at most (VmHWM)."
    columns = ["when", "MB beyond the training", "÷ state"]
    return Findings([Table("Most memory", columns, rows, note)], {"state": state, "beyond": marks})


def _most_resident() -> int:
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0
