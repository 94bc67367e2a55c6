"""For the tests of trainings: `assert_exact_resume`. Needs no pytest."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ckpt_tracker.exact_resume.proof import Options, try_out
from ckpt_tracker.exact_resume.report import Report


def assert_exact_resume(
    command: Sequence[str | os.PathLike[str]],
    *,
    kill_after: int | None = None,
    runs: int = 1,
    seed: int = 0,
    timeout: float | None = None,
) -> Report:
    """Fails unless the script, killed and started again, saves bit for bit what it saves when nobody kills it.

    `command` starts it: `[sys.executable, "train.py"]`. It is started twice in one go, then killed and restarted `runs`
    times: once `kill_after` checkpoints are durable, or at random moments chosen by `seed`. `timeout` is in seconds,
    for each start. Its stores are temporary. Raises AssertionError with what differs, and why; InvalidOption.
    """
    options = Options(kill_after=kill_after, runs=runs, seed=seed, timeout=timeout)
    with tempfile.TemporaryDirectory(prefix="ckpt-trial-") as folder:
        report = try_out([os.fspath(each) for each in command], Path(folder), options)
    if not report.ok:
        raise AssertionError(report.text())
    return report
