"""Signals that ask a training to stop: SIGTERM, SIGUSR1 (a batch system's word before its time limit) and Ctrl-C.

The first only sets a flag: the training saves at its next consistent point, and then ends as the signal asked. A second
one ends it at once. A handler that the script had installed is called first, and decides alone how the training ends.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_WATCHED = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name))


class SignalWatch:
    """Watches from `start` to `stop`, in the main thread; anywhere else there is nothing it could watch."""

    where = "at the next consistent point"
    """What the person who pressed Ctrl-C is told of when it will be saved."""

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}
        self._received: int | None = None
        self._process: int | None = None

    @property
    def reason(self) -> str | None:
        """The name of the signal that has come and was not answered yet."""
        number = self._received
        return None if number is None else _name(number)

    def start(self) -> None:
        """Installs the handlers. A signal that is ignored, or handled outside of Python, is left alone."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._process, self._received = os.getpid(), None
        for number in _WATCHED:
            previous = _beneath(number, signal.getsignal(number))
            # one that `stop` could not put back is still called by the handler that stands before it
            if number not in self._previous and previous not in (None, signal.SIG_IGN):
                self._previous[number] = previous
                signal.signal(number, self._handle)

    def stop(self) -> None:
        """Puts the earlier handlers back, and raises a signal again that came too late to be answered."""
        late, self._received, self._process = self._received, None, None
        if threading.current_thread() is threading.main_thread():
            for number, previous in list(self._previous.items()):
                # one that was installed since, and calls ours, keeps doing so
                if signal.getsignal(number) == self._handle:
                    signal.signal(number, _beneath(number, previous))
                    del self._previous[number]
        if late is not None and self._scripts_own(late) is None:
            os.kill(os.getpid(), late)

    def leave(self) -> None:
        """Answers the signal: raises KeyboardInterrupt, or SystemExit with a shell's status for it.

        Does nothing where there is none to answer, and where the script's own handler has been called.
        """
        number, self._received = self._received, None
        if number is None or self._scripts_own(number) is not None:
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        own = self._scripts_own(number)
        second = self._received is not None
        if os.getpid() != self._process or (second and own is None):
            self._received = None
            _as_without(number, own, frame)
            return
        self._received = self._received or number
        if own is not None:
            own(number, frame)
        else:
            _tell(f"ckpt_tracker: {_name(number)}: saving {self.where}, then stopping; once more stops at once\n")

    def _scripts_own(self, number: int) -> Callable[[int, FrameType | None], Any] | None:
        previous = _beneath(number, self._previous.get(number))
        return None if previous in (None, signal.SIG_DFL, signal.default_int_handler) else previous


def _beneath(number: int, handler: Any) -> Any:
    """The handler that counts: a watch that stopped while another stood before it is none of the script's."""
    while isinstance(watch := getattr(handler, "__self__", None), SignalWatch) and watch._process is None:
        handler = watch._previous.get(number, signal.SIG_DFL)
    return handler


def _as_without(number: int, own: Callable[[int, FrameType | None], Any] | None, frame: FrameType | None) -> None:
    """What the signal would have done without the watch: also in a forked child, which has its handlers."""
    if own is not None:
        own(number, frame)
    elif number == signal.SIGINT:
        raise KeyboardInterrupt
    else:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _name(number: int) -> str:
    return "KeyboardInterrupt" if number == signal.SIGINT else signal.Signals(number).name


def _tell(text: str) -> None:
    """Not through Python's streams: a handler may have interrupted one of them."""
    try:
        os.write(2, text.encode())
    except OSError:
        return
