"""The index at scale: questions against its size, and what a large store takes to open, catch up, plan and sweep."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import synthetic
from benchmarks.report import Findings, Settings, Table
from ckpt_tracker import Store
from ckpt_tracker.files.catching_up import bring_up_to_date
from ckpt_tracker.index.database import Index
from ckpt_tracker.records import Monitor, RunRecord

TITLE = "Index"
ROWS = (1_000, 10_000, 100_000, 1_000_000)
"""Of metrics: ten a checkpoint."""
RUNS = 10
MONITOR = Monitor(synthetic.METRICS[3], "min")
QUESTIONS: dict[str, Callable[[Index], object]] = {
    "best of a run": lambda index: index.best("run-00003", MONITOR),
    "last of a run": lambda index: index.last("run-00003"),
    "best of the store": lambda index: index.best_of_all(MONITOR),
    "last of the store": lambda index: index.page(limit=1),
    "page of 10, a run": lambda index: index.page("run-00003", limit=10),
    "page of 50, the store": lambda index: index.page(limit=50),
}
_KEEP = "last:3 best:5 every:100epochs within:30days:day"
_LATER = 3600.0


def measure(settings: Settings) -> Findings:
    """All of it, in a few minutes."""
    sizes = ROWS[:3] if settings.quick else ROWS
    latencies = _latencies(settings, sizes)
    rows = [
        [name, *(f"{1e6 * times[size]:.0f}" for size in sizes), f"{times[sizes[-1]] / times[sizes[0]]:.1f}"]
        for name, times in latencies.items()
    ]
    note = "Microseconds, medians. A page is read as records, with metrics, tags and pins."
    questions = Table(
        "Questions by rows of metrics", ["", *(f"{size:,}" for size in sizes), "last ÷ first"], rows, note
    )
    data = {"sizes": sizes, "seconds": {name: list(times.values()) for name, times in latencies.items()}}
    return Findings([questions, _large(settings), _sweep(settings), _processes(settings)], data)


def plot(data: dict[str, Any], path: Path) -> None:
    """Latency against size."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name, seconds in data["seconds"].items():
        axes.loglog(data["sizes"], [1e6 * each for each in seconds], marker="o", label=name)
    axes.set(xlabel="rows of metrics", ylabel="microseconds", ylim=(1, 1e5))
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _latencies(settings: Settings, sizes: tuple[int, ...]) -> dict[str, dict[int, float]]:
    """Question → rows → seconds; the sizes take turns."""
    indexes = {size: _index(settings.folder / f"{size}.sqlite", size // len(synthetic.METRICS)) for size in sizes}
    found: dict[str, dict[int, list[float]]] = {name: {size: [] for size in sizes} for name in QUESTIONS}
    for _ in range(settings.repetitions(30)):
        for name, ask in QUESTIONS.items():
            for size, index in indexes.items():
                for _ in range(5):
                    found[name][size].append(_seconds(lambda ask=ask, index=index: ask(index)))  # type: ignore[misc]
    for index in indexes.values():
        index.close()
    return {name: {size: statistics.median(each) for size, each in times.items()} for name, times in found.items()}


def _index(path: Path, checkpoints: int) -> Index:
    def fill(index: Index) -> None:
        by_run: dict[str, list[Any]] = {}
        for record in synthetic.records(checkpoints, runs=RUNS):
            by_run.setdefault(record.run, []).append(record)
        for run, records in by_run.items():
            index.catch_up(RunRecord(run, records[0].created_at), removed=(), added=records)

    index = Index(path, fill=fill)  # type: ignore[arg-type]
    index.run_names()
    return index


def _large(settings: Settings) -> Table:
    checkpoints, runs = (5_000, 10) if settings.quick else (100_000, 100)
    path = settings.folder / "store"
    size = synthetic.make_store(path, checkpoints, runs=runs)
    synthetic.make_objects(path, checkpoints, runs=runs, spare=0)
    with Store(path) as store:
        rebuild = _seconds(store.index.rebuild)
        bring_up_to_date(store.index, store.layout, now=time.time() + _LATER)
        opening = statistics.median(_seconds(lambda: Store(path).close()) for _ in range(settings.repetitions(9)))
        catching_up = statistics.median(_catch_up(store, opening) for _ in range(settings.repetitions(5)))
        plan = statistics.median(_seconds(lambda: store.plan(_KEEP)) for _ in range(settings.repetitions(3)))
        counting = _seconds(lambda: store.plan(_KEEP).freed_bytes) - plan
    rows = [
        ["opening it, nothing changed", f"{1e3 * opening:.1f} ms"],
        ["catching up one new manifest, beyond opening", f"{1e3 * catching_up:.1f} ms"],
        ["rebuilding its index", f"{checkpoints / rebuild:,.0f} manifests/s"],
        [f"plan `{_KEEP}`", f"{plan:.2f} s"],
        ["counting the bytes that the plan frees", f"{counting:.1f} s"],
    ]
    return Table(f"A store of {checkpoints:,} checkpoints in {runs} runs, manifests of {size:,} bytes", ["", ""], rows)


def _sweep(settings: Settings) -> Table:
    checkpoints, own, spare = (500, 8, 1_000) if settings.quick else (10_000, 90, 99_990)
    path = settings.folder / "swept"
    synthetic.make_store(path, checkpoints, runs=RUNS, own=own)
    objects = synthetic.make_objects(path, checkpoints, runs=RUNS, spare=spare, own=own)
    with Store(path) as store:
        sweep = _seconds(store.gc)
    row = [f"gc over {objects:,} objects of {checkpoints:,} checkpoints; {spare:,} go", f"{sweep:.1f} s"]
    return Table("A store of many objects", ["", ""], [row])


def _catch_up(store: Store, opening: float) -> float:
    """A manifest that the index was not told of: what opening takes more, in a process that has opened one before."""
    last = store.run("run-00003").last().record
    record = replace(last, version=last.version + 1, stored_bytes=0)
    synthetic.write_manifest(store.layout.manifests(record.run), record)
    elapsed = _seconds(lambda: Store(store.path).close())
    bring_up_to_date(store.index, store.layout, now=time.time() + _LATER)
    return elapsed - opening


def _processes(settings: Settings) -> Table:
    count = 1_000 if settings.quick else 10_000
    path = settings.folder / "listed"
    synthetic.make_store(path, count, runs=RUNS)
    Store(path).close()
    commands = {
        "ckpt --help": ["--help"],
        f"ckpt ls --store, {count:,} checkpoints": ["ls", "--store", str(path)],
        f"ckpt best, {count:,} checkpoints": ["best", "run-00003", "--store", str(path)],
        "python -c pass": [],
    }
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(settings.repetitions(7)):
        for name, arguments in commands.items():
            command = (
                [sys.executable, "-m", "ckpt_tracker", *arguments] if arguments else [sys.executable, "-c", "pass"]
            )
            found[name].append(
                _seconds(lambda command=command: subprocess.run(command, check=True, capture_output=True))  # type: ignore[misc]
            )
    rows = [[f"`{name}`", f"{1e3 * statistics.median(each):.0f}"] for name, each in found.items()]
    return Table("Whole processes", ["", "ms"], rows)


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
