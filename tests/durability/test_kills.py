"""A thousand SIGKILLs: whatever a process was doing, what it had been promised is there, and nothing else is left."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from durability.crash_recording import environment

KILLS = 500


@pytest.fixture
def fast(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where the system has such a place: a killed process leaves its files in any case."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else tmp_path))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_kills_lose_nothing_that_was_reported_durable(fast: Path, seed: int) -> None:
    """500 each, in saves, evictions, removals, tags, sweeps, rebuilds, starts; after each the store is opened, every
    checkpoint loaded, and every tenth time another one saved and what nobody needs collected.
    """
    command = [sys.executable, "-m", "durability.kills", str(fast), str(KILLS), str(seed)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, env=environment(), cwd=fast)
    told = json.loads(ended.stdout)
    print(told)
    assert told["found"] == []
    assert told["kills"] == KILLS
    assert told["acknowledged"] > KILLS // 2
