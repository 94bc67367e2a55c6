"""A writer that is stopped at any point of a save, while others sweep, and then goes on, loses nothing.

The lock sees to that; where locks can't be trusted, the time that objects rest before they are swept does.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ckpt_tracker import Store
from ckpt_tracker.disk.filesystem import StoreLock

CALLS = ("open", "write", "fsync", "replace", "close")


def state(epoch: int) -> dict[str, dict[str, object]]:
    """A tensor of its own, and one that every other checkpoint shares."""
    return {"model": {"own": np.full(9_000, float(epoch)), "shared": np.full(9_000, -float(epoch % 2))}}


def stop_at(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stops this process just before the writer's N-th call into the system from now on."""
    calls = iter(range(1, 10_000))

    def stopping(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            if threading.current_thread() is not threading.main_thread() and next(calls) == number:
                # to this thread: a signal to the process would let it run on until another thread has taken it
                signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
            return real(*arguments, **options)

        return call

    for name in CALLS:
        monkeypatch.setattr(os, name, stopping(getattr(os, name)))


@contextlib.contextmanager
def no_lock(self: StoreLock, **how: object) -> Iterator[bool]:
    """What flock is where it does not work."""
    yield True


def save_stopped(path: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> bool | None:
    """Saves in a child that is stopped at a call, sweeps meanwhile, and lets it go on.

    True when the checkpoint that the child acknowledged loads; None when the save has no such call.
    """
    child = os.fork()
    if not child:
        status = 2
        try:
            run = Store(path).run("r")
            run.writer()
            gc.disable()  # a finalizer's calls, in the middle of an index transaction, are none of the save's
            stop_at(at, monkeypatch)
            status = 0 if run.save(state(3)).wait().version == 4 else 1
        finally:
            os._exit(status)
    _, status = os.waitpid(child, os.WUNTRACED)
    stopped = os.WIFSTOPPED(status)
    if stopped:
        with Store(path) as store:
            store.make_room()
        os.kill(child, signal.SIGCONT)
        _, status = os.waitpid(child, 0)
    if not stopped:
        return None
    if os.WEXITSTATUS(status) or not os.WIFEXITED(status):
        return False
    with Store(path) as store:
        return store["r@v4"].verify(deep=True).ok


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[[], Path]:
    """Makes stores in which an object is left over that the next save will find useful."""
    made = iter(range(10_000))

    def prepare() -> Path:
        path = tmp_path / f"store-{next(made)}"
        with Store(path) as store:
            run = store.run("r")
            for epoch in range(3):
                run.save(state(epoch)).wait()
            store.evict(run.plan("last:1"))
            store.run("other").save({"model": {"w": state(3)["model"]["shared"]}}).wait()
            (store.layout.manifests("other") / "000001.json").unlink()
        return path

    return prepare


def outcomes(prepared: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of a save that is stopped at its first call, at its second, and so on."""
    found = []
    while (outcome := save_stopped(prepared(), len(found) + 1, monkeypatch)) is not None:
        found.append(outcome)
    return found


def test_the_lock_keeps_the_sweep_away(prepared: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """At every call of a save."""
    found = outcomes(prepared, monkeypatch)
    assert len(found) > 20
    assert all(found)


def test_where_locks_do_not_hold_the_rest_of_objects_does(
    prepared: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network file system."""
    monkeypatch.setenv("CKPT_TRACKER_NETWORK", "1")
    monkeypatch.setattr(StoreLock, "writing", no_lock)
    monkeypatch.setattr(StoreLock, "sweeping", no_lock)
    found = outcomes(prepared, monkeypatch)
    assert len(found) > 20
    assert all(found)


def test_without_either_checkpoints_are_lost(prepared: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the two tests above could fail."""
    monkeypatch.setattr(StoreLock, "writing", no_lock)
    monkeypatch.setattr(StoreLock, "sweeping", no_lock)
    assert not all(outcomes(prepared, monkeypatch))
