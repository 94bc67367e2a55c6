"""Room on the disk: the trash makes way for a save, and a disk that will soon be full is said to be so."""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ckpt_tracker import Store
from ckpt_tracker import store as stores
from ckpt_tracker import tracker as trackers
from ckpt_tracker.disk.filesystem import FileLock
from ckpt_tracker.errors import RunBusy, SaveFailed, StoreFull
from ckpt_tracker.tracker import Tracker

SIZE = 300_000


def state(number: int) -> dict[str, object]:
    """One tensor of 300 kB."""
    return {"model": {"w": np.random.default_rng(number).integers(256, size=SIZE, dtype=np.uint8)}}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system can't be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def leave_room(disk: Path, nbytes: int) -> Path:
    """Fills the disk with a file of somebody else's, up to that."""
    ballast = disk / "ballast"
    with Store(disk / "store") as store:
        ballast.write_bytes(bytes(store.free_bytes() - nbytes))
    return ballast


def test_a_full_disk_empties_the_trash_and_the_save_succeeds(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Trash of a minute ago too: a person can do without it better than without a checkpoint."""
    with Store(small_disk / "store") as store:
        run = store.run("r")
        for number in range(3):
            run.save(state(number)).wait()
        store.apply(run.plan("last:1"))
        leave_room(small_disk, SIZE // 2)
        saved = run.save(state(9)).wait()
        assert saved.verify().ok
        assert "600000 bytes of trash were deleted" in caplog.text
        assert [each.version for each in run.checkpoints()] == [3, 4]


def test_a_disk_that_stays_full_is_an_error_that_loses_nothing(small_disk: Path) -> None:
    """And once there is room again, saving goes on."""
    with Store(small_disk / "store") as store:
        run = store.run("r")
        run.save(state(0)).wait()
        ballast = leave_room(small_disk, SIZE // 2)
        with pytest.raises(StoreFull) as caught:
            run.save(state(1)).wait()
        assert caught.value.errno == errno.ENOSPC
        assert run.last().verify().ok
        assert not list(store.layout.tmp.iterdir())
        ballast.unlink()
        assert run.save(state(1)).wait().verify().ok


def test_a_disk_with_room_for_few_is_named_at_the_first_save(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, with how many more of that size fit."""
    leave_room(small_disk, 4 * SIZE + SIZE // 2)
    tracker = Tracker(small_disk / "store", "r")
    tracker.begin()
    for epoch in range(2):
        tracker.save(state(epoch), epoch=epoch, step=epoch, metrics=None)
    tracker.close()
    told = [message for message in caplog.messages if "has room for" in message]
    assert len(told) == 1
    assert told[0].startswith("r@v1 holds 0.3 MB, and ")
    # the run's start, with the changes that are not committed, takes some of it
    assert re.search(r"has room for [23] more of that size", told[0])


def test_a_roomy_disk_is_not_mentioned(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Five or more fit."""
    caplog.set_level(logging.INFO)
    tracker = Tracker(path, "r")
    tracker.begin()
    tracker.save(state(0), epoch=0, step=0, metrics=None)
    tracker.close()
    assert "room" not in caplog.text


def test_a_save_that_hangs_does_not_hold_the_end_up_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`close` is bounded, and says what is not durable; an error of the training's own gets that as a note."""
    monkeypatch.setattr(trackers, "EXIT_SECONDS", 0.05)
    for error in (None, ValueError("the training's own")):
        tracker = Tracker(path, "a" if error is None else "b")
        tracker.begin()
        with tracker.store.lock.sweeping():  # which a save waits for
            tracker.save(state(0), epoch=0, step=0, metrics=None)
            if error is None:
                with pytest.raises(SaveFailed, match=r"a@v1: not durable, and still being written after 0\.05 s"):
                    tracker.close()
            else:
                tracker.close(error=error)
                assert "b@v1: not durable" in str(error.__notes__)


def test_a_run_stays_taken_while_a_save_of_it_hangs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing the store is bounded too; another training would be given the version that is still being written."""
    monkeypatch.setattr(stores, "EXIT_SECONDS", 0.05)
    store = Store(path)
    run = store.run("r")
    with store.lock.sweeping():  # which a save waits for
        late = run.save(state(0))
        with pytest.raises(SaveFailed, match=r"r@v1: not durable, and still being written after 0\.05 s"):
            store.close()
        with pytest.raises(RunBusy):
            Store(path).run("r").writer()
    late.wait()
    with Store(path) as again:
        assert again.run("r").save(state(1)).wait().ref == "r@v2"


def test_the_end_of_a_training_frees_what_had_to_wait(path: Path) -> None:
    """It waits a little for the saves of others: no next save of its own will do it."""
    tracker = Tracker(path, "r", keep="last:1")
    tracker.begin()
    other = tracker.store.lock.writing()
    with contextlib.ExitStack() as stack:
        stack.enter_context(other)
        for epoch in range(2):
            tracker.save(state(epoch), epoch=epoch, step=epoch, metrics=None).wait()
        assert len(list(tracker.store.objects.names())) == 2
        closing = threading.Thread(target=tracker.close)
        closing.start()
        turnstile = FileLock(tracker.store.layout.locks / "turnstile")
        while closing.is_alive() and turnstile.acquire(wait=False):
            turnstile.release()
    closing.join()
    assert len(list(tracker.store.objects.names())) == 1
