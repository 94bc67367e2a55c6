"""Files appear whole or not at all, and a full disk has a name."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from ckpt_tracker.disk.filesystem import DIRECT_BYTES, create, make_folder, naming_full_disk, write_durably
from ckpt_tracker.errors import StoreFull


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    """Nothing is left in `tmp/`."""
    (tmp_path / "tmp").mkdir()
    for data in (b"first", b"second, and longer"):
        write_durably(tmp_path / "file", data, tmp=tmp_path / "tmp")
        assert (tmp_path / "file").read_bytes() == data
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    """And no scratch: here a folder is in the way of the rename."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="file"):
        write_durably(tmp_path / "file", b"data", tmp=tmp_path / "tmp")
    assert (tmp_path / "file").is_dir()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_new_file_is_never_one_that_exists(tmp_path: Path) -> None:
    """Nor one behind a symlink that somebody put there."""
    (tmp_path / "target").write_bytes(b"theirs")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("target", "link"):
        with pytest.raises(FileExistsError):
            create(tmp_path / name, b"ours")
    assert (tmp_path / "target").read_bytes() == b"theirs"


@pytest.mark.parametrize("folder", ["disk", "memory"])
@pytest.mark.parametrize("excess", [0, 1, 4095])
@pytest.mark.parametrize("start", [0, 1])
def test_a_large_file_holds_what_it_was_given(tmp_path: Path, folder: str, excess: int, start: int) -> None:
    """Whole blocks or not, from the beginning of a page or not, on file systems with direct I/O and without."""
    if folder == "memory" and not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no file system in memory at /dev/shm")
    nbytes = 2 * DIRECT_BYTES + excess
    pages = mmap.mmap(-1, nbytes + start)
    pages[:] = np.random.default_rng(excess).bytes(len(pages))
    data = memoryview(pages)[start:]
    with tempfile.TemporaryDirectory(dir="/dev/shm" if folder == "memory" else tmp_path) as made:
        path = Path(made) / "large"
        os.close(create(path, data))
        assert path.read_bytes() == data


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="this platform has no O_DIRECT")
def test_what_is_large_goes_past_the_page_cache(tmp_path: Path) -> None:
    """The descriptor is set to direct I/O while whole blocks are written, and back for what is left."""
    script = (
        "import mmap, os, pathlib, sys; from ckpt_tracker.disk.filesystem import DIRECT_BYTES, create; "
        "os.close(create(pathlib.Path(sys.argv[1]), memoryview(mmap.mmap(-1, DIRECT_BYTES + 10))))"
    )
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-qq", "-s", "1", "-e", "trace=fcntl,write", "-o", str(trace)]
    try:
        subprocess.run([*command, sys.executable, "-c", script, str(tmp_path / "large")], check=True)
    except FileNotFoundError:
        pytest.skip("strace is not installed")
    calls = [line.split(maxsplit=1)[1] for line in trace.read_text().splitlines() if "+++" not in line]
    first = next(index for index, call in enumerate(calls) if "F_SETFL" in call and "O_DIRECT" in call)
    if "EINVAL" in calls[first] or "EINVAL" in calls[first + 1]:
        pytest.skip("this file system takes no direct I/O")
    assert calls[first + 1].endswith(f"= {DIRECT_BYTES}")
    assert "O_DIRECT" not in calls[first + 2]
    assert calls[first + 3].endswith("= 10")


def test_folders_are_made_with_those_above(tmp_path: Path) -> None:
    """Made twice they are there once; permissions are those of the umask."""
    before = os.umask(0o027)
    try:
        make_folder(tmp_path / "a" / "b" / "c")
        make_folder(tmp_path / "a" / "b" / "c")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o750
    assert (tmp_path / "a" / "b" / "c").is_dir()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")
def test_a_full_disk_is_named_with_the_way_out(tmp_path: Path) -> None:
    """The errno stays, and the store is in the message."""
    device = os.open("/dev/full", os.O_WRONLY)
    try:
        with (
            pytest.raises(StoreFull, match=r"no room left in .*: free space there") as full,
            naming_full_disk(tmp_path),
        ):
            os.write(device, b"x")
    finally:
        os.close(device)
    assert full.value.errno == errno.ENOSPC
    assert str(tmp_path) in str(full.value)


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    """Only a full disk is renamed."""
    with pytest.raises(FileNotFoundError), naming_full_disk(tmp_path):
        (tmp_path / "missing").read_bytes()
