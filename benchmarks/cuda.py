"""From a CUDA device: how long the training is held up until its state may change, beside what the bus allows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from benchmarks.report import Findings, Settings, Table
from benchmarks.workloads import VOCABULARY, Gpt
from ckpt_tracker import Run, Store

TITLE = "Saving from a CUDA device"
_BATCH, _TOKENS = 8, 1024


class Training:
    """A GPT of 1.49 GB of state, in training on the device."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = Gpt().cuda()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)
        self._tokens = torch.randint(VOCABULARY, (_BATCH, _TOKENS + 1), device="cuda")
        self.step()

    def step(self, before_update: Callable[[], object] = lambda: None) -> None:
        """One step; when it returns the device has done it."""
        logits = self.model(self._tokens[:, :-1])
        functional.cross_entropy(logits.flatten(0, -2), self._tokens[:, 1:].flatten()).backward()
        before_update()
        self.optimizer.step()
        self.optimizer.zero_grad()
        torch.cuda.synchronize()

    def state(self) -> dict[str, Any]:
        """What is to be saved."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def tensors(self) -> list[torch.Tensor]:
        """What of it a step changes."""
        moments = [value for each in self.optimizer.state.values() for value in each.values()]
        return [*self.model.parameters(), *moments]


def measure(settings: Settings) -> Findings:
    """Needs a device."""
    training = Training()
    tensors = training.tensors()
    nbytes = sum(each.nbytes for each in tensors)
    times = settings.repetitions(9)
    flat = torch.empty(nbytes, dtype=torch.uint8, device="cuda")
    locked = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
    pageable = [torch.zeros(each.shape, dtype=each.dtype) for each in tensors]
    with Store(settings.folder / "store") as store:
        run = store.run("run")
        ways: dict[str, Callable[[], float]] = {
            "the bus: one copy into page-locked memory": lambda: _seconds(lambda: locked.copy_(flat)),
            "tensor by tensor into ordinary memory": lambda: _seconds(lambda: _copy(tensors, pageable)),
            "a capture": lambda: _seconds(lambda: run.discard(run.capture(training.state()))),
            "a step without a save": lambda: _seconds(training.step),
            "a step with an overlapped capture": lambda: _seconds(lambda: _overlapped(run, training)),
        }
        found = _interleaved(ways, times)
    bus = found["the bus: one copy into page-locked memory"]
    found["held up by an overlapped capture"] = (
        found["a step with an overlapped capture"] - found["a step without a save"]
    )
    rows = [[name, f"{1e3 * each:.1f}", f"{each / bus:.2f}"] for name, each in found.items()]
    note = (
        f"{nbytes / 1e6:.0f} MB in {len(tensors)} tensors on one {torch.cuda.get_device_name()}, torch "
        f"{torch.__version__}; medians of {times}, interleaved; the bus moves {nbytes / bus / 1e9:.1f} GB/s."
    )
    return Findings([Table("Until the state may change", ["what", "ms", "÷ bus"], rows, note)])


def _overlapped(run: Run, training: Training) -> None:
    steady = frozenset(each.data_ptr() for each in training.tensors())
    capture = run.capture(training.state(), steady=steady)

    def settle() -> None:
        settled, changed = run.settle(capture)
        if changed is not None:
            raise RuntimeError(changed)
        run.discard(settled)

    training.step(settle)


def _copy(tensors: list[torch.Tensor], targets: list[torch.Tensor]) -> None:
    for tensor, target in zip(tensors, targets, strict=True):
        target.copy_(tensor.detach())


def _seconds(action: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    action()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def _interleaved(ways: dict[str, Callable[[], float]], times: int) -> dict[str, float]:
    for way in ways.values():
        way()
    found = [{name: way() for name, way in ways.items()} for _ in range(times)]
    return {name: statistics.median(each[name] for each in found) for name in ways}
