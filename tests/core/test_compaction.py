"""Compaction: fewer bytes, the same checkpoints; and what becomes of encoded objects when others work on the store."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckpt_tracker import Run, Store
from ckpt_tracker.disk.formats import read_document
from ckpt_tracker.errors import Damaged
from ckpt_tracker.retention import Best, Last

pytest.importorskip("zstandard", reason="the extra [compact] is not installed")

Contents = Callable[[Path], dict[str, bytes]]
_SIZE = 40_000


def state(epoch: int) -> dict[str, Any]:
    """Weights that change little, a frozen part, a moment that is another each time, small tensors."""
    rng = np.random.default_rng(0)
    weights, frozen = (rng.standard_normal((2, _SIZE)) * 0.02).astype(np.float32)
    own = np.random.default_rng(epoch)
    weights = weights + np.float32(1e-6) * own.standard_normal(_SIZE).astype(np.float32)
    moment = own.standard_normal(_SIZE).astype(np.float32)
    small = {f"bias{number}": np.full(50, epoch + number, dtype=np.float32) for number in range(30)}
    return {"model": {"w": weights, "frozen": frozen, **small}, "optimizer": {"m": moment}}


def save(run: Run, *epochs: int) -> None:
    """A checkpoint of each epoch."""
    for epoch in epochs:
        run.save(state(epoch), epoch=epoch, metrics={"loss": 1.0 / (1 + epoch)}).wait()


def on_disk(store: Store) -> int:
    """Bytes of all objects."""
    folders = (store.layout.objects, store.layout.encoded)
    return sum(each.stat().st_size for folder in folders for each in folder.rglob("*") if each.is_file())


def encoded(store: Store) -> dict[str, str | None]:
    """The encoded objects, each with its base."""
    headers = {name: store.objects.encoded.header(name) for name in store.objects.encoded.names()}
    return {name: header and header.base for name, header in headers.items()}


def object_of(store: Store, reference: str, path: str) -> str:
    """The object that holds a tensor."""
    from ckpt_tracker.files import manifest

    checkpoint = store[reference]
    found = manifest.read(store.layout.manifests(checkpoint.run), checkpoint.version, run=checkpoint.run)
    index = next(index for index, name in found.tensor_names().items() if name == path)
    return found.tensors[index].pieces[0].object


@pytest.fixture
def run(store: Store) -> Run:
    """Ten checkpoints, raw: two keyframes and what goes with them."""
    run = store.run("r")
    save(run, *range(10))
    return run


def test_every_checkpoint_is_what_it_was(store: Store, run: Run, same: Callable[[object, object], bool]) -> None:
    """In fewer bytes, and as it is counted."""
    before = on_disk(store)
    done = store.compact(threads=2)
    assert before - on_disk(store) == done.freed_bytes == done.before_bytes - done.after_bytes > before // 5
    assert all(same(state(each.epoch), each.load()) for each in run.checkpoints())
    assert store.verify(deep=True).ok
    assert not list(store.layout.tmp.iterdir())


DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint64", "complex64", "bool")
EXTRA_DTYPES = ("bfloat16", "float8_e4m3fn", "float8_e5m2")


@pytest.mark.parametrize("dtype", [*DTYPES, *EXTRA_DTYPES])
def test_tensors_of_every_type_come_back_bit_for_bit(
    store: Store, dtype: str, same: Callable[[object, object], bool]
) -> None:
    """Also empty ones, scalars, odd lengths, and more than a block; all bit patterns, NaNs among them."""
    if dtype in EXTRA_DTYPES:
        pytest.importorskip("ml_dtypes", reason="NumPy has no such type without ml_dtypes")
    from ckpt_tracker.state.tensors import numpy_dtype

    kind = numpy_dtype(dtype)
    rng = np.random.default_rng(0)
    states = []
    for epoch in range(3):
        large = rng.integers(0, 2 if dtype == "bool" else 256, 600_000 * kind.itemsize // 8, dtype=np.uint8)
        large[: len(large) // 2] = epoch % 2
        whole = large[: len(large) - len(large) % kind.itemsize].view(kind)
        states.append({"model": {"large": whole, "odd": whole[:77], "one": whole[:1].reshape(()), "none": whole[:0]}})
    run = store.run("r")
    for each in states:
        run.save(each).wait()
    assert store.compact(threads=1).objects
    assert all(same(wanted, each.load()) for wanted, each in zip(states, run.checkpoints(), strict=True))


def test_weights_stand_on_the_keyframe_and_moments_on_nothing(store: Store, run: Run) -> None:
    """A difference is taken where it pays, one step deep; every eighth checkpoint begins anew."""
    store.compact(threads=1)
    bases = encoded(store)
    keyframes = {version: object_of(store, f"r@v{version}", "model.w") for version in (1, 9)}
    for version in range(1, 11):
        expected = None if version in keyframes else keyframes[1 if version < 9 else 9]
        assert bases[object_of(store, f"r@v{version}", "model.w")] == expected
        assert bases[object_of(store, f"r@v{version}", "optimizer.m")] is None
    assert bases[object_of(store, "r@v5", "model.frozen")] is None


def test_a_second_time_changes_nothing(store: Store, run: Run, contents: Contents) -> None:
    """And says so; what came since is encoded in its turn."""
    store.compact(threads=1)
    before = contents(store.layout.encoded)
    assert store.plan_compaction().steps == ()
    assert store.compact(threads=1).objects == 0
    assert contents(store.layout.encoded) == before
    save(run, 10)
    assert store.compact(threads=1).objects == 2
    assert encoded(store)[object_of(store, "r@v11", "model.w")] == object_of(store, "r@v9", "model.w")


def test_a_plan_changes_nothing(store: Store, run: Run, contents: Contents) -> None:
    """It says about how much it would be, and is right to a hundredth."""
    before = contents(store.path)
    plan = store.plan_compaction()
    assert contents(store.path) == before
    done = store.compact(plan, threads=1)
    assert done.objects == len(plan.steps)
    assert abs(plan.estimate - done.after_bytes) < done.after_bytes / 50


def test_one_run_alone(store: Store, run: Run) -> None:
    """The others stay as they are."""
    save(store.run("other"), 20, 21)
    store.compact(runs=["other"], threads=1)
    assert object_of(store, "other@v1", "model.w") in encoded(store)
    assert object_of(store, "r@v1", "optimizer.m") not in encoded(store)


def test_a_tensor_that_is_encoded_is_not_written_again(store: Store, run: Run) -> None:
    """A save refers to it, whatever it stands on."""
    store.compact(threads=1)
    again = run.save(state(4)).wait()
    assert again.stored_bytes < 2000  # of small ones that no pack of the last checkpoint holds
    assert object_of(store, "r@last", "model.w") == object_of(store, "r@v5", "model.w")
    assert store.objects.raw.size(object_of(store, "r@last", "model.w")) is None
    assert again.digest == store["r@v5"].digest


def test_an_evicted_keyframe_leaves_what_others_stand_on(store: Store, run: Run) -> None:
    """What a plan says it frees is what is freed; the bytes are given back when the last one has gone."""
    store.compact(threads=1)
    keyframe = object_of(store, "r@v1", "model.w")
    plan = run.plan(Last(4))  # v7 to v10
    before = on_disk(store)
    assert plan.freed_bytes == store.evict(plan) == before - on_disk(store)
    assert keyframe in encoded(store)
    assert store.verify(deep=True).ok
    assert store.gc() == 0
    last = run.plan(Last(2))
    before = on_disk(store)
    assert last.freed_bytes == store.evict(last) == before - on_disk(store)
    assert keyframe not in encoded(store)
    assert store.verify(deep=True).ok


def test_the_next_compaction_frees_what_only_differences_need(
    store: Store, run: Run, same: Callable[[object, object], bool]
) -> None:
    """One of them becomes the keyframe of the others."""
    store.compact(threads=1)
    keyframe = object_of(store, "r@v1", "model.w")
    store.evict(run.plan(Last(6)))  # v5 to v10
    before = on_disk(store)
    done = store.compact(threads=1)
    bases = encoded(store)
    first = object_of(store, "r@v5", "model.w")
    assert keyframe not in bases
    assert bases[first] is None
    assert [bases[object_of(store, f"r@v{version}", "model.w")] for version in (6, 7, 8)] == [first] * 3
    assert before - on_disk(store) == done.freed_bytes > 0
    assert all(same(state(each.epoch), each.load()) for each in run.checkpoints())
    assert store.plan_compaction().steps == ()


def test_a_cap_counts_what_is_on_the_disk(store: Store, run: Run) -> None:
    """Encoded bytes, and the base that a checkpoint stands on."""
    store.compact(threads=1)
    record = run.checkpoints()[1].record
    footprint = store.reclaimer.footprint(record)
    assert object_of(store, "r@v1", "model.w") in footprint
    assert sum(footprint.values()) < record.nbytes
    assert footprint == {name: store.objects.file(name).stat().st_size for name in footprint}


def test_what_is_undone_loads(store: Store, run: Run, same: Callable[[object, object], bool]) -> None:
    """Out of the trash, encoded before or while it lay there."""
    store.apply(run.plan(Last(1)))
    store.compact(threads=1)
    save(run, 20)
    store.compact(threads=1)
    assert store.undo()
    assert all(same(state(each.epoch), each.load()) for each in run.checkpoints())


def test_weights_only_load_from_what_is_encoded(store: Store, run: Run) -> None:
    """What is given up is freed, and what the weights stand on stays."""
    store.compact(threads=1)
    store.evict(run.plan(Last(1) | Best(3, "loss", mode="min").weights_only()))
    assert store.verify(deep=True).ok
    assert {each.version for each in run.checkpoints()} == {8, 9, 10}
    np.testing.assert_array_equal(run.checkpoints()[0].load("model")["w"], state(7)["model"]["w"])


def flip(path: Path, place: int = -2000) -> None:
    """Flips a bit."""
    data = bytearray(path.read_bytes())
    data[place] ^= 16
    path.write_bytes(data)


def test_a_damaged_encoded_object_is_found_by_its_name(store: Store, run: Run) -> None:
    """By verify --deep and on load; a repair moves it away, and all the rest loads."""
    store.compact(threads=1)
    damaged = store.objects.file(object_of(store, "r@v3", "optimizer.m"))
    assert damaged.parent.parent == store.layout.encoded
    flip(damaged)
    assert store.verify().ok
    report = store.verify(deep=True)
    assert [(each.ref, each.path, each.loads) for each in report.findings] == [("r@v3", damaged, ("model",))]
    with pytest.raises(Damaged, match=rf"tensor optimizer\.m is damaged: .*{damaged.name}"):
        store["r@v3"].load()
    store.repair(store.plan_repair())
    assert (store.layout.quarantine / damaged.relative_to(store.path)).exists()
    assert store.verify(deep=True).ok
    assert store["r@v3"].load("model")


def test_a_damaged_base_is_told_of_all_that_stand_on_it(store: Store, run: Run) -> None:
    """And of no others."""
    store.compact(threads=1)
    flip(store.objects.file(object_of(store, "r@v1", "model.w")))
    found = {each.ref: each.loads for each in store.verify(deep=True).findings}
    assert found == {f"r@v{version}": ("optimizer",) for version in range(1, 9)}
    store.repair(store.plan_repair())
    assert store.verify(deep=True).ok
    assert store["r@v9"].load()
    assert store["r@v2"].load("optimizer")


def test_a_missing_base_is_found_without_reading_every_byte(store: Store, run: Run) -> None:
    """Its name is in the header of what stands on it."""
    store.compact(threads=1)
    store.evict(run.plan(Last(4)))
    (base,) = set(encoded(store).values()) - {None, object_of(store, "r@v9", "model.w")}
    store.objects.file(base).unlink()
    assert {each.ref for each in store.verify().findings} == {"r@v7", "r@v8"}


def test_a_save_does_not_trust_what_lacks_its_base(store: Store, run: Run) -> None:
    """It writes the tensor anew, and then everything that shares it loads again."""
    store.compact(threads=1)
    store.objects.file(object_of(store, "r@v1", "model.w")).unlink()
    with pytest.raises(Damaged, match=r"its base, object .* is missing"):
        store["r@v3"].load("model")
    assert run.save(state(2)).wait().stored_bytes >= 4 * _SIZE
    assert store["r@v3"].load("model")


def test_damaged_raw_bytes_are_left_as_they_are(store: Store, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """A compaction makes nothing of them that looks whole; what is undamaged is encoded all the same."""
    path = store.objects.file(object_of(store, "r@v3", "optimizer.m"))
    flip(path)
    assert store.compact(threads=1).objects
    assert path.exists()
    assert str(path) in caplog.text
    assert {each.path for each in store.verify(deep=True).findings} == {path}


def test_a_damaged_header_stops_the_sweep(store: Store, run: Run) -> None:
    """What it stands on is not known; a repair lets it go on."""
    store.compact(threads=1)
    flip(store.objects.file(object_of(store, "r@v3", "model.w")), place=20)
    with pytest.raises(Damaged, match=r"encoded/.* is damaged: .*`ckpt repair`"):
        store.gc()
    store.repair(store.plan_repair())
    assert store.gc() == 0
    assert store["r@v2"].load()


def test_earlier_versions_refuse_a_compacted_store(store: Store, run: Run) -> None:
    """They would sweep the bases: the format says so, also where store.json had to be made anew."""
    assert read_document(store.layout.store_file)["format"] == 1
    store.compact(threads=1)
    assert read_document(store.layout.store_file, newest=2) == {"format": 2, "id": store.id}
    store.close()
    store.layout.store_file.unlink()
    with Store(store.path) as again:
        assert again["r@v3"].load()
    assert read_document(store.layout.store_file, newest=2)["format"] == 2


def test_a_store_that_has_nothing_to_encode_stays_of_format_1(store: Store) -> None:
    """Nothing is changed then."""
    store.run("r").save({"model": {"w": np.arange(3)}}).wait()
    assert store.compact(threads=1).objects == 0
    assert read_document(store.layout.store_file)["format"] == 1
    assert not store.layout.encoded.exists()


def test_what_was_evicted_between_plan_and_act_is_passed_over(store: Store, run: Run) -> None:
    """The plan was true once."""
    plan = store.plan_compaction()
    store.evict(run.plan(Last(2)))
    done = store.compact(plan, threads=1)
    assert 0 < done.objects < len(plan.steps)
    assert store.verify(deep=True).ok
    assert store.gc() == 0


def test_two_plans_do_not_make_chains(store: Store) -> None:
    """What one plan encodes as a difference is no base any more for the other, which knew it as a keyframe."""
    save(store.run("a"), 0, 1)
    save(store.run("b"), 1, 3)
    first, second = store.plan_compaction(runs=["a"]), store.plan_compaction(runs=["b"])
    keyframe, shared = object_of(store, "a@v1", "model.w"), object_of(store, "b@v1", "model.w")
    assert [step.base for step in second.steps if step.object == object_of(store, "b@v2", "model.w")] == [shared]
    store.compact(first, threads=1)
    store.compact(second, threads=1)
    assert encoded(store)[shared] == keyframe
    assert object_of(store, "b@v2", "model.w") not in encoded(store)
    assert store.verify(deep=True).ok
    store.compact(threads=1)
    assert encoded(store)[object_of(store, "b@v2", "model.w")] == keyframe


def test_symlinks_in_the_place_of_encoded_files_are_refused(store: Store, run: Run, tmp_path: Path) -> None:
    """As everywhere in a store."""
    store.compact(threads=1)
    path = store.objects.file(object_of(store, "r@v3", "optimizer.m"))
    shutil.move(path, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", path)
    with pytest.raises(Damaged, match="is a symlink"):
        store["r@v3"].load()
    store.close()
    store.layout.encoded.rename(tmp_path / "encoded")
    os.symlink(tmp_path / "encoded", store.layout.encoded)
    with pytest.raises(Damaged, match="encoded is a symlink"):
        Store(store.path)


def test_a_training_goes_on_meanwhile(store: Store, run: Run, same: Callable[[object, object], bool]) -> None:
    """Saves and evictions of one process, compactions of another."""
    for epoch in range(10, 16):
        run.save(state(epoch), epoch=epoch)
        with Store(store.path) as other:
            other.compact(threads=1)
        store.evict(run.plan(Last(5)))
    assert [each.epoch for each in run.checkpoints()] == [11, 12, 13, 14, 15]
    assert all(same(state(each.epoch), each.load()) for each in run.checkpoints())
    assert store.verify(deep=True).ok


def test_a_scratch_file_of_a_compaction_is_swept_once_it_is_old(store: Store) -> None:
    """A fresh one is somebody's who is at work without the lock."""
    path = store.layout.tmp / f"encoded.{'ab' * 32}.123456"
    path.write_bytes(b"half")
    assert store.gc() == 0
    os.utime(path, (0, 0))
    assert store.gc() == 4
