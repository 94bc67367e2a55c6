"""The background writer: one job after the other, and errors that are told exactly once."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ckpt_tracker import Store
from ckpt_tracker.errors import Damaged, SaveFailed
from ckpt_tracker.writer import BackgroundWriter

STATE = {"model": {"w": np.ones(10)}}


@pytest.fixture
def writer() -> Iterator[BackgroundWriter]:
    """A writer, closed at the end."""
    made = BackgroundWriter("test")
    yield made
    made.close()


def _fail(error: BaseException) -> Callable[[], None]:
    def job() -> None:
        raise error

    return job


def test_jobs_are_done_in_order(writer: BackgroundWriter) -> None:
    """Each in the one thread, and each has its result."""
    done: list[int] = []
    jobs = [writer.submit(str(number), lambda number=number: done.append(number) or number) for number in range(20)]  # type: ignore[misc]
    assert [job.wait() for job in jobs] == list(range(20)) == done


def test_waiting_for_a_slow_job_ends_with_the_timeout(writer: BackgroundWriter) -> None:
    """And the job goes on: a later wait has its result."""
    gate = threading.Event()
    job = writer.submit("r@v1", lambda: gate.wait() and "done")
    with pytest.raises(TimeoutError, match=r"r@v1 is not durable after 0\.01 s: it is still being written"):
        job.wait(0.01)
    gate.set()
    assert job.wait(60) == "done"


def test_an_error_is_raised_once(writer: BackgroundWriter) -> None:
    """At the next call, and at none after it."""
    job = writer.submit("r@v1", _fail(OSError("broken")))
    writer.drain()
    with pytest.raises(
        SaveFailed, match=r"r@v1 was not saved: OSError\('broken'\); earlier checkpoints are intact"
    ) as told:
        writer.raise_pending()
    assert isinstance(told.value.__cause__, OSError)
    writer.raise_pending()
    assert job.failed


def test_an_error_of_ours_is_raised_as_it_is(writer: BackgroundWriter) -> None:
    """It says already what is wrong."""
    writer.submit("r@v1", _fail(Damaged("object x")))
    writer.drain()
    with pytest.raises(Damaged, match=r"^object x$"):
        writer.raise_pending()


def test_who_waits_is_told_and_then_nobody_else(writer: BackgroundWriter) -> None:
    """`wait` raises each time; the next save does not any more."""
    job = writer.submit("r@v1", _fail(OSError("broken")))
    for _ in range(2):
        with pytest.raises(SaveFailed):
            job.wait()
    writer.raise_pending()


def test_several_errors_are_raised_as_one(writer: BackgroundWriter) -> None:
    """The first, with the others as its notes: none is lost, and none comes later."""
    for number in range(3):
        writer.submit(f"r@v{number}", _fail(OSError(number)))
    writer.drain()
    with pytest.raises(SaveFailed, match="r@v0 was not saved") as told:
        writer.raise_pending()
    assert [note.split(" was")[0] for note in told.value.__notes__] == ["ckpt_tracker: r@v1", "ckpt_tracker: r@v2"]
    writer.raise_pending()


def test_jobs_after_a_failed_one_are_done(writer: BackgroundWriter) -> None:
    """The thread lives on."""
    writer.submit("a", _fail(KeyboardInterrupt()))
    assert writer.submit("b", lambda: 5).wait() == 5
    with pytest.raises(SaveFailed):
        writer.raise_pending()


def test_close_does_what_is_queued(writer: BackgroundWriter) -> None:
    """And can be called again; so can submit."""
    done: list[int] = []
    for number in range(5):
        writer.submit(str(number), lambda number=number: done.append(number))  # type: ignore[misc]
    assert writer.close() == []
    assert done == [0, 1, 2, 3, 4]
    assert writer.close() == []
    assert writer.submit("again", lambda: 1).wait() == 1


def test_a_bounded_close_says_what_is_not_done(writer: BackgroundWriter) -> None:
    """By name, oldest first."""
    gate = threading.Event()
    writer.submit("r@v1", gate.wait)
    last = writer.submit("r@v2", lambda: None)
    assert writer.close(0.01) == ["r@v1", "r@v2"]
    gate.set()
    last.wait()


def test_a_writer_that_nobody_holds_ends_its_thread() -> None:
    """After its last job."""
    writer = BackgroundWriter("forgotten")
    writer.submit("a", lambda: None).wait()
    (thread,) = (each for each in threading.enumerate() if each.name == "forgotten")
    del writer
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()


# -- through a run -------------------------------------------------------------------------------------------


def _break(store: Store) -> Callable[[], object]:
    """Makes every save fail: `tmp/` is a file. Returns the way back."""
    tmp = store.layout.tmp
    tmp.rmdir()
    tmp.write_bytes(b"")
    return lambda: (tmp.unlink(), tmp.mkdir())


def test_a_failed_save_is_told_at_the_next_save_once(store: Store) -> None:
    """Then saving goes on, and earlier checkpoints are intact."""
    run = store.run("r")
    first = run.save(STATE).wait()
    mend = _break(store)
    failed = run.save({"model": {"w": np.zeros(10)}})
    run._drain()
    mend()
    with pytest.raises(SaveFailed, match=r"r@v2 was not saved: NotADirectoryError.*; earlier checkpoints are intact"):
        run.save(STATE)
    assert run.save({"model": {"w": np.zeros(9)}}).wait().ref == "r@v3"
    assert first.verify().ok
    assert [each.version for each in run.checkpoints()] == [1, 3]
    with pytest.raises(SaveFailed):
        failed.load()


def test_a_failed_save_is_told_at_close(path: Path) -> None:
    """Where no save comes after it; the store is closed all the same."""
    store = Store(path)
    run = store.run("r")
    mend = _break(store)
    run.save(STATE)
    with pytest.raises(SaveFailed, match="r@v1 was not saved"):
        store.close()
    mend()
    store.close()
    with Store(path) as again:
        assert again.run("r").save(STATE).wait().ref == "r@v1"


def test_closing_a_store_closes_every_run_whatever_fails(path: Path) -> None:
    """The error of one run does not keep another's lock."""
    store = Store(path)
    runs = [store.run(name) for name in ("a", "b", "c")]
    mend = _break(store)
    for run in runs:
        run.save(STATE)
    with pytest.raises(SaveFailed):
        store.close()
    mend()
    with Store(path) as again:
        for name in ("a", "b", "c"):
            assert again.run(name).save(STATE).wait().version == 1


def test_the_blocks_own_error_is_not_hidden(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A save that failed as well is logged."""

    def block() -> None:
        with Store(path) as store:
            run = store.run("r")
            _break(store)
            run.save(STATE)
            raise ZeroDivisionError("training")

    with pytest.raises(ZeroDivisionError, match=r"^training$"):
        block()
    assert any(message.startswith("r@v1 was not saved") for message in caplog.messages)


def test_a_save_that_finds_no_lock_file_does_not_block_the_next(store: Store) -> None:
    """Whatever fails, the buffer that holds the state is given back."""
    locks = store.layout.locks
    run = store.run("r")
    run.save(STATE).wait()
    locks.rename(locks.with_name("hidden"))
    run.save(STATE)
    run._drain()
    locks.with_name("hidden").rename(locks)
    with pytest.raises(SaveFailed):
        run.save(STATE)
    saved: list[int] = []
    thread = threading.Thread(target=lambda: saved.append(run.save(STATE).wait().version), daemon=True)
    thread.start()
    thread.join(60)
    assert saved == [3]


def test_what_fails_after_the_commit_is_a_warning(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """The checkpoint is durable without its index row, which is put in at the next opening."""
    run = store.run("r")
    run.save(STATE).wait()
    there, store.index.path = store.index.path, store.path / "no folder" / "index.sqlite"
    checkpoint = run.save(STATE).wait()
    store.index.path = there
    store.index.close()
    there.unlink()
    assert checkpoint.verify().ok
    assert any("r@v2 is durable, but the work after it was not done" in message for message in caplog.messages)
    assert store["r@last"].ref == "r@v2"


def test_waiting_returns_the_checkpoint(store: Store) -> None:
    """So that a save and its wait are one expression."""
    checkpoint = store.run("r").save(STATE)
    assert checkpoint.wait() is checkpoint
    assert checkpoint.wait(timeout=0) is checkpoint
