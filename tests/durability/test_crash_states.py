"""Every disk that a power cut could leave: what was reported durable is there, bit for bit, and the store goes on."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from durability.crash_explorer import Exploration
from durability.crash_recording import record, why_not
from durability.crash_scenarios import KILLS, SCENARIOS

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
_AFTER_KILLS = [name for number, name in enumerate(KILLS) if number < 4 or number % 8 == 0]


@pytest.fixture
def fast(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Path]:
    """A folder where thousands of small stores cost little: in memory, where the system has such a place."""
    caplog.set_level(logging.CRITICAL, "ckpt_tracker")
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else tmp_path))
    yield folder
    shutil.rmtree(folder)


def _explored(folder: Path, jobs: list[str], *, limit: int) -> Exploration:
    exploration = Exploration(folder, limit)
    for job, ops in record(["-m", "durability.crash_scenarios", str(folder), *jobs], folder, folder / "trace"):
        exploration.explore(job, ops)
    return exploration


@pytest.mark.slow
def test_no_power_cut_loses_what_was_reported_durable(fast: Path) -> None:
    """In saves, evictions, removals, sweeps, rebuilds and starts, also where an earlier process was killed."""
    alone = [name for name in SCENARIOS if name not in KILLS]
    explored = _explored(fast, alone, limit=12)
    assert explored.found == []
    after = _explored(fast, _AFTER_KILLS, limit=2)
    assert after.found == []
    states = explored.states + after.states
    assert set(states) == {*alone, *_AFTER_KILLS}
    print(f"crashes {explored.crashes + after.crashes}, distinct states {states.total()}, violations 0")
    assert states.total() >= 10_000


def test_no_power_cut_in_a_first_save_loses_it(fast: Path) -> None:
    """The shortest of them, in every run of the tests."""
    explored = _explored(fast, ["first_save"], limit=4)
    assert explored.found == []
    assert explored.states.total() > 100
