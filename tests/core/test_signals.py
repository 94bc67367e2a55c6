"""Signals: the first lets the training save and end in order, a second one ends it at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ckpt_tracker import Store
from ckpt_tracker.signals import SignalWatch
from ckpt_tracker.tracker import Tracker

TRAINING = textwrap.dedent(
    """
    import os, signal, sys
    import numpy as np
    from ckpt_tracker.tracker import Tracker

    def send(name):
        os.kill(os.getpid(), getattr(signal, name))

    tracker = Tracker(sys.argv[1], "run", every="100 epochs")
    {before}
    resumed = tracker.begin()
    first = resumed.epoch + 1 if resumed else 0
    error = None
    try:
        for epoch in range(first, 6):
            if epoch == 3 and not resumed:
                {inside}
            reason = tracker.due(epoch=epoch, step=epoch)
            if reason:
                tracker.save({{"model": np.full(4, epoch)}}, epoch=epoch, step=epoch, metrics=None, reason=reason)
    except BaseException as raised:
        error = raised
        raise
    finally:
        tracker.close(finished=True, error=error)
    print("through")
    """
)


def run(path: Path, inside: str, *, before: str = "pass") -> subprocess.CompletedProcess[str]:
    """A training in a process of its own that sends itself a signal in epoch 3."""
    code = TRAINING.format(before=before, inside=inside)
    return subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False, timeout=60)


def saved(path: Path) -> list[tuple[int | None, str | None]]:
    """Epoch and reason of each checkpoint."""
    with Store(path, create=False) as store:
        return [(each.epoch, each.reason) for each in store.run("run").checkpoints()]


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGUSR1", 138)])
def test_the_first_signal_saves_and_then_ends_the_training(path: Path, name: str, status: int) -> None:
    """At the next consistent point, with the signal as the reason, and with the status that a shell gives to it."""
    done = run(path, f"send({name!r})")
    assert done.returncode == status, done.stderr
    assert saved(path) == [(3, name)]
    assert "saving at the next consistent point" in done.stderr
    assert run(path, "send('SIGKILL')").stdout == "through\n"


def test_ctrl_c_saves_and_then_raises_keyboard_interrupt(path: Path) -> None:
    """Which no longer comes in the middle of a step."""
    done = run(path, "send('SIGINT')")
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")
    assert saved(path) == [(3, "KeyboardInterrupt")]


@pytest.mark.parametrize(("second", "status"), [("SIGTERM", -15), ("SIGINT", -2), ("SIGUSR1", -10)])
def test_a_second_signal_ends_the_training_at_once(path: Path, second: str, status: int) -> None:
    """Whichever it is: nothing more is saved."""
    done = run(path, f"send('SIGTERM'); send({second!r}); os._exit(0)")
    assert done.returncode == status, done.stderr
    assert saved(path) == []


def test_a_handler_of_the_script_is_called_and_decides(path: Path) -> None:
    """The checkpoint is taken all the same, and the training goes on unless the handler ends it."""
    before = "signal.signal(signal.SIGTERM, lambda *_: print('mine'))"
    done = run(path, "send('SIGTERM')", before=before)
    assert (done.returncode, done.stdout) == (0, "mine\nthrough\n"), done.stderr
    assert saved(path) == [(3, "SIGTERM")]


def test_an_ignored_signal_stays_ignored(path: Path) -> None:
    """As under nohup."""
    done = run(path, "send('SIGTERM')", before="signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    assert (done.returncode, done.stdout) == (0, "through\n"), done.stderr
    assert saved(path) == []


def test_a_signal_after_the_last_consistent_point_is_raised_again(path: Path) -> None:
    """Once what was saved is durable: it is late, and not lost."""
    done = run(path, "tracker.save({'model': np.ones(3)}, epoch=3, step=3, metrics=None); send('SIGTERM'); break")
    assert done.returncode == -signal.SIGTERM
    assert saved(path) == [(3, None)]


def test_a_forked_child_dies_of_the_signal_as_ever(path: Path) -> None:
    """A loader's worker has the handlers too, and nothing to save."""
    fork = "child = os.fork(); child or (send('SIGTERM'), os._exit(9)); print(os.waitpid(child, 0)[1])"
    done = run(path, fork)
    assert (done.returncode, done.stdout) == (0, "15\nthrough\n"), done.stderr


def test_the_earlier_handlers_are_put_back(path: Path) -> None:
    """When the tracker closes, and when it could not begin."""
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    tracker, second = Tracker(path, "run"), Tracker(path, "other", resume="last")
    tracker.begin()
    assert signal.getsignal(signal.SIGTERM) != before[signal.SIGTERM]
    tracker.close()
    with pytest.raises(LookupError):
        second.begin()
    assert {each: signal.getsignal(each) for each in before} == before


def test_a_handler_installed_meanwhile_stays_and_finds_the_old_way() -> None:
    """One that calls the handler before it still gets there, when the watch has stopped."""
    seen: list[str] = []
    first = signal.signal(signal.SIGUSR1, lambda *_: seen.append("script"))
    watch = SignalWatch()
    try:
        watch.start()
        ours = signal.getsignal(signal.SIGUSR1)
        assert callable(ours)
        signal.signal(signal.SIGUSR1, lambda number, frame: (seen.append("later"), ours(number, frame))[0])
        watch.stop()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert seen == ["later", "script"]
        assert watch.reason is None
        watch.start()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert watch.reason == "SIGUSR1"
        watch.stop()
    finally:
        signal.signal(signal.SIGUSR1, first)


def test_watches_that_end_in_any_order_leave_nothing_behind() -> None:
    """Two trainings that overlap: the handler of the one that ended first is not taken for the script's own."""
    before = signal.getsignal(signal.SIGUSR1)
    first, second, third = SignalWatch(), SignalWatch(), SignalWatch()
    first.start()
    second.start()
    first.stop()
    third.start()
    os.kill(os.getpid(), signal.SIGUSR1)
    assert (first.reason, second.reason, third.reason) == (None, "SIGUSR1", "SIGUSR1")
    third.leave()
    with pytest.raises(SystemExit):
        second.leave()
    second.stop()
    third.stop()
    assert signal.getsignal(signal.SIGUSR1) == before
    third.start()
    os.kill(os.getpid(), signal.SIGUSR1)
    with pytest.raises(SystemExit):
        third.leave()
    third.stop()
    assert signal.getsignal(signal.SIGUSR1) == before
