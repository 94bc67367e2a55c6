"""A training whose DataLoader has workers: they neither hang it nor write, wait or unlock for it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ckpt_tracker import Store

SCRIPT = Path(__file__).parent / "scripts" / "workers.py"


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_workers_do_not_disturb_a_training(tmp_path, method):
    """However they are started, while checkpoints are being written: it ends, and each of its checkpoints is whole."""
    command = [sys.executable, "-W", "ignore", SCRIPT, tmp_path / "store", method]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stdout) == (0, "ended\n"), ended.stderr
    with Store(tmp_path / "store", create=False) as store:
        assert [each.step for each in store.run("run").checkpoints()] == [2, 4, 6, 8, 10, 12, 14, 16]
        assert [each.version for each in store.run("other").checkpoints()] == [1, 2]
        assert store.verify(deep=True).ok
        assert store.gc() == 0


def test_workers_that_live_on_do_not_keep_a_killed_trainings_run(tmp_path):
    """A fork holds copies of all descriptors: the kernel would keep the run's lock for it."""
    code = """
import os, sys
from ckpt_tracker import Store
store = Store(sys.argv[1])
run = store.run("r")
run.save({"model": {}}).wait()
worker = os.fork()
if not worker:
    print(os.getpid(), flush=True)
sys.stdin.read() if worker else os.read(int(sys.argv[2]), 1)
"""
    read, write = os.pipe()
    command = [sys.executable, "-c", code, tmp_path / "store", str(read)]
    training = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[read])
    worker = int(training.stdout.readline())
    training.kill()
    training.wait()
    try:
        os.kill(worker, 0)
        with Store(tmp_path / "store") as store:
            assert store.run("r").save({"model": {}}).wait().ref == "r@v2"
            assert store.gc() == 0
    finally:
        os.kill(worker, signal.SIGKILL)
        os.close(read)
        os.close(write)
        training.stdin.close()
        training.stdout.close()
