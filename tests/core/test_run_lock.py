"""A run is written by one training at a time, and the kernel frees its lock when that one dies."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckpt_tracker import Store
from ckpt_tracker.disk.filesystem import FileLock, StoreLock
from ckpt_tracker.errors import RunBusy, SaveFailed

Start = Callable[..., Any]
STATE = {"loop": {"epoch": 1}}

HOLD = """
    import sys
    from ckpt_tracker import Store
    store = Store(sys.argv[1])
    print(store.run("r").save({"loop": {}}).wait().ref, flush=True)
    sys.stdin.readline()
    store.close()
    print("closed", flush=True)
    sys.stdin.readline()
"""


def test_a_second_training_on_one_run_is_refused(start: Start, path: Path) -> None:
    """The message names the process that has it, and what can be done."""
    first = start(HOLD, path)
    assert first.line() == "r@v1"
    with Store(path) as store:
        process = rf"\(process {first.popen.pid}\): wait for it, stop it, or give this training another run name"
        with pytest.raises(RunBusy, match=process):
            store.run("r").save(STATE)
        assert [each.ref for each in store.run("r").checkpoints()] == ["r@v1"]


def test_the_lock_of_a_killed_training_is_free(start: Start, path: Path) -> None:
    """No lock is ever stale."""
    first = start(HOLD, path)
    first.line()
    first.kill()
    with Store(path) as store:
        assert store.run("r").save(STATE).wait().ref == "r@v2"


def test_closing_a_store_gives_its_runs_back(start: Start, path: Path) -> None:
    """The process itself may live on."""
    first = start(HOLD, path)
    first.line()
    first.tell("close")
    assert first.line() == "closed"
    with Store(path) as store:
        assert store.run("r").save(STATE).wait().ref == "r@v2"


def test_reading_a_run_needs_no_lock(start: Start, path: Path) -> None:
    """Others look on while a training writes."""
    first = start(HOLD, path)
    first.line()
    with Store(path) as store:
        assert store["r@last"].load() == {"loop": {}}
        assert store.verify(deep=True).ok
        store.run("r").tag("seen")


def test_another_run_of_the_store_is_free(start: Start, path: Path) -> None:
    """Locks are of runs."""
    first = start(HOLD, path)
    first.line()
    with Store(path) as store:
        assert store.run("s").save(STATE).wait().ref == "s@v1"


def test_a_second_store_of_the_same_process_is_refused_too(path: Path) -> None:
    """Until the first one is closed."""
    with Store(path) as first, Store(path) as second:
        first.run("r").save(STATE)
        with pytest.raises(RunBusy):
            second.run("r").save(STATE)
        first.close()
        assert second.run("r").save(STATE).version == 2


def test_a_store_that_nobody_holds_any_more_gives_its_runs_back(path: Path) -> None:
    """A notebook's cell is run again without closing anything."""

    def cell() -> int:
        return Store(path).run("r").save(STATE).wait().version

    versions = [cell() for _ in range(3)]
    Store(path).close()
    assert versions == [1, 2, 3]


FORK = """
    import os, signal, sys
    from ckpt_tracker import Store
    store = Store(sys.argv[1])
    run = store.run("r")
    run.save({"loop": {}}).wait()
    child = os.fork()
    if not child:
        os.read(0, 1)  # until the test is done
        os._exit(0)
    print(child, flush=True)
    signal.pause()
"""


def test_a_forked_child_does_not_keep_the_lock(start: Start, path: Path) -> None:
    """A worker that outlives its killed training is no training."""
    first = start(FORK, path)
    child = int(first.line())
    first.popen.kill()
    first.popen.wait()
    with Store(path) as store:
        assert store.run("r").save(STATE).wait().ref == "r@v2"
    os.kill(child, 0)  # it is still there


def test_a_forked_child_can_not_save_for_its_parent(python: Callable[..., str], path: Path) -> None:
    """It says so instead of waiting for a thread that it doesn't have; the parent goes on."""
    output = python(
        """
        import os, sys
        import numpy as np
        from ckpt_tracker import Store
        with Store(sys.argv[1]) as store:
            run = store.run("r")
            run.save({"model": {"w": np.ones(5_000_000)}})
            child = os.fork()
            if not child:
                try:
                    run.save({"loop": {}})
                except Exception as error:
                    print(type(error).__name__, error, flush=True)
                os._exit(0)
            os.waitpid(child, 0)
            print(run.save({"loop": {}}).wait().ref)
        """,
        path,
    )
    refused, parents = output.split("\n")
    assert refused == f"{SaveFailed.__name__} run 'r' was not saved: a forked process can't save for its parent"
    assert parents == "r@v2"


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    """Until it is released; asking without waiting tells."""
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.acquire(wait=False)
    assert not second.acquire(wait=False)
    first.release()
    assert second.acquire(wait=False)
    assert (first.held, second.held) == (False, True)
    second.release()


def test_a_shared_lock_is_held_by_many(tmp_path: Path) -> None:
    """And keeps out who wants it alone."""
    first, second, alone = (FileLock(tmp_path / "lock") for _ in range(3))
    assert first.acquire(shared=True, wait=False)
    assert second.acquire(shared=True, wait=False)
    assert not alone.acquire(wait=False)
    first.release()
    second.release()
    assert alone.acquire(wait=False)
    alone.release()


def test_a_sweep_waits_for_writers_and_writers_for_the_sweep(tmp_path: Path) -> None:
    """Writers share the store; the sweep has it alone."""
    lock = StoreLock(tmp_path)
    with lock.writing(), lock.writing(), lock.sweeping(wait=False) as alone:
        assert not alone
    with lock.sweeping(wait=False) as alone:
        assert alone
        with lock.sweeping(wait=False) as second:
            assert not second
    with lock.writing():
        pass


SWEEP = """
    import sys
    from pathlib import Path
    from ckpt_tracker.disk.filesystem import StoreLock
    print("waiting", flush=True)
    with StoreLock(Path(sys.argv[1])).sweeping():
        with open(sys.argv[1] + "/order", "a") as order:
            order.write("sweep ")
        print("alone", flush=True)
        sys.stdin.readline()
"""
WRITE = """
    import sys
    from pathlib import Path
    from ckpt_tracker.disk.filesystem import StoreLock
    print("waiting", flush=True)
    with StoreLock(Path(sys.argv[1])).writing():
        with open(sys.argv[1] + "/order", "a") as order:
            order.write("writer ")
"""


def test_a_sweep_that_waits_goes_before_writers_that_come_later(start: Start, tmp_path: Path) -> None:
    """It keeps the turnstile shut while it waits; with one lock alone it would starve."""
    with StoreLock(tmp_path).writing():
        sweep = start(SWEEP, tmp_path)
        assert sweep.line() == "waiting"
        turnstile = FileLock(tmp_path / "turnstile")
        while turnstile.acquire(wait=False):  # until the sweep has it
            turnstile.release()
        writers = [start(WRITE, tmp_path) for _ in range(3)]
        assert [writer.line() for writer in writers] == ["waiting"] * 3
        start("pass").end()  # a while, in which nobody may come in
        assert not (tmp_path / "order").exists()
    assert sweep.line() == "alone"
    sweep.tell("done")
    for writer in writers:
        writer.end()
    assert (tmp_path / "order").read_text() == "sweep writer writer writer "


def test_the_lock_of_a_killed_sweep_is_free(start: Start, tmp_path: Path) -> None:
    """Both of its locks."""
    sweep = start(SWEEP, tmp_path)
    assert [sweep.line(), sweep.line()] == ["waiting", "alone"]
    sweep.kill()
    with StoreLock(tmp_path).sweeping(wait=False) as alone:
        assert alone


def test_a_copy_that_a_fork_made_does_not_keep_a_released_lock(tmp_path: Path) -> None:
    """A worker forked while another thread takes a lock holds its descriptor, and knows nothing of it."""
    lock, other = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    lock.acquire()
    assert lock._descriptor is not None
    copy = os.dup(lock._descriptor)
    lock.release()

    assert other.acquire(wait=False)

    other.release()
    os.close(copy)
