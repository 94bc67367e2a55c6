"""Store: the folder that holds runs. It joins objects, manifests and index, and answers for all of them."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ckpt_tracker import formats, run_files
from ckpt_tracker.checkpoint import Checkpoint
from ckpt_tracker.errors import (
    CheckpointNotFound,
    CkptTrackerError,
    InvalidOption,
    StoreReadOnly,
)
from ckpt_tracker.filesystem import StoreLock
from ckpt_tracker.index import Index
from ckpt_tracker.layout import Layout
from ckpt_tracker.records import CheckpointRecord, Plan, RunRecord, VerifyReport
from ckpt_tracker.run import Run
from ckpt_tracker.selection import Reference, check_run_name, nearest
from ckpt_tracker.selection import parse as parse_reference

if TYPE_CHECKING:
    from typing_extensions import Self

    from ckpt_tracker.objects import ObjectFolder
    from ckpt_tracker.reclaim import Reclaimer
    from ckpt_tracker.retention import Retention
    from ckpt_tracker.verification import Progress

_log = logging.getLogger("ckpt_tracker")
_NETWORK_REST_SECONDS = 24 * 3600.0


class Store:
    """A folder of runs: `path`, else `$CKPT_TRACKER_STORE`, else `./checkpoints`.

    It is made where there is none, unless `create=False`. A store that can't be written opens read-only.
    Raises StoreNotFound, NotAStore, FormatTooNew, Damaged.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, create: bool = True) -> None:
        chosen = path or os.environ.get("CKPT_TRACKER_STORE") or "checkpoints"
        self.path = Path(chosen).expanduser().absolute()
        self.layout = Layout(self.path)
        self.id: str = self.layout.open(create=create)["id"]
        self.read_only = not self.layout.writable
        self.lock = StoreLock(self.layout.locks)
        self.index = Index(self.layout.index_file(), fill=self._fill)
        self._runs: dict[str, Run] = {}
        self._fill(self.index)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except CkptTrackerError as failed:
            if error is None:
                raise
            # the block's own error is what the user must see
            _log.warning("%s", failed)

    def __repr__(self) -> str:
        return f"<Store {self.path}>"

    def close(self) -> None:
        """Waits until all that was saved through this store is durable. Raises, once, a save's error."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.index.close)
            for run in self._runs.values():
                stack.callback(run.close)

    @cached_property
    def objects(self) -> ObjectFolder:
        """Where the bytes of tensors are. Loaded, as all that looking can do without, when first needed."""
        from ckpt_tracker.objects import ObjectFolder

        rest_seconds = _NETWORK_REST_SECONDS if self.layout.on_network else 0.0
        return ObjectFolder(self.layout.objects, tmp=self.layout.tmp, rest_seconds=rest_seconds)

    # -- runs and checkpoints --------------------------------------------------------------------------------

    def run(self, name: str, config: Mapping[str, Any] | None = None, *, unnamed: bool = False) -> Run:
        """Opens the run of that name, or starts it with `config`. Raises InvalidOption for a name that can't be one.

        What JSON can't hold of the config is recorded as text.
        """
        check_run_name(name)
        if not run_files.exists(self.layout, name):
            self._check_writable()
            with self.lock.writing():
                run_files.start(self.layout, name, config or {}, unnamed=unnamed)
            self.index.put_run(self.run_record(name))
        return self._runs.setdefault(name, Run(self, name))

    def runs(self) -> list[Run]:
        """All runs, oldest first."""
        return [self._runs.setdefault(each.name, Run(self, each.name)) for each in self.index.runs()]

    def find_run(self, name: str) -> Run:
        """The run of that name. Raises CheckpointNotFound, naming the nearest, where there is none."""
        if self.index.run(name) is None:
            hint = nearest(name, (each.name for each in self.index.runs()))
            raise CheckpointNotFound(f"there is no run {name!r} in {self.path}{hint}")
        return self._runs.setdefault(name, Run(self, name))

    def __getitem__(self, reference: str) -> Checkpoint:
        """The checkpoint that a reference means. Raises CheckpointNotFound, InvalidOption."""
        wanted = parse_reference(reference)
        run = self.find_run(wanted.run)
        run._drain()
        if wanted.by == "best":
            monitor = wanted.monitor
            return run.best(monitor.metric, monitor.mode) if monitor else run.best()
        version = self._version(wanted)
        record = None if version is None else self.index.checkpoint(run.name, version)
        if record is None:
            raise CheckpointNotFound(self._missing(reference, wanted))
        return self.checkpoint(record)

    def checkpoint(self, record: CheckpointRecord) -> Checkpoint:
        """A record as a checkpoint that can be loaded."""
        return Checkpoint(record, layout=self.layout, objects=self.objects)

    def run_record(self, name: str) -> RunRecord:
        """What the run's files say: `run.json` and the events."""
        return run_files.read(self.layout, name)

    def record_event(self, run: str, event: str, **details: Any) -> None:
        """Appends to the run's events, durably, and brings the index up to date."""
        self._check_writable()
        run_files.events(self.layout, run).append(event, **details)
        self.index.put_run(self.run_record(run))

    # -- keeping and checking --------------------------------------------------------------------------------

    def plan(
        self,
        keep: Retention | str,
        *,
        runs: Iterable[str] | None = None,
        now: datetime | None = None,
    ) -> Plan:
        """What `keep` decides for each run (all, unless named), with reasons. Nothing is deleted."""
        from ckpt_tracker import retention

        policy = retention.parse(keep) if isinstance(keep, str) else keep
        moment = now or datetime.now(timezone.utc)
        names = [run.name for run in self.index.runs()] if runs is None else list(runs)
        decisions = [
            decision
            for name in names
            for decision in retention.decide(
                policy.bound_to(self.run_record(name).monitor),
                self.index.checkpoints(name),
                now=moment,
            )
        ]
        plan = Plan(tuple(decisions))
        removed = [(each.run, each.version) for each in plan.removed]
        return replace(plan, freed_bytes=self._reclaimer.freed_by(removed))

    def apply(self, plan: Plan) -> None:
        """Moves what the plan doesn't keep to the trash; `gc` frees its space a day later.

        Raises InvalidOption when it would leave a run without any checkpoint: nothing is moved then.
        """
        self._check_writable()
        runs = {each.checkpoint.run for each in plan.decisions}
        removed = {run: [each.version for each in plan.removed if each.run == run] for run in runs}
        for run, versions in removed.items():
            if set(formats.versions(self.layout.manifests(run))) <= set(versions):
                raise InvalidOption(f"the plan would leave run {run!r} without any checkpoint: keep one at least")
        for run, versions in sorted(removed.items()):
            if versions:
                self._reclaimer.trash(run, versions)
                self.index.remove(run, versions)

    def evict(self, plan: Plan) -> int:
        """Deletes what a tracker's plan doesn't keep, at once and for good; returns the bytes freed."""
        for run in sorted({each.run for each in plan.removed}):
            versions = [each.version for each in plan.removed if each.run == run]
            self._reclaimer.evict(run, versions)
            self.index.remove(run, versions)
        return self.free()

    def free(self) -> int:
        """Deletes what evicted checkpoints alone needed, where that had to be postponed; returns the bytes freed."""
        return self._reclaimer.free()

    def free_bytes(self) -> int:
        """Room on the store's file system, for this user."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def gc(self, *, dry_run: bool = False) -> int:
        """Deletes objects that no checkpoint needs, what interrupted saves left, and old trash; returns bytes freed.

        With `dry_run` nothing is deleted. Waits until no save is under way. Raises Damaged where a manifest can't be
        read, because what it needs is not known.
        """
        self._check_writable()
        return self._reclaimer.collect(dry_run=dry_run)

    def make_room(self) -> int:
        """What a full disk asks for: deletes all trash, and what no checkpoint needs; returns the bytes freed."""
        return self._reclaimer.collect(trash_seconds=0.0, wait=False)

    def verify(
        self, *, deep: bool = False, runs: Iterable[str] | None = None, progress: Progress | None = None
    ) -> VerifyReport:
        """Checks every manifest and the sizes of all objects; with `deep` every byte. Changes nothing."""
        from ckpt_tracker.verification import verify_runs

        names = self.layout.run_names() if runs is None else runs
        return verify_runs(self.layout, self.objects, names, deep=deep, progress=progress)

    # -- behind ----------------------------------------------------------------------------------------------

    @cached_property
    def _reclaimer(self) -> Reclaimer:
        from ckpt_tracker.reclaim import Reclaimer

        return Reclaimer(self.layout, self.objects, self.lock)

    def _check_writable(self) -> None:
        if self.read_only:
            raise StoreReadOnly(f"the store {self.path} can't be written: check its permissions")

    def _fill(self, index: Index) -> None:
        run_files.bring_up_to_date(index, self.layout)

    def _version(self, wanted: Reference) -> int | None:
        if wanted.by == "version":
            return wanted.number
        if wanted.by == "tag":
            return self.run_record(wanted.run).tags.get(wanted.tag or "")
        if wanted.by == "last":
            return self.index.last(wanted.run)
        if wanted.by == "epoch":
            return self.index.at(wanted.run, epoch=wanted.number)
        return self.index.at(wanted.run, step=wanted.number)

    def _missing(self, reference: str, wanted: Reference) -> str:
        records = self.index.checkpoints(wanted.run)
        if not records:
            return f"{reference!r} matches nothing: run {wanted.run!r} has no checkpoints yet"
        known = [f"v{each.version}" for each in records]
        if wanted.by in ("epoch", "step"):
            numbers = sorted({getattr(each, wanted.by) for each in records} - {None})
            known = [f"{wanted.by}:{number}" for number in numbers]
        elif wanted.by == "tag":
            known = ["last", "best", *self.run_record(wanted.run).tags, *known]
        text = reference.partition("@")[2]
        return f"{reference!r} matches no checkpoint{nearest(text, known)}"
