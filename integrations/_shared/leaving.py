"""What several processes agree on: a signal may have reached one of them, and all answer it at the same point."""

from __future__ import annotations

import signal
from collections.abc import Callable

from ckpt_tracker.tracker import Tracker

_SIGNALS = ("SIGUSR1", "SIGTERM", "KeyboardInterrupt")
# what the processes send each other: nothing, some trigger, or a signal by its place above
_NOTHING, _TRIGGER, _FIRST_SIGNAL = 0, 1, 2


class Agreement:
    """When to save, and whether to leave: the same in every process of a training.

    `highest` gives the highest of all processes' numbers.
    """

    def __init__(self, tracker: Tracker, *, highest: Callable[[int], int]) -> None:
        self._tracker = tracker
        self._highest = highest
        self._asked: str | None = None

    def reach(self, trigger: str | None) -> str | None:
        """Why to save now, or None. All ask this at the same point, each with the trigger that it knows of."""
        came = self._tracker.interruption
        code = _TRIGGER if trigger else _NOTHING
        code = self._highest(code if came is None else _FIRST_SIGNAL + _SIGNALS.index(came))
        if code >= _FIRST_SIGNAL:
            self._asked = _SIGNALS[code - _FIRST_SIGNAL]
            return self._asked
        return (trigger or "a trigger") if code == _TRIGGER else None

    @property
    def asked(self) -> str | None:
        """The signal that is to be answered once what was saved is durable."""
        return self._asked

    def leave(self) -> None:
        """On all processes, with the checkpoint durable: raises what the signal asks for, if one was agreed on."""
        asked, self._asked = self._asked, None
        if asked is None:
            return
        mine: BaseException | None = None
        try:
            self._tracker.leave()
        except (KeyboardInterrupt, SystemExit) as ending:
            mine = ending
        # where the script has a handler of its own, no process leaves
        if self._highest(int(mine is not None)):
            raise mine or _ending(asked)


def _ending(asked: str) -> BaseException:
    return KeyboardInterrupt() if asked == "KeyboardInterrupt" else SystemExit(128 + signal.Signals[asked])
