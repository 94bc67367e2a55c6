"""What has to hold on every disk that a power cut leaves, and whatever else a store has been through."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from durability.crash_recording import Op
from durability.crash_scenarios import RUN, state

from ckpt_tracker import Checkpoint, Store
from ckpt_tracker.disk import formats

_NEXT = 900
_PIECE = re.compile(rb'\["([0-9a-f]{64})",\d+,\d+\]')


@dataclass(frozen=True)
class Promises:
    """What scripts were promised up to some moment, by run."""

    saved: dict[str, dict[int, int]] = field(default_factory=dict)
    """Version → seed of what was reported durable and may not have been removed."""
    newest: dict[str, int] = field(default_factory=dict)
    """The highest version that was ever reported."""
    tags: dict[str, dict[str, int]] = field(default_factory=dict)
    configs: dict[str, dict[str, str]] = field(default_factory=dict)

    def kept(self, op: Op) -> Promises:
        """With what one mark says."""
        saved = {run: dict(versions) for run, versions in self.saved.items()}
        newest, tags = dict(self.newest), {run: dict(each) for run, each in self.tags.items()}
        if "saved" in op.mark:
            run, version, seed = op.mark["saved"]
            saved.setdefault(run, {})[version] = seed
            newest[run] = max(version, newest.get(run, 0))
        for run, version in op.mark.get("removing", ()):
            saved[run].pop(version, None)
        configs = self.configs | dict([op.mark["started"]] if "started" in op.mark else [])
        if "tagged" in op.mark:
            run, name, version = op.mark["tagged"]
            tags.setdefault(run, {})[name] = version
        return Promises(saved, newest, tags, configs)


def same(seed: int, found: object) -> bool:
    """It is the state of that seed, bit for bit."""
    saved = state(seed)
    if not isinstance(found, dict) or found["loop"] != saved["loop"] or set(found["model"]) != set(saved["model"]):
        return False
    pairs = [(saved["model"][name], found["model"][name]) for name in saved["model"]]
    return all(
        isinstance(there, np.ndarray) and (here.dtype, here.tobytes()) == (there.dtype, there.tobytes())
        for here, there in pairs
    )


def violations(path: Path, promises: Promises, *, go_on: bool = True) -> list[str]:
    """Opens a store, looks at everything, saves once more and collects; returns what is not as it was promised."""
    try:
        with Store(path) as store:
            found = _looked_at(store, promises)
            return _goes_on(store, promises) if go_on and not found else found
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]


def _looked_at(store: Store, promises: Promises) -> list[str]:
    found = []
    for run, newest in promises.newest.items():
        there = {each.version: each for each in store.run(run).checkpoints()}
        saved = promises.saved.get(run, {})
        found += [f"{run}@v{version} was reported durable, and is gone" for version in saved if version not in there]
        found += [f"run {run} had a checkpoint, and has none"] * (newest > 0 and not there)
        found += [f"{each.ref} is not what was saved" for each in there.values() if not _loads(each, saved)]
        if sorted(there) != formats.versions(store.layout.manifests(run)):
            found.append(f"the index of {run} is not what the manifests say")
        tags = store.run_record(run).tags
        found += [
            f"tag {tag} is lost" for tag, version in promises.tags.get(run, {}).items() if tags.get(tag, 0) < version
        ]
    for run, config in promises.configs.items():
        if store.run(run).config != config:
            found.append(f"the config of run {run} is lost")
    return found + [f"verify: {each.problem}" for each in store.verify(deep=True).findings]


def _loads(checkpoint: Checkpoint, saved: dict[int, int]) -> bool:
    return same(saved.get(checkpoint.version, checkpoint.epoch), checkpoint.load())


def _goes_on(store: Store, promises: Promises) -> list[str]:
    run = store.run(RUN)
    checkpoint = run.save(state(_NEXT), epoch=_NEXT).wait()
    found = []
    if checkpoint.version <= promises.newest.get(RUN, 0):
        found.append(f"version {checkpoint.version} is given twice")
    if not same(_NEXT, checkpoint.load()):
        found.append("the next save is not what was saved")
    return found + after_collection(store)


def after_collection(store: Store) -> list[str]:
    """gc leaves what checkpoints need, and nothing else."""
    store.gc()
    found = [f"{each.name} is left in tmp" for each in store.layout.tmp.glob("[!e]*")]
    manifests = [*store.layout.runs.glob("*/manifests/*.json"), *store.layout.trash.glob("*/*.json")]
    named = {name.decode() for each in manifests for name in _PIECE.findall(each.read_bytes())}
    needed = store.objects.with_bases(named)
    there = {each.name for folder in (store.layout.objects, store.layout.encoded) for each in folder.glob("??/*")}
    found += [f"object {name} is left, and nothing needs it" for name in there - needed]
    return found + [f"object {name} is missing" for name in needed - there]
