"""Each step of the protocol is needed, and the exploration would notice its loss."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from durability.crash_explorer import Exploration
from durability.crash_mutations import MUTATIONS
from durability.crash_recording import Op, environment, record, why_not

from ckpt_tracker import Store

_RECORDABLE = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture(scope="module")
def fast() -> Iterator[Path]:
    """A folder for the stores, in memory where the system has such a place."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def recorded(fast: Path) -> dict[str, list[Op]]:
    """What each scenario does without its step."""
    jobs = [f"{mutation.scenario}+{step}" for step, mutation in MUTATIONS.items()]
    found = record(["-m", "durability.crash_scenarios", str(fast), *jobs], fast, fast / "trace")
    return {job.partition("+")[2]: ops for job, ops in found}


@_RECORDABLE
@pytest.mark.parametrize("step", MUTATIONS)
def test_a_step_left_out_is_noticed(
    step: str, recorded: dict[str, list[Op]], fast: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Some power cut then breaks a promise."""
    caplog.set_level(logging.CRITICAL, "ckpt_tracker")
    exploration = Exploration(fast, limit=24)
    exploration.explore(MUTATIONS[step].scenario, recorded[step], until_found=True)
    shutil.rmtree(fast / "disk", ignore_errors=True)
    assert exploration.found


# A save stops between its objects and its manifest; a sweep comes meanwhile, and is given its time.
RACE = """
import os, sys
import numpy as np
from ckpt_tracker import Store, run_writer
from durability.crash_mutations import no_lock

if sys.argv[2] == "without lock":
    no_lock()
publish = run_writer.manifests.publish

def late(*arguments, **more):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        with Store(sys.argv[1]) as store:
            with store.lock.sweeping(wait=False) as alone:
                os.write(write, b"in" if alone else b"out")
            if alone:
                store.gc()
        os._exit(0)
    os.waitpid(child, 0)
    print(os.read(read, 3).decode())
    publish(*arguments, **more)

run_writer.manifests.publish = late
with Store(sys.argv[1]) as store:
    store.run("r").save({"model": {"w": np.arange(9)}}).wait()
"""


@pytest.mark.parametrize(("lock", "sweep"), [("with lock", "out"), ("without lock", "in")])
def test_a_sweep_in_the_middle_of_a_save_has_to_wait(lock: str, sweep: str, tmp_path: Path) -> None:
    """Without the lock it deletes the objects that the manifest is about to need."""
    command = [sys.executable, "-c", RACE, str(tmp_path / "store"), lock]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, env=environment(), cwd=tmp_path)
    assert ended.stdout.split() == [sweep]
    with Store(tmp_path / "store") as store:
        assert store.verify(deep=True).ok == (lock == "with lock")
    assert os.path.exists(tmp_path / "store" / "store.json")
