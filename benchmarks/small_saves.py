"""Workload C: a state of 1 MB, saved 200 times; what the fixed costs of a save are."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.report import Findings, Settings, Table

TITLE = "Saving a small state"
ONE_CORE = True
BASE = "torch.save"


def measure(settings: Settings) -> Findings:
    """All tools in turn, save by save.

    Nothing is deleted: for minutes after that some file systems (ext4 without a journal) look at each deleted file
    whenever one is made, and it was those that were measured.
    """
    from benchmarks import peers, timing, workloads

    training = workloads.small()
    makers = {
        **peers.OURS,
        "ckpt_tracker, overlap": partial(peers.OursOverlapped, keep="every:1epoch"),
        **peers.LEAN,
        **{name: peers.ALL[name] for name in ("DCP", "Lightning", "ignite") if name in peers.ALL},
    }
    tools, missing = peers.start(makers, training, settings.folder)
    watch = timing.Stopwatch(training, idle_steps=10, between=False, clean=False)
    found, failed = timing.interleaved(watch, tools, repetitions=40 if settings.quick else 200)
    numbers = {
        name: {key: 1000 * timing.median(samples, key) for key in ("stall", "lost", "processor", "done")}
        for name, samples in found.items()
    }
    base = numbers[BASE]
    rows = [_row(name, each, base, durable=name in peers.DURABLE) for name, each in numbers.items()]
    note = f"{training.nbytes / 1e6:.1f} MB in {len(training.tensors())} tensors; milliseconds, medians; one core."
    for name, why in {**missing, **failed}.items():
        note += f"\n\n{name} was left out: {why.splitlines()[0][:200]}"
    columns = ["tool", "stall ms", f"÷ {BASE}", "lost ms", f"÷ {BASE}", "lost, processor ms", "done ms", "fsync"]
    return Findings([Table("C: 1 MB", columns, rows, note)], numbers)


def _row(name: str, numbers: dict[str, Any], base: dict[str, Any], *, durable: bool) -> list[str]:
    cells = [name]
    for key in ("stall", "lost"):
        cells += [f"{numbers[key]:.1f}", f"{numbers[key] / base['stall']:.2f}"]
    return [*cells, f"{numbers['processor']:.1f}", f"{numbers['done']:.1f}", "yes" if durable else "no"]
