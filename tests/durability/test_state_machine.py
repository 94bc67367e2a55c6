"""Whatever is done to a store, in whatever order, it holds what a few dictionaries say it should."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from ckpt_tracker import Store
from ckpt_tracker.errors import CheckpointNotFound

RUNS = st.sampled_from(["a", "b"])
VALUES = st.integers(0, 5)
EXAMPLES, STEPS = 2_000, 30
SHARED_MEMORY = Path("/dev/shm")


def state(value: int) -> dict[str, object]:
    """A large tensor and a small one; equal values share their objects, whichever run they are in."""
    return {"model": {"large": np.full(9_000, float(value)), "small": np.full(3, value)}, "loop": {"value": value}}


class StoreMachine(RuleBasedStateMachine):
    """The store, and what it should hold: of each run the value of each version, and the tags."""

    def __init__(self) -> None:
        super().__init__()
        # an fsync costs nothing there, and none is under test here
        self.folder = Path(tempfile.mkdtemp(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None))
        self.path = self.folder / "store"
        self.store = Store(self.path)
        self.kept: dict[str, dict[int, int]] = {}
        self.tags: dict[str, dict[str, int]] = {}
        self.newest: dict[str, int] = {}
        self.litter = 0

    def teardown(self) -> None:
        """Nothing is left on the disk."""
        self.store.close()
        shutil.rmtree(self.folder)

    @rule(run=RUNS, value=VALUES)
    def save(self, run: str, value: int) -> None:
        """A version is never given twice."""
        checkpoint = self.store.run(run).save(state(value), metrics={"value": value}).wait()
        assert checkpoint.version == self.newest.get(run, 0) + 1
        self.newest[run] = checkpoint.version
        self.kept.setdefault(run, {})[checkpoint.version] = value

    @precondition(lambda self: self.kept)
    @rule(run=RUNS, count=st.integers(1, 3), best=st.booleans(), trash=st.booleans())
    def retain(self, run: str, count: int, best: bool, trash: bool) -> None:  # noqa: FBT001 - hypothesis passes by name
        """As a tracker evicts, or as a person prunes."""
        if run not in self.kept:
            return
        plan = self.store.run(run).plan(f"last:{count}" + (" best:1:value:min" if best else ""))
        versions = self.kept[run]
        expected = set(sorted(versions)[-count:]) | set(self.tags.get(run, {}).values())
        if best:
            expected.add(min(versions, key=lambda version: (versions[version], version)))
        assert {each.version for each in plan.removed} == set(versions) - expected
        if trash:
            self.store.apply(plan)
        else:
            self.store.evict(plan)
        self.kept[run] = {version: value for version, value in versions.items() if version in expected}

    @precondition(lambda self: self.kept)
    @rule(run=RUNS, tag=st.sampled_from(["paper", "baseline"]), data=st.data())
    def pin(self, run: str, tag: str, data: st.DataObject) -> None:
        """A tag keeps its checkpoint, until it moves to another."""
        if run not in self.kept:
            return
        version = data.draw(st.sampled_from(sorted(self.kept[run])))
        self.store.run(run).tag(tag, self.store[f"{run}@v{version}"])
        self.tags.setdefault(run, {})[tag] = version

    @rule(room=st.booleans())
    def sweep(self, room: bool) -> None:  # noqa: FBT001 - hypothesis passes by name
        """gc leaves what is needed, and nothing that crashes left; a full disk takes the trash too."""
        if room:
            self.store.make_room()
        else:
            self.store.gc()
        self.litter = 0
        assert not list(self.store.layout.tmp.iterdir())
        if room:
            assert len(list(self.store.objects.names())) == self.store.verify().objects

    @rule(rebuild=st.booleans())
    def crash(self, rebuild: bool) -> None:  # noqa: FBT001 - hypothesis passes by name
        """A save dies half way: an object that nothing names, a file in tmp; the index may be lost, or be behind."""
        index = self.path / "index.sqlite"
        self.store.close()
        self.litter += 1
        fan = self.path / "objects" / "00"
        fan.mkdir(exist_ok=True)
        (fan / f"{self.litter:064x}").write_bytes(b"half")
        (self.path / "tmp" / f"object.{self.litter}").write_bytes(b"ha")
        if rebuild:
            index.unlink()
        self.store = Store(self.path)

    @invariant()
    def holds_what_it_should(self) -> None:
        """Each checkpoint loads, and no other is there; the best, the last and the tags are the right ones."""
        for run, versions in self.kept.items():
            found = self.store.run(run).checkpoints()
            assert [each.version for each in found] == sorted(versions)
            newest = found[-1]
            assert newest.load("loop") == {"value": versions[newest.version]}
            assert (newest.load("model")["large"] == versions[newest.version]).all()
            best = min(versions, key=lambda version: (versions[version], version))
            assert self.store[f"{run}@best:value:min"].version == best
            for tag, version in self.tags.get(run, {}).items():
                assert self.store[f"{run}@{tag}"].version == version
        for run in {"a", "b"} - set(self.kept):
            with pytest.raises(CheckpointNotFound):
                self.store[f"{run}@last"]

    @rule()
    def verify(self) -> None:
        """Every byte is as it was written."""
        report = self.store.verify(deep=True)
        assert report.ok, report.findings
        assert report.checkpoints >= sum(map(len, self.kept.values()))  # it looks into the trash too


@pytest.mark.slow
def test_the_store_holds_what_the_model_says() -> None:
    """2,000 examples of up to 30 steps: save, evict, prune, pin, sweep, crash, reopen, rebuild, verify."""
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
