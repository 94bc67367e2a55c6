"""Where a training resumes from, and what it is called when nobody named it."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ckpt_tracker import environment, guard
from ckpt_tracker.checkpoint import Checkpoint
from ckpt_tracker.disk.formats import versions
from ckpt_tracker.disk.jsonfile import plain
from ckpt_tracker.errors import CheckpointGone, CheckpointNotFound, Damaged, InvalidOption, StateMismatch
from ckpt_tracker.files import manifest as manifests
from ckpt_tracker.files import run_files
from ckpt_tracker.records import Monitor, RunRecord
from ckpt_tracker.run import Run
from ckpt_tracker.selection import parse
from ckpt_tracker.store import Store

if TYPE_CHECKING:
    from typing_extensions import Self

_log = logging.getLogger("ckpt_tracker")
_WORDS = ("auto", "last", "best", "never")

Resumed = tuple[Checkpoint | None, dict[str, Any] | None]


@dataclass(frozen=True)
class Start:
    """A training starts, or goes on: what the run's events record of it."""

    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    monitor: Monitor | None
    resumed_from: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Mapping[str, Any], *, monitor: Monitor | None) -> Self:
        """A training from scratch in this process."""
        return cls(plain(config), environment.describe(), monitor)

    def changes_since(self, run: RunRecord) -> tuple[guard.Change, ...]:
        """What is different from the run's last start. A package that only one of the two had imported is no change."""
        earlier = run.last_start or {"config": run.config, "environment": run.environment}
        was, now = ({"config": each["config"], "environment": each["environment"]} for each in (earlier, vars(self)))
        return tuple(
            change
            for change in guard.changes(was, now)
            if not (change.name.startswith("environment.packages.") and None in (change.was, change.now))
        )

    def details(self) -> dict[str, Any]:
        """The members of the event."""
        monitor = self.monitor
        return {
            "resumed_from": self.resumed_from,
            "overrides": self.overrides,
            "monitor": monitor.metric if monitor else None,
            "mode": monitor.mode if monitor else None,
            "config": self.config,
            "environment": self.environment,
            "code_diff": environment.code_diff(),
        }


def check(resume: Any, *, monitored: bool) -> None:
    """Raises InvalidOption for a `resume=` that can mean nothing."""
    if resume == "best" and not monitored:
        raise InvalidOption("resume='best' needs monitor and mode, which say what best is")
    if resume not in _WORDS:
        if not isinstance(resume, str) or "@" not in resume:
            words = ", ".join(map(repr, _WORDS))
            raise InvalidOption(f"resume={resume!r}: expected {words} or a reference such as 'mnist@v12'")
        parse(resume)


def choose(store: Store, run: Run, resume: str, monitor: Monitor | None) -> Resumed:
    """The checkpoint that `resume` means, with its state, which was read and verified; or (None, None).

    "auto" steps back to the newest checkpoint that verifies, and says which it skipped.
    """
    if resume == "never":
        return None, None
    if resume == "auto":
        return _newest_that_loads(store, run)
    try:
        if resume == "last":
            checkpoint = run.last()
        elif resume == "best":
            assert monitor is not None
            checkpoint = run.best(monitor.metric, monitor.mode)
        else:
            checkpoint = store[resume]
    except CheckpointNotFound as error:
        raise CheckpointNotFound(f"resume={resume!r}: {error}") from error
    if checkpoint.weights_only:
        raise _weights_only(checkpoint, "resume='auto' takes the newest whole one")
    return _loaded(checkpoint)


def mention_interrupted(store: Store) -> None:
    """Says by which name the last unnamed run of this script can be continued, when it did not come to its end."""
    script = environment.script()
    for run in reversed(store.runs()):
        record = run.record
        if not record.unnamed or record.environment.get("script") != script:
            continue
        if run_files.is_taken(store.layout, run.name):
            continue  # it still trains
        if not record.finished and store.index.last(run.name) is not None:
            last = run.last()
            _log.warning(
                "run %s of this script was interrupted at epoch %s: continue it with run=%r",
                run.name,
                last.epoch,
                run.name,
            )
        return


def fresh_name() -> str:
    """A run name that nobody has: the script, the time, and a little chance."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", environment.script().removesuffix(".py")).strip("-")
    now = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    return f"{stem[:60] or 'run'}-{now}-{os.urandom(2).hex()}"


def _newest_that_loads(store: Store, run: Run) -> Resumed:
    skipped = 0
    stripped: list[Checkpoint] = []
    for version in reversed(versions(store.layout.manifests(run.name))):
        try:
            found = manifests.read(store.layout.manifests(run.name), version, run=run.name)
            checkpoint = store.checkpoint(found.record)
            if not checkpoint.weights_only:
                return _loaded(checkpoint)
            stripped.append(checkpoint)
            _log.warning("%s is skipped: it holds its weights only", checkpoint.ref)
        except (Damaged, CheckpointGone) as error:
            skipped += 1
            _log.warning("%s@v%d is skipped: %s", run.name, version, error)
    if skipped:
        raise Damaged(
            f"none of the {skipped} checkpoints of run {run.name!r} loads: "
            "see `ckpt verify --deep`; resume='never' starts from scratch and leaves them as they are"
        )
    if stripped:
        raise _weights_only(stripped[0], "resume='never' starts from scratch and leaves them as they are")
    return None, None


def _weights_only(checkpoint: Checkpoint, remedy: str) -> StateMismatch:
    return StateMismatch(
        f"{checkpoint.ref} holds its weights only ({', '.join(checkpoint.sections)}; retention gave up the rest): "
        f"no training can resume from it. {remedy}; store[{checkpoint.ref!r}].load('model') gives the weights"
    )


def _loaded(checkpoint: Checkpoint) -> tuple[Checkpoint, dict[str, Any]]:
    state = checkpoint.load()
    _log.info("continuing from %s (epoch %s, step %s)", checkpoint.ref, checkpoint.epoch, checkpoint.step)
    return checkpoint, state
