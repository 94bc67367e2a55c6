"""The trial of a script: trained twice in one go, then killed and started again; what was saved is compared.

Each training has a store of its own in a folder, and the script is none the wiser (`trial`).
"""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NoReturn

from ckpt_tracker.errors import InvalidOption
from ckpt_tracker.exact_resume import diagnosis
from ckpt_tracker.exact_resume.diagnosis import Case
from ckpt_tracker.exact_resume.process import Ended, Kill, Script
from ckpt_tracker.exact_resume.report import Killed, Outcome, Report
from ckpt_tracker.exact_resume.saved import Key, Saved
from ckpt_tracker.exact_resume.suspects import Suspect, suspects, unsteady, variables
from ckpt_tracker.exact_resume.verdict import Comparison, Deviation, compare, incidental

Progress = Callable[[str, int, int, int], None]
"""Told what runs, its number, how many trainings there will be, and how many checkpoints it has left so far."""
_FEW = 4


@dataclass(frozen=True)
class Options:
    """How to try. Raises InvalidOption for numbers that mean nothing."""

    kill_after: int | None = None
    """Kill once so many checkpoints are durable; at random moments after the first where None."""
    runs: int = 1
    """How many trainings to kill."""
    seed: int = 0
    """Of the moments."""
    timeout: float | None = None
    """Seconds that the script may take each time."""
    shown: bool = False
    """The script's output goes to stderr."""
    keep: bool = False
    """All stores stay in the folder."""

    def __post_init__(self) -> None:
        for name, value in (("kill-after", self.kill_after), ("runs", self.runs), ("timeout", self.timeout)):
            if value is not None and value <= 0:
                raise InvalidOption(f"{name} is {value}: expected more than 0")


def try_out(
    command: Sequence[str],
    folder: Path,
    options: Options,
    *,
    progress: Progress = lambda what, number, total, durable: None,
) -> Report:
    """Tries whether a script resumes exactly, in stores below `folder`. Raises InvalidOption where it can't start."""
    trial = _Trial(command, folder, options, progress)
    try:
        trial.train_twice()
        for number in range(1, options.runs + 1):
            trial.kill_and_restart(number)
        trial.end()
    except _Over:
        pass
    return trial.report


class _Over(Exception):
    """The trial is over before its time; the report says why."""


class _Trial:
    def __init__(self, command: Sequence[str], folder: Path, options: Options, progress: Progress) -> None:
        self.report = Report()
        self._command = command
        self._folder = folder
        self._options = options
        self._progress = progress
        self._chance = random.Random(options.seed)
        self._started = 0
        self._durable: tuple[float, ...] = ()
        self._ignored: tuple[str, ...] = ()
        self._varying_metrics: frozenset[str] = frozenset()

    # -- trainings that nobody interrupts --------------------------------------------------------------------

    def train_twice(self) -> None:
        """The two must agree."""
        ended, self._first = self._whole("whole-1", hash_seed=1)
        self._durable = ended.durable
        self.report = replace(self.report, seconds=ended.seconds, checkpoints=len(self._first.records))
        _, self._second = self._whole("whole-2", hash_seed=2)
        self._check_names()
        self._ignored = incidental(self._first, self._second)
        comparison = compare(self._first, self._second, ignored=self._ignored)
        if comparison.deviation is not None:
            self._not_deterministic(comparison.deviation, self._second)
        self._varying_metrics = frozenset(comparison.metrics)
        if self._ignored:
            some = ", ".join(_short(each) for each in self._ignored[:_FEW])
            self._note(f"{some}: not the same in two uninterrupted trainings either, and left out of the comparison")

    def end(self) -> None:
        """Every kill was survived."""
        times, compared = len(self.report.kills), self.report.compared
        if not times:
            took = f"in {self.report.seconds:.1f} s"
            self._not_tried(f"the script came to its end {took}, before it could be killed", "train for longer")
        told = "once" if times == 1 else f"{times} times"
        self._say("equal", f"killed {told}; all {compared} checkpoints saved after that are what they would have been")

    def _whole(self, name: str, *, hash_seed: int) -> tuple[Ended, Saved]:
        ended, saved = self._train(name, "uninterrupted", hash_seed=hash_seed)
        self._check_end(ended)
        count, after = len(saved.records), self._options.kill_after
        if count == 0:
            self._not_tried(
                "the script left no checkpoint that a trial can see",
                "save through a CheckpointTracker, to whatever store; or to the store that $CKPT_TRACKER_STORE names",
            )
        if count == 1:
            self._not_tried(
                "the script saves only once, so that a restart has nothing to go on from",
                "train for more epochs, or save more often: every='100 steps'",
            )
        if after is not None and after >= count:
            self._not_tried(
                f"the script leaves {count} checkpoints and is over then: it can't be killed after {after}",
                f"--kill-after takes 1 to {count - 1} here",
            )
        return ended, saved

    def _check_names(self) -> None:
        one, other = self._first.runs, self._second.runs
        if not set(one) & set(other):
            self._not_tried(
                f"the script gives its run another name at each start ({one[0]}, {other[0]}): a restart can't find it",
                "give it a fixed one: CheckpointTracker(store, 'mnist')",
            )
        if not self._first.by_key.keys() & self._second.by_key.keys():
            self._not_tried(
                "two trainings have no checkpoint at the same epoch and step: none can be compared",
                "save by epochs or steps: every='1 epoch'",
            )
        if any(self._first.is_unnamed(run) for run in one):
            self._note(
                "the script gives its run no name: outside of a trial a restart begins a new run; "
                "CheckpointTracker(store, 'mnist') has one"
            )

    def _not_deterministic(self, deviation: Deviation, other: Saved) -> NoReturn:
        _, third = self._train("whole-3", "uninterrupted, with the first one's hashes", hash_seed=1)
        again = compare(self._first, third, ignored=self._ignored)
        agree = other is self._second and again.compared > 0 and again.deviation is None
        case = self._case(deviation, unsteady(deviation.key, self._first, other), {})
        self.report = replace(
            self.report, deviation=deviation, causes=diagnosis.between_starts(case, same_hashes_agree=agree)
        )
        self._stop("not deterministic", "two trainings that nobody interrupted differ: a restarted one can't be judged")

    # -- trainings that are killed ---------------------------------------------------------------------------

    def kill_and_restart(self, number: int) -> None:
        """Kills a training, starts it again, and compares what it saves then."""
        name = f"kill-{number}"
        ended, saved = self._train(name, "to be killed", hash_seed=2 * number + 1, kill=self._moment())
        if ended.timed_out or ended.exit_code is not None:
            self._check_end(ended)
            self.report = replace(self.report, ended_early=self.report.ended_early + 1)
            return
        deviation = compare(self._first, saved, ignored=self._ignored).deviation
        if deviation is not None:
            self._not_deterministic(deviation, saved)
        if {*saved.keys} >= {*self._first.keys}:
            # it had saved all before it died, so that a restart has nothing to show
            self.report = replace(self.report, ended_early=self.report.ended_early + 1)
            return
        since, starts = len(saved.records), len(saved.starts())
        again, saved = self._train(name, "restarted", hash_seed=2 * number + 2)
        resumed = [each["resumed_from"] for each in saved.starts()[starts:] if each.get("resumed_from")]
        killed = Killed(since, ended.seconds, resumed[0] if resumed else None)
        self.report = replace(self.report, kills=(*self.report.kills, killed))
        self._check_restart(again, saved, since)
        self._judge(saved, compare(self._first, saved, ignored=self._ignored, since=since))
        if not self._options.keep:
            shutil.rmtree(self._folder / name)

    def _moment(self) -> Kill:
        """Inside the interval that follows a checkpoint, as far as the first training's pace tells."""
        times = self._durable
        if self._options.kill_after is not None:
            pace = median(later - earlier for earlier, later in pairwise(times))
            return Kill(self._options.kill_after, self._chance.uniform(0.1, 0.9) * pace)
        moment = self._chance.uniform(times[0], times[-1])
        after = max(1, sum(each <= moment for each in times[:-1]))
        return Kill(after, max(0.0, moment - times[after - 1]))

    def _check_restart(self, ended: Ended, saved: Saved, since: int) -> None:
        if ended.timed_out or ended.exit_code != 0:
            self.report = replace(self.report, output=ended.tail)
            self._stop("different", f"{self._story}, and {self._failure(ended)}")
        later = saved.records[since:]
        if later and not later[0].parents and self.report.kills[-1].resumed_from is None:
            self._not_tried(
                "the restarted script began anew instead of going on from its last checkpoint",
                "resume='auto', the default, goes on; resume='never' does not, nor does a script that loads nothing",
            )

    def _judge(self, saved: Saved, comparison: Comparison) -> None:
        killed = replace(self.report.kills[-1], compared=comparison.compared)
        self.report = replace(self.report, kills=(*self.report.kills[:-1], killed))
        deviation = comparison.deviation
        if deviation is not None:
            found = suspects(deviation.key, self._first, self._second, saved)
            numbers = variables(deviation.key, self._first, self._second, saved)
            causes = diagnosis.after_resume(self._case(deviation, found, numbers))
            self.report = replace(self.report, deviation=deviation, causes=causes)
            self._stop("different", f"{self._story}, and saved another state than an uninterrupted one")
        for run in self._first.runs:
            last, found_last = (each.last_key(run) for each in (self._first, saved))
            if last != found_last:
                self._stop(
                    "different", f"{self._story}, and ended at {found_last}; an uninterrupted one ends at {last}"
                )
        self._check_nothing_left_out(saved)
        self._note_metrics(comparison)

    def _check_nothing_left_out(self, saved: Saved) -> None:
        """What nothing saved depends on may be lost as well: an average of the weights."""
        key = self._first.last_key(saved.records[-1].run)
        if key is None:
            return
        found = suspects(key, self._first, self._second, saved)
        harmless = [each for each in found if each.kind in ("generator", "sampler") and not each.captured]
        causes = diagnosis.left_out([each for each in found if each not in harmless], self._integration(key))
        if causes:
            self.report = replace(self.report, causes=causes)
            self._stop("left out", f"{self._story}; all checkpoints are equal, but they do not hold everything")
        for each in harmless:
            self._note(f"{each} is in no checkpoint, and not as it would be; nothing that was saved depends on it")

    # -- behind ----------------------------------------------------------------------------------------------

    def _train(self, name: str, what: str, *, hash_seed: int, kill: Kill | None = None) -> tuple[Ended, Saved]:
        self._started += 1
        number, total = self._started, 2 + 2 * self._options.runs
        store = self._folder / name
        script = Script(self._command, store, shown=self._options.shown, timeout=self._options.timeout)
        ended = script.run(
            hash_seed=hash_seed, kill=kill, watch=lambda durable: self._progress(what, number, total, durable)
        )
        return ended, Saved(store)

    def _case(self, deviation: Deviation, found: Sequence[Suspect], numbers: dict[str, tuple[object, object]]) -> Case:
        objects = self._first.evidence(deviation.key)["objects"]
        loaders = [each["shown"] for each in objects if each["kind"] == "loader"]
        return Case(deviation.differences, found, numbers, loaders, self._integration(deviation.key))

    def _integration(self, key: Key) -> str:
        names = self._first.evidence(key)["integrations"]
        return names[0] if names else ""

    @property
    def _story(self) -> str:
        killed = self.report.kills[-1]
        where = f"went on from {killed.resumed_from}" if killed.resumed_from else "was started again"
        durable = "1 checkpoint was" if killed.after == 1 else f"{killed.after} checkpoints were"
        return f"killed when {durable} durable, the training {where}"

    def _check_end(self, ended: Ended) -> None:
        if ended.timed_out or ended.exit_code != 0:
            self.report = replace(self.report, output=ended.tail)
            self._not_tried(f"nobody killed the script, and it {self._failure(ended)}", "mend that first")

    def _failure(self, ended: Ended) -> str:
        if ended.timed_out:
            return f"was not done after {self._options.timeout:g} s"
        return f"failed with exit code {ended.exit_code}"

    def _not_tried(self, headline: str, remedy: str) -> NoReturn:
        self.report = replace(self.report, remedy=remedy)
        self._stop("not tried", headline)

    def _stop(self, outcome: Outcome, headline: str) -> NoReturn:
        self._say(outcome, headline)
        raise _Over

    def _say(self, outcome: Outcome, headline: str) -> None:
        self.report = replace(self.report, outcome=outcome, headline=headline)

    def _note(self, text: str) -> None:
        if text not in self.report.notes:
            self.report = replace(self.report, notes=(*self.report.notes, text))

    def _note_metrics(self, comparison: Comparison) -> None:
        found = [item for item in comparison.metrics.items() if item[0] not in self._varying_metrics]
        for name, (one, other) in found[:_FEW]:
            self._note(
                f"metric {name} of {comparison.metrics_at} is {one:.6g} uninterrupted and {other:.6g} resumed, but the "
                "states are equal: it averages over something that was lost with the kill"
            )


def _short(path: str) -> str:
    """Without the options that Lightning puts into a callback's key."""
    return re.sub(r"\{.*?\}", "", path).rstrip(".[")
