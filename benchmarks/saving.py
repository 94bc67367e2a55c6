"""Large states: A, a GPT of 1.49 GB in training, and B, the same with nine tenths of it frozen."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import Findings, Settings, Table

TITLE = "Saving a large state"
ONE_CORE = True


def measure(settings: Settings) -> Findings:
    """Both workloads, one after the other."""
    from benchmarks import peers, workloads

    lean = {**peers.OURS, **peers.LEAN}
    only = os.environ.get("CKPT_BENCH_ONLY")
    makers = {name: peers.ALL[name] for name in only.split(";")} if only else peers.ALL
    whole = _workload(settings, "A: everything changes", workloads.gpt(), makers)
    frozen = {**lean, "DCP async": peers.ALL["DCP async"]}
    part = _workload(settings, "B: 90 % frozen", workloads.gpt(frozen=True), frozen)
    return Findings([whole[0], part[0]], {"A": whole[1], "B": part[1]})


def _workload(settings: Settings, title: str, training: Any, makers: Mapping[str, Any]) -> tuple[Table, dict[str, Any]]:
    from benchmarks import peers, timing

    folder = settings.folder / title[0]
    folder.mkdir()
    tools, missing = peers.start(makers, training, folder)
    watch = timing.Stopwatch(training, idle_steps=2)
    tensors = training.tensors()
    copying = _copying(tensors)
    found, failed = timing.interleaved(watch, tools, repetitions=settings.repetitions())
    copy = statistics.median(copying)
    nbytes = training.nbytes
    numbers = {name: _numbers(samples, copy, nbytes) for name, samples in found.items()}
    rows = [_row(name, each, durable=name in peers.DURABLE) for name, each in numbers.items()]
    note = (
        f"{nbytes / 1e6:.0f} MB in {len(tensors)} tensors; one warm copy of them takes {copy:.2f} s, and a step of the "
        f"training {watch.step_seconds:.2f} s. *stall* and *lost* as multiples of that copy; one core."
    )
    for name, why in {**missing, **failed}.items():
        note += f"\n\n{name} was left out: {why.splitlines()[0][:200]}"
    columns = [
        "tool",
        "stall s",
        "× copy",
        "lost s",
        "× copy",
        "lost, processor s",
        "done s",
        "stored ÷ state",
        "fsync",
    ]
    return Table(title, columns, rows, note), {"copy": copy, "tools": numbers}


def _copying(tensors: Sequence[Any]) -> list[float]:
    """Seconds to copy them once, into memory that has been written before."""
    import torch

    from benchmarks import timing

    copies = [torch.empty_like(each) for each in tensors]
    return timing.repeat(lambda: [to.copy_(each) for to, each in zip(copies, tensors, strict=True)], 7)


def _numbers(samples: Sequence[Any], copy: float, nbytes: int) -> dict[str, float]:
    from benchmarks.timing import median

    stall, lost = median(samples, "stall"), median(samples, "lost")
    return {
        "stall": stall,
        "stall_copies": stall / copy,
        "lost": lost,
        "lost_copies": lost / copy,
        "processor": median(samples, "processor"),
        "done": median(samples, "done"),
        "stored": median(samples, "stored") / nbytes,
    }


def _row(name: str, numbers: Mapping[str, float], *, durable: bool) -> list[str]:
    seconds = [f"{numbers[key]:.2f}" for key in ("stall", "stall_copies", "lost", "lost_copies", "processor", "done")]
    return [name, *seconds, f"{numbers['stored']:.2f}", "yes" if durable else "no"]


def plot(data: dict[str, Any], path: Path) -> None:
    """Stall and lost time of each tool, workload A."""
    import matplotlib.pyplot as plt

    tools = data["A"]["tools"]
    names = sorted(tools, key=lambda name: -tools[name]["lost"])
    figure, axes = plt.subplots(figsize=(9, 0.4 * len(names) + 1.5), layout="constrained")
    places = range(len(names))
    axes.barh(
        [place + 0.2 for place in places], [tools[name]["lost"] for name in names], 0.4, label="training time lost"
    )
    axes.barh([place - 0.2 for place in places], [tools[name]["stall"] for name in names], 0.4, label="stall")
    axes.axvline(data["A"]["copy"], color="grey", linestyle=":", label="one copy of the state")
    axes.set_yticks(list(places), names)
    axes.set_xlabel("seconds a save of 1.49 GB, one core")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
