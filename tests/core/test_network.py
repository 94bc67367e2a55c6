"""A store on a network file system: the index is elsewhere, and objects are given time before they are swept."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from ckpt_tracker import Store
from ckpt_tracker.disk import mounts


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is said to be on a network file system."""
    monkeypatch.setenv("CKPT_TRACKER_NETWORK", "1")


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="Linux tells its mounts there")
def test_the_kind_of_a_file_system_is_the_one_that_is_mounted(tmp_path: Path) -> None:
    """As df says it too; a folder that is not made yet is where it will be."""
    if shutil.which("df") is None:
        pytest.skip("there is no df to compare with")
    told = subprocess.run(["df", "--output=fstype", tmp_path], capture_output=True, text=True, check=True).stdout
    assert mounts._kind(tmp_path) == mounts._kind(tmp_path / "a" / "b") == told.split()[-1]


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "lustre", "fuse.sshfs"])
def test_network_file_systems_are_known(kind: str) -> None:
    """By the names that mount(8) uses."""
    assert mounts._NETWORK.fullmatch(kind)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "overlay", "tmpfs", "apfs", "fuse.fuse-overlayfs", ""])
def test_local_file_systems_are_none(kind: str) -> None:
    """One that is not known counts as local."""
    assert not mounts._NETWORK.fullmatch(kind)


@pytest.mark.usefixtures("network")
def test_the_index_lives_in_the_cache_folder(path: Path, tmp_path: Path) -> None:
    """And finds what another host, with an index of its own, has saved."""
    with Store(path) as store:
        store.run("r").save({"model": {}}, metrics={"loss": 1.0}).wait()
        assert store.index.path.parent == tmp_path / "cache" / "ckpt_tracker"
    assert not list(path.glob("index.sqlite*"))
    os.environ["XDG_CACHE_HOME"] = str(tmp_path / "other host")
    with Store(path) as store:
        assert store["r@best:loss:min"].version == 1


@pytest.mark.usefixtures("network")
def test_an_object_is_swept_only_when_it_has_rested_for_a_day(path: Path) -> None:
    """A writer on another host may be about to refer to it, whatever the locks say here."""
    with Store(path) as store:
        run = store.run("r")
        for epoch in range(2):
            run.save({"model": {"w": np.full(20_000, epoch)}}, epoch=epoch).wait()
        store.evict(run.plan("last:1"))
        assert store.gc() == 0
        assert len(list(store.objects.names())) == 2
        for name in store.objects.names():
            os.utime(store.objects.path(name), times=(time.time() - 90_000,) * 2)
        assert store.gc() == 160_000
        assert store["r@last"].verify().ok


@pytest.mark.usefixtures("network")
def test_a_deduplicated_object_is_as_fresh_as_a_new_one(path: Path) -> None:
    """So that no sweep on another host takes it from under the checkpoint that is being saved."""
    state = {"model": {"w": np.full(20_000, 1.0)}}
    with Store(path) as store:
        store.run("r").save(state).wait()
        (name,) = store.objects.names()
        os.utime(store.objects.path(name), times=(1.0, 1.0))
        store.run("other").save(state).wait()
        assert store.objects.path(name).stat().st_mtime > 1.0
