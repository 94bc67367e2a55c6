"""Store: the folder that holds runs. It joins objects, manifests and index, and answers for all of them."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ckpt_tracker import looking_up
from ckpt_tracker.checkpoint import Checkpoint
from ckpt_tracker.disk.filesystem import StoreLock
from ckpt_tracker.environment import user
from ckpt_tracker.errors import (
    CheckpointNotFound,
    CkptTrackerError,
    SaveFailed,
    StoreReadOnly,
)
from ckpt_tracker.files import catching_up, run_files
from ckpt_tracker.files.layout import Layout
from ckpt_tracker.index.database import Index
from ckpt_tracker.records import CheckpointRecord, Mode, Plan, RunRecord, VerifyReport
from ckpt_tracker.run import Run, check_metrics
from ckpt_tracker.selection import check_run_name, nearest
from ckpt_tracker.selection import parse as parse_reference
from ckpt_tracker.writer import EXIT_SECONDS, not_durable

if TYPE_CHECKING:
    from typing_extensions import Self

    from ckpt_tracker.compaction.apply import Compaction
    from ckpt_tracker.compaction.plan import CompactionPlan
    from ckpt_tracker.criteria import Tie
    from ckpt_tracker.files.object_folder import ObjectFolder
    from ckpt_tracker.inspection.repair import RepairPlan
    from ckpt_tracker.inspection.verification import Progress
    from ckpt_tracker.retention import Retention
    from ckpt_tracker.retention.reclaim import Reclaimer
    from ckpt_tracker.retention.trash import Trashed

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
        self.by = "python"
        """What the runs' events name as the one who did what is done through this object."""
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
        """Waits until all that was saved through this store is durable. Raises, once, a save's error.

        SaveFailed names what is still being written after EXIT_SECONDS.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self.index.close)
            for run in self._runs.values():
                stack.callback(_close, run)

    @cached_property
    def objects(self) -> ObjectFolder:
        """Where the bytes of tensors are. Loaded, as all that looking can do without, when first needed."""
        from ckpt_tracker.files.object_folder import ObjectFolder

        rest_seconds = _NETWORK_REST_SECONDS if self.layout.on_network else 0.0
        return ObjectFolder(
            self.layout.objects,
            tmp=self.layout.tmp,
            rest_seconds=rest_seconds,
            quarantine=self.layout.quarantine / "objects",
        )

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
        return [self._runs.setdefault(name, Run(self, name)) for name in self.index.run_names()]

    def find_run(self, name: str) -> Run:
        """The run of that name. Raises CheckpointNotFound, naming the nearest, where there is none."""
        if not self.index.has_run(name):
            if run_files.exists(self.layout, name):
                self.run_record(name)  # raises what keeps it out of the index
            hint = nearest(name, self.index.run_names())
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
        version = looking_up.version(self, wanted)
        record = None if version is None else self.index.checkpoint(run.name, version)
        if record is None:
            raise looking_up.not_found(self, reference, wanted)
        return self.checkpoint(record)

    def best(
        self,
        metric: str | None = None,
        mode: Mode | None = None,
        *,
        runs: Iterable[str] | None = None,
        tie: Tie = "first",
        min_delta: float = 0.0,
    ) -> Checkpoint:
        """The best of several runs (all, unless named), as `Run.best` finds it in one: first in the order of time.

        Without a metric it is by what all of them monitor. Raises CheckpointNotFound, InvalidOption.
        """
        from ckpt_tracker import choosing

        return choosing.best_of_runs(self, metric, mode, runs=runs, tie=tie, min_delta=min_delta)

    def last(self) -> Checkpoint:
        """The newest of all runs. Raises CheckpointNotFound where there is none."""
        from ckpt_tracker import choosing

        return choosing.last_of_all(self)

    def frame(self, run: str | None = None) -> dict[str, list[Any]]:
        """All checkpoints, or a run's, as columns of equal length: one row a checkpoint, each metric a column.

        `pandas.DataFrame(store.frame())` and `polars.DataFrame(store.frame())` take it. Where a checkpoint lacks a
        metric there is None; a metric called as another column is stands under `metrics.NAME`.
        """
        from ckpt_tracker.frame import frame

        self.drain()
        return frame(self.index.checkpoints(None if run is None else self.find_run(run).name))

    def checkpoint(self, record: CheckpointRecord) -> Checkpoint:
        """A record as a checkpoint that can be loaded."""
        return Checkpoint(record, layout=self.layout, objects=self.objects, evaluate=self.evaluate)

    def evaluate(self, record: CheckpointRecord, metrics: Mapping[str, Any]) -> CheckpointRecord:
        """What `Checkpoint.add_metrics` does."""
        from ckpt_tracker.retention import keeping

        return keeping.evaluate(self, record, check_metrics(metrics))

    def run_record(self, name: str) -> RunRecord:
        """What the run's files say: `run.json` and the events."""
        return run_files.read(self.layout, name)

    def record_event(self, run: str, event: str, **details: Any) -> None:
        """Appends to the run's events, durably, and brings the index up to date. Says by whom."""
        self._check_writable()
        run_files.events(self.layout, run).append(event, **{"by": self.by, "user": user(), **details})
        self.index.put_run(self.run_record(run))

    # -- keeping and checking --------------------------------------------------------------------------------

    def plan(
        self,
        keep: Retention | str,
        *,
        runs: Iterable[str] | None = None,
        now: datetime | None = None,
    ) -> Plan:
        """What `keep` decides for each run (all, unless named), with reasons. Nothing is deleted.

        A cap is for all of them together.
        """
        from ckpt_tracker.retention import keeping

        return keeping.plan(self, keep, runs=runs, now=now)

    def apply(self, plan: Plan) -> Plan:
        """Moves what the plan doesn't keep to the trash, where it can be had back; `gc` frees its space a day later.

        Returns what was done: what has been tagged or pinned since the plan was made stays. Raises InvalidOption when
        it would leave a run without any checkpoint: nothing is moved then.
        """
        from ckpt_tracker.retention import keeping

        return keeping.apply(self, plan)

    def evict(self, plan: Plan) -> int:
        """Deletes what a tracker's plan doesn't keep, at once and for good; returns the bytes freed."""
        from ckpt_tracker.retention import keeping

        keeping.evict(self, plan)
        return self.free()

    def remove(self, *checkpoints: Checkpoint) -> None:
        """Moves checkpoints to the trash, whatever would keep them.

        Raises InvalidOption for one that is tagged or pinned: nothing is moved then.
        """
        from ckpt_tracker.retention import keeping

        keeping.remove(self, [each.record for each in checkpoints])

    def trash(self) -> list[Trashed]:
        """What was removed by people and can be had back, the last first."""
        from ckpt_tracker.retention import trash

        return trash.listing(self)

    def undo(self, reference: str | None = None) -> list[Checkpoint]:
        """Brings back what was removed last, or what `reference` means (`RUN`: what was removed last of it).

        Raises CheckpointNotFound where that is not in the trash.
        """
        from ckpt_tracker.retention import trash

        return [self.checkpoint(record) for record in trash.restore(self, reference)]

    def empty_trash(self) -> int:
        """Deletes all trash for good, and what no checkpoint needs; returns the bytes freed. Waits as `gc` does."""
        self._check_writable()
        return self.reclaimer.collect(trash_seconds=0.0)

    def free(self, *, seconds: float = 0.0) -> int:
        """Deletes what evicted checkpoints alone needed, where that had to be postponed; returns the bytes freed.

        Waits up to `seconds` for saves that are under way; after them it stays postponed.
        """
        return self.reclaimer.free(seconds=seconds)

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
        return self.reclaimer.collect(dry_run=dry_run)

    def make_room(self) -> int:
        """What a full disk asks for: deletes all trash, and what no checkpoint needs; returns the bytes freed."""
        return self.reclaimer.collect(trash_seconds=0.0, wait=False)

    def plan_compaction(self, *, runs: Iterable[str] | None = None, progress: Progress | None = None) -> CompactionPlan:
        """Which objects of these runs (of all, unless named) would take less room encoded, and about how much less.

        Reads the manifests, and one block of each object. Changes nothing. Raises MissingExtra without zstandard.
        """
        from ckpt_tracker.compaction.plan import Planner

        planner = Planner(self.layout, self.objects, named=self.reclaimer.named())
        return planner.plan(self.layout.run_names() if runs is None else runs, progress=progress)

    def compact(
        self,
        plan: CompactionPlan | None = None,
        *,
        runs: Iterable[str] | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> Compaction:
        """Encodes objects losslessly, so that they take less room; by a plan, or by one made now.

        Beside a training it only holds saves up for as long as some files are deleted. `threads`: half of the cores,
        unless said. From then on earlier versions of ckpt_tracker refuse the store. Raises MissingExtra, StoreFull,
        StoreReadOnly; whatever ends it, what was done by then is whole.
        """
        from ckpt_tracker.compaction.apply import Compactor

        self._check_writable()
        wanted = self.plan_compaction(runs=runs) if plan is None else plan
        compactor = Compactor(self.layout, self.objects, self.lock, release=self.reclaimer.release)
        return compactor.apply(wanted, threads=threads or max(1, (os.cpu_count() or 1) // 2), progress=progress)

    def verify(
        self, *, deep: bool = False, runs: Iterable[str] | None = None, progress: Progress | None = None
    ) -> VerifyReport:
        """Checks every manifest and the sizes of all objects; with `deep` every byte. Changes nothing."""
        from ckpt_tracker.inspection.verification import verify_runs

        catching_up.bring_up_to_date(self.index, self.layout, anew=True)
        return verify_runs(self.layout, self.objects, runs, deep=deep, index=self.index, progress=progress)

    def plan_repair(self, *, progress: Progress | None = None) -> RepairPlan:
        """Verifies every byte, and says what `repair` would do, and what is lost. Changes nothing."""
        from ckpt_tracker.inspection.repair import RepairPlan

        return RepairPlan(self.verify(deep=True, progress=progress))

    def repair(self, plan: RepairPlan) -> int:
        """Applies the plan, and deletes what no checkpoint needs then; returns the bytes freed.

        Waits until no save is under way. What is damaged goes to `trash/quarantine/`, and stays there. Raises
        FormatTooNew, StoreReadOnly.
        """
        from ckpt_tracker.inspection import repair

        self._check_writable()
        repair.clear_locks(plan, self.layout)
        with self.lock.sweeping():
            repair.apply(plan, self.layout, self.objects, self.index)
        self._fill(self.index)
        return self.reclaimer.collect(trash_seconds=math.inf)

    # -- behind ----------------------------------------------------------------------------------------------

    @cached_property
    def reclaimer(self) -> Reclaimer:
        """What deletes. Loaded when first needed."""
        from ckpt_tracker.retention.reclaim import Reclaimer

        return Reclaimer(self.layout, self.objects, self.lock)

    def drain(self) -> None:
        """Waits until what was saved through this store is written."""
        for run in self._runs.values():
            run._drain()

    def _check_writable(self) -> None:
        if self.read_only:
            raise StoreReadOnly(f"the store {self.path} can't be written: check its permissions")

    def _fill(self, index: Index) -> None:
        catching_up.bring_up_to_date(index, self.layout)


def _close(run: Run) -> None:
    late = run.close(EXIT_SECONDS)
    if late:
        raise SaveFailed(not_durable(late, EXIT_SECONDS))
