"""The background writer: one thread that makes saves durable, one after the other.

An error of the thread is kept, and raised exactly once: at the next call from the training thread, or at close.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from ckpt_tracker.errors import CkptTrackerError, SaveFailed, add_note

if TYPE_CHECKING:
    import queue

_log = logging.getLogger("ckpt_tracker")
EXIT_SECONDS = 600.0
"""How long the end of a training, or of the interpreter, waits for what is still being written."""
_RETURN_SECONDS = 0.0002
"""What the thread waits once it is woken up: on one core it would run at once, before the call that woke it returns.
Measured for 1 MB, that call takes 0.9 ms, and 2.7 without the wait.
"""
Result = TypeVar("Result")


def not_durable(late: Sequence[str], seconds: float) -> str:
    """What an error says of saves that have not ended in that time."""
    return f"{', '.join(late)}: not durable, and still being written after {seconds:g} s"


class Pending(Generic[Result]):
    """The outcome of a job, once there is one."""

    def __init__(self, name: str, job: Callable[[], Result]) -> None:
        self.name = name
        self._job = job
        self._done = threading.Event()
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._told = False
        self._process = os.getpid()

    @property
    def done(self) -> bool:
        """The job has ended, well or not."""
        return self._done.is_set()

    @property
    def failed(self) -> bool:
        """The job has ended with an error."""
        return self.done and self._error is not None

    def wait(self, timeout: float | None = None) -> Result:
        """The result. Raises the job's error each time, TimeoutError after `timeout` seconds without an end.

        SaveFailed in a forked child, where it would never end.
        """
        if not self.done and os.getpid() != self._process:
            raise SaveFailed(
                f"{self.name} was still being written when this process was forked, and can't be waited for"
            )
        if not self._done.wait(timeout):
            raise TimeoutError(f"{self.name} is not durable after {timeout:g} s: it is still being written")
        if self._error is not None:
            self._told = True
            raise self._error
        return self._result  # type: ignore[return-value]

    def untold(self) -> BaseException | None:
        """The job's error, unless somebody who waited has been told of it."""
        return None if self._told else self._error

    def _run(self) -> None:
        try:
            self._result = self._job()
        except CkptTrackerError as error:
            self._error = error
        except BaseException as error:
            self._error = SaveFailed(f"{self.name} was not saved: {error!r}; earlier checkpoints are intact")
            self._error.__cause__ = error
        finally:
            del self._job
            self._done.set()


class BackgroundWriter:
    """A thread for jobs, started with the first one and stopped by `close`.

    Jobs that are queued when the interpreter exits are done first; what fails then is logged.
    """

    _open: ClassVar[weakref.WeakSet[BackgroundWriter]] = weakref.WeakSet()

    def __init__(self, name: str) -> None:
        import queue

        self._name = name
        self._jobs: queue.SimpleQueue[Pending[object] | None] = queue.SimpleQueue()
        self._submitted: list[Pending[object]] = []
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    def submit(self, name: str, job: Callable[[], Result]) -> Pending[Result]:
        """Queues a job. Raises SaveFailed in a forked child."""
        self.check_process(name)
        if self._thread is None:
            # the thread knows the queue alone, so that a writer nobody holds any more can end it
            self._thread = threading.Thread(target=_work, args=(self._jobs,), name=self._name, daemon=True)
            self._thread.start()
            # not at exit: there may be other atexit handlers that save
            weakref.finalize(self, self._jobs.put, None).atexit = False
            BackgroundWriter._open.add(self)
        pending = Pending(name, job)
        self._submitted.append(pending)  # type: ignore[arg-type]
        self._jobs.put(pending)  # type: ignore[arg-type]
        return pending

    def check_process(self, name: str) -> None:
        """Raises SaveFailed in a forked child, which has no writer thread."""
        if os.getpid() != self._process:
            raise SaveFailed(f"{name} was not saved: a forked process can't save for its parent")

    def raise_pending(self) -> None:
        """Raises the first error that nobody has been told of, once; the others are notes on it."""
        ended = [each for each in self._submitted if each.done]
        self._submitted = [each for each in self._submitted if each not in ended]
        errors = [error for each in ended if (error := each.untold()) is not None]
        if errors:
            for other in errors[1:]:
                add_note(errors[0], f"ckpt_tracker: {other}")
            raise errors[0]

    def drain(self, timeout: float | None = None) -> list[str]:
        """Waits for all jobs, up to `timeout` seconds; returns the names of those that have not ended."""
        if os.getpid() != self._process:
            return []
        deadline = None if timeout is None else time.monotonic() + timeout
        for each in self._submitted:
            rest = None if deadline is None else max(0.0, deadline - time.monotonic())
            each._done.wait(rest)
        return [each.name for each in self._submitted if not each.done]

    def close(self, timeout: float | None = None) -> list[str]:
        """Drains, and ends the thread; returns the names of jobs that have not ended. Raises nothing."""
        late = self.drain(timeout)
        thread, self._thread = self._thread, None
        if thread is not None and os.getpid() == self._process:
            self._jobs.put(None)
            if not late:
                thread.join()
        BackgroundWriter._open.discard(self)
        return late

    @classmethod
    def _drain_all(cls) -> None:
        for writer in list(cls._open):
            if os.getpid() == writer._process:
                try:
                    for name in writer.drain(EXIT_SECONDS):
                        _log.error("%s is not durable: it was still being written after %g s", name, EXIT_SECONDS)
                    writer.raise_pending()
                except CkptTrackerError as error:
                    _log.error("%s", error)


def _work(jobs: queue.SimpleQueue[Pending[object] | None]) -> None:
    while (pending := jobs.get()) is not None:
        time.sleep(_RETURN_SECONDS)
        pending._run()


atexit.register(BackgroundWriter._drain_all)
