"""A disk that fills up, of many sizes, and one that runs out of inodes: an error says so, nothing is lost, and once
there is room again saving goes on.
"""

from __future__ import annotations

import errno
import logging
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckpt_tracker import Store
from ckpt_tracker.errors import CheckpointWarning, StoreFull
from ckpt_tracker.retention import Last
from ckpt_tracker.tracker import Tracker

MEGABYTE = 2**20
SIZES = (1, 2, 4, 8, 16, 32, 64)
INODES = (60, 100, 200, 400)


@pytest.fixture
def disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of its own, with such options."""
    caplog.set_level(logging.CRITICAL, "ckpt_tracker")
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        mounted = subprocess.run(command, capture_output=True, check=False, text=True)
        if mounted.returncode:
            pytest.skip(f"a small file system can't be mounted here: {mounted.stderr.strip()}")
        return folder / "store"

    yield mount
    subprocess.run(["umount", str(folder)], check=False)


def state(number: int, nbytes: int, *, tensors: int = 1) -> dict[str, Any]:
    """Tensors that no other state has."""
    generator = np.random.default_rng(number)
    return {
        "model": {
            f"w{each}": generator.integers(256, size=nbytes // tensors, dtype=np.uint8) for each in range(tensors)
        }
    }


def fill(path: Path, nbytes: int, *, tensors: int) -> int:
    """Saves until the disk is full; returns how many came to be durable. Then frees, and saves again."""
    with Store(path) as store:
        run = store.run("r")
        saved = 0
        with pytest.raises(StoreFull) as full:
            while True:
                run.save(state(saved, nbytes, tensors=tensors), epoch=saved).wait()
                saved += 1
        assert full.value.errno == errno.ENOSPC
        assert not list(store.layout.tmp.iterdir())
        assert [each.epoch for each in run.checkpoints()] == list(range(saved))
        assert store.verify(deep=True).ok
        store.evict(run.plan(Last(1)))
        again = run.save(state(saved, nbytes, tensors=tensors), epoch=saved).wait()
        assert again.verify(deep=True).ok
        assert [each.epoch for each in run.checkpoints()] == [saved - 1, saved]
    return saved


@pytest.mark.parametrize("size", SIZES)
def test_a_full_disk_loses_nothing(disk: Callable[[str], Path], size: int) -> None:
    """Checkpoints of a seventh of the disk: all that were durable stay so, and after an eviction there is room."""
    path = disk(f"size={size}m")
    assert fill(path, size * MEGABYTE // 7, tensors=1) >= 4
    with Store(path, create=False) as store:
        assert store.verify(deep=True).ok


@pytest.mark.parametrize("inodes", INODES)
def test_a_disk_without_inodes_loses_nothing(disk: Callable[[str], Path], inodes: int) -> None:
    """Of many small files; each tensor is an object of its own."""
    path = disk(f"size=64m,nr_inodes={inodes}")
    assert fill(path, 5 * 70_000, tensors=5) >= 2
    with Store(path, create=False) as store:
        assert store.verify(deep=True).ok


@pytest.mark.parametrize("size", [1, 8, 64])
def test_a_training_that_only_warns_goes_on(disk: Callable[[str], Path], size: int) -> None:
    """Each save that finds no room is a warning, each other one is durable, and the last one ends well."""
    path = disk(f"size={size}m")
    nbytes = size * MEGABYTE // 5
    tracker = Tracker(path, "r", keep="last:1", on_error="warn")
    tracker.begin()
    ballast = path.parent / "ballast"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for epoch in range(9):
            if epoch == 3:
                ballast.write_bytes(bytes(tracker.store.free_bytes() - nbytes // 2))
            if epoch == 6:
                ballast.unlink()
            tracker.save(state(epoch, nbytes), epoch=epoch, step=None, metrics=None)
            tracker.run._drain()
        tracker.close(finished=True)
    full = [each for each in told if each.category is CheckpointWarning]
    assert len(full) == 3
    assert all("no room left" in str(each.message) for each in full)
    with Store(path, create=False) as store:
        assert [each.epoch for each in store.run("r").checkpoints()] == [8]
        assert store.verify(deep=True).ok
