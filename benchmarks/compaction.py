"""Workload D: what series of real checkpoints take after `ckpt compact`, and how fast they come back."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report import Findings, Settings, Table

if TYPE_CHECKING:
    from benchmarks.series import Make
    from ckpt_tracker import Store

TITLE = "Bytes after `ckpt compact`"
TARGETS = {
    "MiniLM fine-tuned, fp32": 0.50,
    "MiniLM fine-tuned, bf16": 0.28,
    "MiniLM, encoder frozen": 0.13,
    "MiniLM, LoRA": 0.13,
    "GPT from scratch": 0.81,
    "CNN from scratch": 0.81,
}


def measure(settings: Settings) -> Findings:
    """Each series, saved by the tracker's store and by torch.save, then compacted and loaded."""
    from benchmarks import series

    steps = int(os.environ.get("CKPT_BENCH_STEPS") or (2 if settings.quick else 10))
    only = os.environ.get("CKPT_BENCH_ONLY")
    rows, data, missing = [], {}, []
    for name, make in series.ALL.items():
        if only and name not in only.split(";"):
            continue
        try:
            found = data[name] = _series(settings, make, settings.folder / name.replace(" ", "-"), steps)
        except ImportError as error:
            missing.append(f"{name} was left out: {error}")
            continue
        rows.append(_row(name, found))
    note = (
        f"{series.EPOCHS} epochs of {steps} steps (four times as many from scratch), model and AdamW saved after each. "
        "*restored*: raw bytes a second of the processor time of one thread that reads and verifies every tensor of a "
        "checkpoint out of a warm cache; of the slowest checkpoint, median of its repetitions. *encoded*: likewise, "
        "with all that is read, checked, synced and read back."
    )
    columns = [
        "series",
        "torch.save, MB",
        "stored ÷ torch.save",
        "compacted ÷ torch.save",
        "target",
        "encoded, MB/s",
        "restored, MB/s",
        "restored before, MB/s",
    ]
    return Findings([Table("Workload D", columns, rows, "\n\n".join([note, *missing]))], data)


def _row(name: str, found: dict[str, float]) -> list[str]:
    return [
        name,
        f"{found['torch_save'] / 1e6:.0f}",
        f"{found['stored'] / found['torch_save']:.2f}",
        f"{found['compacted'] / found['torch_save']:.3f}",
        f"≤ {TARGETS[name]:.2f}",
        f"{found['encoded_rate'] / 1e6:.0f}",
        f"{found['restored_rate'] / 1e6:.0f}",
        f"{found['raw_rate'] / 1e6:.0f}",
    ]


def _series(settings: Settings, make: Make, folder: Path, steps: int) -> dict[str, float]:
    import shutil

    import torch

    from ckpt_tracker import Store

    saved = 0
    try:
        with Store(folder) as store:
            run = store.run("series")
            for epoch, state in enumerate(make(steps)):
                torch.save(state, folder.with_suffix(".pt"))
                saved += folder.with_suffix(".pt").stat().st_size
                run.save(state, epoch=epoch).wait()
            found: dict[str, float] = {"torch_save": saved, "stored": _on_disk(store)}
            found["raw_rate"] = _restored_rate(store, settings.repetitions())
            plan = store.plan_compaction()
            raw = sum(step.nbytes for step in plan.steps)
            started = time.process_time()
            store.compact(plan, threads=1)
            found["encoded_rate"] = raw / (time.process_time() - started)
            found["compacted"] = _on_disk(store)
            found["restored_rate"] = _restored_rate(store, settings.repetitions())
            if not store.verify(deep=True).ok:
                raise RuntimeError("the compacted store does not verify")
        return found
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".pt").unlink(missing_ok=True)


def _on_disk(store: Store) -> int:
    """All bytes of the store but those of its index, which is a cache."""
    files = (each for each in store.path.rglob("*") if each.is_file() and not each.name.startswith("index.sqlite"))
    return sum(each.stat().st_size for each in files)


def _restored_rate(store: Store, repetitions: int) -> float:
    """Of the checkpoint that takes longest."""
    return min(_rate(store, version, repetitions) for version in _versions(store))


def _versions(store: Store) -> Iterator[int]:
    """A keyframe, and what stands on it."""
    numbers = [each.version for each in store.run("series").checkpoints()]
    yield from (numbers[0], numbers[len(numbers) // 2], numbers[min(7, len(numbers) - 1)])


def _rate(store: Store, version: int, repetitions: int) -> float:
    import statistics

    from ckpt_tracker.files import manifest

    found = manifest.read(store.layout.manifests("series"), version, run="series")
    took = []
    for _ in range(repetitions + 1):
        started = time.thread_time()
        for index, entry in enumerate(found.tensors):
            store.objects.read(entry, ref=found.record.ref, name=index)
        took.append(time.thread_time() - started)
    return found.record.nbytes / statistics.median(took[1:])


def plot(data: dict[str, Any], path: Path) -> None:
    """A bar a series: what is left of torch.save's bytes, and the target."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3.5), layout="constrained")
    names = list(data)[::-1]
    left = [data[name]["compacted"] / data[name]["torch_save"] for name in names]
    axes.barh(
        names, [data[name]["stored"] / data[name]["torch_save"] for name in names], color="#d0d7de", label="saved"
    )
    axes.barh(names, left, color="#1f77b4", label="after ckpt compact")
    axes.plot([TARGETS[name] for name in names], names, "k|", markersize=16, label="target")
    axes.set_xlabel("bytes on the disk ÷ torch.save of every epoch")
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
