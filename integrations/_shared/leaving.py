"""Leaving a training together: of several processes a signal may have reached one, and all have to answer it."""

from __future__ import annotations

import signal
from collections.abc import Callable

from ckpt_tracker.tracker import Tracker


def leave_together(tracker: Tracker, asked: str, *, highest: Callable[[int], int]) -> None:
    """On all processes, with the checkpoint durable: raises what the signal `asked` asks for.

    `highest` gives the highest of all processes' numbers.
    """
    mine: BaseException | None = None
    try:
        tracker.leave()
    except (KeyboardInterrupt, SystemExit) as ending:
        mine = ending
    # where the script has a handler of its own, no process leaves
    if highest(int(mine is not None)):
        raise mine or _ending(asked)


def _ending(asked: str) -> BaseException:
    return KeyboardInterrupt() if asked == "KeyboardInterrupt" else SystemExit(128 + signal.Signals[asked])
