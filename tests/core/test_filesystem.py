"""Files appear whole or not at all, and a full disk has a name."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from ckpt_tracker.disk.filesystem import create, make_folder, naming_full_disk, write_durably
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
