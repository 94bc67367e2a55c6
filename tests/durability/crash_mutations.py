"""The protocol with one step taken out: each patches the process that is recorded, and is named with the scenario
that has to tell.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ckpt_tracker import run_writer
from ckpt_tracker.compaction import apply
from ckpt_tracker.disk import filesystem
from ckpt_tracker.files import events, layout, object_folder, objects
from ckpt_tracker.retention import reclaim


@dataclass(frozen=True)
class Mutation:
    """A step taken out."""

    scenario: str
    """What is recorded, with the step taken out."""
    apply: Callable[[], None]
    """Takes it out, in this process and for good."""


def _unsynced(pattern: str) -> Callable[[], None]:
    """No fsync of the files and folders whose paths match."""

    def apply() -> None:
        original = os.fsync

        def fsync(descriptor: int) -> None:
            if not re.search(pattern, os.readlink(f"/proc/self/fd/{descriptor}")):
                original(descriptor)

        os.fsync = fsync

    return apply


def _in_place() -> None:
    """A manifest is written where it will be, and synced there."""
    original = os.replace

    def replace(source: Any, target: Any) -> None:
        if "manifests" not in str(target):
            original(source, target)
            return
        with open(source, "rb") as file, open(target, "wb") as copy:
            copy.write(file.read())
            copy.flush()
            os.fsync(copy.fileno())
        os.unlink(source)

    os.replace = replace


def _manifest_first() -> None:
    """The commit, and then what it commits."""
    late: list[objects.ObjectWriter] = []
    flush, publish = objects.ObjectWriter._flush, run_writer.manifests.publish

    def publish_first(*arguments: Any, **more: Any) -> None:
        publish(*arguments, **more)
        flush(late.pop())

    def flush_later(writer: objects.ObjectWriter) -> None:
        late.append(writer)

    objects.ObjectWriter._flush = flush_later
    objects.ObjectWriter._abandon = lambda self: None
    run_writer.manifests.publish = publish_first


def _evicted_early() -> None:
    """The old one goes before the new one is there."""
    original = run_writer.RunWriter._make_durable

    def make_durable(self: Any, state: Any, record: Any) -> Any:
        store = self._store
        versions = [each.version for each in store.index.checkpoints(record.run)]
        if versions:
            store.reclaimer.evict(record.run, versions)
        return original(self, state, record)

    run_writer.RunWriter._make_durable = make_durable


def _trusting() -> None:
    """An object that is there is taken for durable, but for its bytes."""

    def is_durable(self: Any, name: str) -> bool:
        filesystem.sync_path(self._objects.path(name))
        return True

    objects.ObjectWriter._is_durable = is_durable


def _first_sync_of_an_eviction() -> None:
    """What an eviction keeps is taken for durable."""
    evict = reclaim.Reclaimer.evict
    sync_folder = reclaim.sync_folder

    def evict_at_once(*arguments: Any, **more: Any) -> Any:
        calls = iter([None])
        reclaim.sync_folder = lambda path: sync_folder(path) if next(calls, path) else None
        try:
            return evict(*arguments, **more)
        finally:
            reclaim.sync_folder = sync_folder

    reclaim.Reclaimer.evict = evict_at_once


def _no_name_of_the_events() -> None:
    events.sync_folder = lambda path: None


def _no_settling() -> None:
    layout.Layout.settle = lambda self, run: None


def _no_settling_before_a_sweep() -> None:
    reclaim.Reclaimer._settle = lambda self: None


def _no_sync_of_what_is_deleted() -> None:
    reclaim.sync_folder = lambda path: None


def _raw_goes_first() -> None:
    """The raw bytes are gone before the encoded ones have their name."""
    original = os.replace

    def replace(source: Any, target: Any) -> None:
        if "/encoded/" in str(target):
            raw = str(target).replace("/encoded/", "/objects/")
            if os.path.exists(raw):
                os.unlink(raw)
        original(source, target)

    os.replace = replace


def _base_goes_first() -> None:
    """A sweep knows nothing of bases."""
    object_folder.ObjectFolder.with_bases = lambda self, names: frozenset(names)


def _bases_beside_others() -> None:
    """What stands on a base may be durable before that one stands alone."""
    late: list[Any] = []
    name = apply.Compactor._name

    def name_at_once(self: Any, made: list[Any]) -> list[Any]:
        late.extend(made)
        if made and made[0].step.base is None:
            return []
        both = [*late]
        late.clear()
        return name(self, sorted(both, key=lambda each: each.step.base is None))

    apply.Compactor._name = name_at_once
    apply.Compactor._fits = lambda self, step: True


def no_lock() -> None:
    """Writers and sweep pass each other."""
    filesystem.StoreLock.writing = lambda self: contextlib.nullcontext()
    filesystem.StoreLock.sweeping = lambda self, **how: contextlib.nullcontext(enter_result=True)


_COMPACTION = {
    "an encoded file's bytes": Mutation("compactions", _unsynced(r"/tmp/encoded\.")),
    "an encoded file's name": Mutation("compactions", _unsynced(r"/encoded/[0-9a-f]{2}$")),
    "the names of the encoded files' folders": Mutation("compactions", _unsynced(r"/encoded$")),
    "the encoded file before the raw one goes": Mutation("compactions", _raw_goes_first),
    "a base stands alone first": Mutation("compactions", _bases_beside_others),
    "a base stays": Mutation("compactions", _base_goes_first),
}
MUTATIONS = {
    "an object's bytes": Mutation("first_save", _unsynced(r"/tmp/[0-9a-f]{64}\.")),
    "an object's name": Mutation("first_save", _unsynced(r"/objects/[0-9a-f]{2}$")),
    "the names of the objects' folders": Mutation("first_save", _unsynced(r"/objects$")),
    "a manifest's bytes": Mutation("saves", _unsynced(r"/tmp/\d{6}\.json\.")),
    "a manifest's name": Mutation("saves", _unsynced(r"/manifests$")),
    "an event's bytes": Mutation("tags", _unsynced(r"/events\.jsonl$")),
    "the name of the events' file": Mutation("first_save", _no_name_of_the_events),
    "the name of a run": Mutation("second_run", _unsynced(r"/runs$")),
    "the names in the store's folder": Mutation("first_save", _unsynced(r"/store$")),
    "the name of the store": Mutation("first_save", _unsynced(r"/first_save\+[^/]*$")),
    "the rename": Mutation("saves", _in_place),
    "objects before the manifest": Mutation("saves", _manifest_first),
    "the new one before the old one goes": Mutation("training", _evicted_early),
    "the folder of an object that was there": Mutation("killed with objects named", _trusting),
    "what a killed process named": Mutation("killed with a file of the run named", _no_settling),
    "the name of what an eviction keeps": Mutation(
        "killed with a checkpoint named, then evicted", _first_sync_of_an_eviction
    ),
    "that what was evicted stays away": Mutation("killed in an eviction, then collected", _no_settling_before_a_sweep),
    "manifests are gone before objects": Mutation("evictions", _no_sync_of_what_is_deleted),
    **({} if importlib.util.find_spec("zstandard") is None else _COMPACTION),
}
