"""How long a save holds the training up, and how much training time it takes until it is done."""

from __future__ import annotations

import gc
import os
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Wait = Callable[[], object]
"""Returns when the tool says that it is done."""


class Trains(Protocol):
    """What is trained."""

    def step(self) -> None:
        """One step."""


class Saves(Protocol):
    """A tool at work in one training."""

    def save(self, number: int) -> Wait | None:
        """Saves the training's state; None when all is done on return."""

    def clean(self, number: int) -> int:
        """Deletes what is not needed for the next save; returns how many bytes this one stored."""


@dataclass(frozen=True)
class Sample:
    """One save. Seconds."""

    stall: float
    """The call that saves."""
    lost: float
    """Training time lost until it was done."""
    processor: float
    """The same in processor time of this process: what others do on the machine is not in it."""
    done: float
    """Until the tool said that it was done."""
    stored: int
    """Bytes; 0 where nothing is cleaned."""


class Stopwatch:
    """Measures saves in one training; knows what its steps take when nothing is being saved."""

    def __init__(self, training: Trains, *, idle_steps: int, between: bool = True, clean: bool = True) -> None:
        """`between`: waits before each save until the disk has what was written before. `clean`: deletes after each."""
        self._training = training
        self._between = between
        self._clean = clean
        self._idle_steps = idle_steps
        self._idle: list[tuple[float, float]] = []

    @property
    def step_seconds(self) -> float:
        """A step while nothing is being saved, as of late."""
        return self._median(0)

    def sample(self, tool: Saves, number: int) -> Sample:
        """Saves once, and trains until it is done."""
        if self._between:
            gc.collect()
            os.sync()
        self._train_idle()
        started, processor = time.perf_counter(), time.process_time()
        wait = tool.save(number)
        stall = time.perf_counter() - started
        steps, done = self._train_until(wait) if wait else (0, started + stall)
        lost = time.perf_counter() - started
        used = time.process_time() - processor
        self._train_idle()
        stored = tool.clean(number) if self._clean else 0
        return Sample(
            stall,
            lost - steps * self._median(0),
            used - steps * self._median(1),
            done - started,
            stored,
        )

    def _train_until(self, wait: Wait) -> tuple[int, float]:
        done: list[float] = []
        errors: list[BaseException] = []

        def watch() -> None:
            try:
                wait()
            except BaseException as error:
                errors.append(error)
            done.append(time.perf_counter())

        watcher = threading.Thread(target=watch)
        watcher.start()
        steps = 0
        while not done:
            self._training.step()
            steps += 1
        watcher.join()
        if errors:
            raise errors[0]
        return steps, done[0]

    def _train_idle(self) -> None:
        for _ in range(self._idle_steps):
            started, processor = time.perf_counter(), time.process_time()
            self._training.step()
            self._idle.append((time.perf_counter() - started, time.process_time() - processor))
        del self._idle[: -4 * self._idle_steps]

    def _median(self, which: int) -> float:
        return statistics.median(each[which] for each in self._idle)


def interleaved(
    stopwatch: Stopwatch, tools: Mapping[str, Saves], *, repetitions: int
) -> tuple[dict[str, list[Sample]], dict[str, str]]:
    """Goes through all tools in turn, once to warm up and then that often; with what failed, and how."""
    found: dict[str, list[Sample]] = {name: [] for name in tools}
    failed: dict[str, str] = {}
    for number in range(repetitions + 1):
        for name, tool in tools.items():
            if name in failed:
                continue
            try:
                sample = stopwatch.sample(tool, number)
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {error}"
                continue
            if number:
                found[name].append(sample)
    return {name: samples for name, samples in found.items() if name not in failed}, failed


def median(samples: Sequence[Any], name: str) -> float:
    """The median of one of the samples' numbers."""
    return statistics.median(getattr(each, name) for each in samples)


def repeat(action: Callable[[], object], times: int) -> list[float]:
    """Seconds of each call, after one to warm up."""
    action()
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return seconds
