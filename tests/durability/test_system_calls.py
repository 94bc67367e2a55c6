"""Every system call that changes something fails once: what was asked for is done and right, or an error says so."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from durability.crash_recording import environment, why_not
from durability.fault_injection import FAULTS

# all of them take some minutes longer
STEP = "1" if os.environ.get("CKPT_TRACKER_TESTS") == "full" else "4"
pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture
def fast(tmp_path: Path) -> Iterator[Path]:
    """A folder for the stores, in memory where the system has such a place."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else tmp_path))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_call_that_fails_is_never_silent(fast: Path, fault: str) -> None:
    """In saves, evictions, removals, sweeps, tags, rebuilds, starts, in the training's thread and in the writer's:
    what was reported is there, no descriptor and no scratch file leaks, and the store goes on.
    """
    command = [sys.executable, "-m", "durability.fault_injection", str(fast), fault, STEP]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, env=environment(), cwd=fast)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    print(f"{fault}: {told['tried']} calls")
    assert told["found"] == []
    assert told["tried"] > 300
