"""What kind of file system a folder lies on: on network file systems locks and shared memory can't be trusted.

SQLite's WAL does not work there, and SQLite does not say so (https://www.sqlite.org/wal.html, "All processes using a
database must be on the same host"); flock may hold on one host alone.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|9p|afs|afpfs|ncpfs|webdav|davfs|lustre|gpfs|beegfs|ceph|glusterfs|orangefs|pvfs2|panfs"
    r"|fuse\.(sshfs|glusterfs|ceph.*|s3fs|rclone|goofys|gcsfuse|davfs2?|mfs|juicefs|afp.*)"
)
_TRUE_TIMES = re.compile(r"ext[234]|xfs|btrfs|zfs|bcachefs|f2fs|jfs|tmpfs|overlay|vfat|exfat|ntfs3|apfs|hfs")
_MOUNTS = Path("/proc/self/mountinfo")


def is_network(path: Path) -> bool:
    """The folder, or the one above that will hold it, is on a network file system. False where that can't be told."""
    return _NETWORK.fullmatch(_kind(path)) is not None


def has_true_times(path: Path) -> bool:
    """What changes in the folder is seen in its times at once. False where that is not known of its file system."""
    return _TRUE_TIMES.fullmatch(_kind(path)) is not None


def _kind(path: Path) -> str:
    """The type of the file system, as mount(8) names it; empty where that can't be told."""
    existing = next((each for each in (path, *path.parents) if each.exists()), path)
    try:
        device = os.stat(existing).st_dev
        lines = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw (proc(5))
        mount, _, source = line.partition(" - ")
        if mount.split()[2] == wanted:
            return source.split()[0]
    return ""
