"""Restoring workload A into a live model and optimizer, from a warm page cache and from a cold one."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.report import Findings, Settings, Table

TITLE = "Restoring a large state"
BASE = "torch.load"


def measure(settings: Settings) -> Findings:
    """Each way of restoring in turn; every restored state is passed over once, within the time."""
    from benchmarks import workloads

    training = workloads.gpt()
    ways = _ways(training, settings.folder)
    samples: dict[str, dict[str, list[tuple[float, float]]]] = {name: {"warm": [], "cold": []} for name in ways}
    for number in range(settings.repetitions() + 1):
        # each in turn is the first
        first = number % len(ways)
        for name in [*ways][first:] + [*ways][:first]:
            restore = ways[name]
            _make_cold(settings.folder)
            cold, warm = _timed(restore, training), _timed(restore, training)
            if number:
                samples[name]["cold"].append(cold)
                samples[name]["warm"].append(warm)
    numbers = {
        name: {
            f"{state}{what}": statistics.median(each[which] for each in taken)
            for state, taken in found.items()
            for which, what in enumerate(("", "_processor"))
        }
        for name, found in samples.items()
    }
    base = numbers[BASE]
    rows = [
        [name, *(f"{each[key]:.2f}" for key in ("warm", "warm_processor", "cold")), *_ratios(each, base)]
        for name, each in numbers.items()
    ]
    note = (
        "Into a live model and its optimizer, whose state is there; one pass over the restored state is in each time. "
        "*cold*: the files were put out of the page cache. ckpt_tracker checks every byte against its hash. All cores, "
        "as when a training starts; *processor* tells what several of them did together."
    )
    columns = ["way", "warm s", "warm, processor s", "cold s", f"warm ÷ {BASE}", f"cold ÷ {BASE}"]
    return Findings([Table("1.49 GB", columns, rows, note)], numbers)


def _ways(training: Any, folder: Path) -> dict[str, Callable[[], None]]:
    import torch
    from safetensors.torch import load_file, save_file

    from benchmarks.peers import flat
    from ckpt_tracker import Store

    def put(state: Mapping[str, Any]) -> None:
        training.model.load_state_dict(state["model"])
        training.optimizer.load_state_dict(state["optimizer"])

    state = training.state()
    torch.save(state, folder / "state.pt")
    save_file(flat(state["model"]), folder / "model.safetensors")
    save_file(flat(state["optimizer"]), folder / "optimizer.safetensors")
    groups = state["optimizer"]["param_groups"]

    def from_safetensors() -> None:
        moments: dict[int, dict[str, Any]] = {}
        for path, each in load_file(folder / "optimizer.safetensors").items():
            _, number, name = path.split(".")
            moments.setdefault(int(number), {})[name] = each
        put(
            {
                "model": load_file(folder / "model.safetensors"),
                "optimizer": {"state": moments, "param_groups": groups},
            }
        )

    checkpoint = Store(folder / "store").run("bench").save(state).wait()
    return {
        "ckpt_tracker, load(into=)": lambda: put(checkpoint.load(into=training.state())),
        "ckpt_tracker, load()": lambda: put(checkpoint.load()),
        BASE: lambda: put(torch.load(folder / "state.pt")),
        "safetensors": from_safetensors,
    }


def _timed(restore: Callable[[], None], training: Any) -> tuple[float, float]:
    started, processor = time.perf_counter(), time.process_time()
    restore()
    for each in training.tensors():
        each.sum()
    return time.perf_counter() - started, time.process_time() - processor


def _make_cold(folder: Path) -> None:
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def _ratios(each: Mapping[str, float], base: Mapping[str, float]) -> list[str]:
    return [f"{each[key] / base[key]:.2f}" for key in ("warm", "cold")]
