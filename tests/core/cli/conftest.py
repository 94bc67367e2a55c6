"""A store as trainings leave it, and two ways to run `ckpt`: in this process, and in one of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from ckpt_tracker import Store
from ckpt_tracker.cli.app import ckpt as group
from ckpt_tracker.tracker import Tracker

LOSSES = (0.5, 0.25, float("nan"))
CONFIG = {"lr": 0.001, "layers": [64, 32]}


def state(epoch: int) -> dict[str, object]:
    """A frozen encoder of 80 kB, and a head that changes."""
    encoder = np.arange(20_000, dtype=np.float32)
    head = np.full(4, epoch, dtype=np.float32)
    return {
        "model": {"encoder.weight": encoder, "head.weight": head, "head.scale": 2.5},
        "optimizer": {"lr": 0.1, "moments": [np.zeros(4), np.ones(4)]},
    }


@pytest.fixture
def mnist(path: Path) -> Path:
    """A store of two runs: `mnist`, monitored and finished, with three checkpoints; `gan`, which monitors nothing."""
    tracker = Tracker(path, "mnist", monitor="val_loss", mode="min", keep="last:10", config=CONFIG)
    tracker.begin()
    for epoch, loss in enumerate(LOSSES):
        metrics = {"acc": epoch / 10, "val_loss": loss}
        tracker.save(state(epoch), epoch=epoch, step=10 * epoch + 10, metrics=metrics, reason="1 epoch")
    tracker.close(finished=True)
    with Store(path) as store:
        run = store.run("mnist")
        run.tag("paper", store["mnist@v1"])
        models = {"G": {"weight": np.ones((2, 3))}, "D": {"weight": np.zeros(3, dtype=np.int64)}}
        store.run("gan").save({"model": models}, metrics={"fid": 7.0})
    return path


@pytest.fixture
def ckpt() -> Callable[..., Result]:
    """Runs `ckpt` in this process; its output goes into a pipe."""

    def run(*arguments: object, env: Mapping[str, str] | None = None) -> Result:
        return CliRunner().invoke(group, [*map(str, arguments)], prog_name="ckpt", env=env, catch_exceptions=False)

    return run


@pytest.fixture
def ckpt_process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python -m ckpt_tracker` to its end."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ckpt_tracker", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return run
