"""What the results depend on: the machine and the versions. Names of hosts, users and folders are left out."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from benchmarks.report import Table

PACKAGES = (
    *("torch", "safetensors", "lightning", "keras", "tensorflow", "transformers", "jax"),
    *("pytorch-ignite", "orbax-checkpoint", "torchsnapshot", "numpy", "blake3"),
)


def table(folder: Path) -> Table:
    """The machine's data; `folder` is on the file system that is measured."""
    rows = [
        ["processor", f"{_processor()}, {os.cpu_count()} cores"],
        ["memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"],
        ["system", f"{platform.system()} {platform.release().split('-')[0]}, file system {file_system(folder)}"],
        ["Python", platform.python_version()],
        *([name, version] for name in PACKAGES if (version := _version(name))),
    ]
    return Table("Machine", ["what", "which"], rows)


def file_system(folder: Path) -> str:
    """The type of the file system that a folder is on (`ext4`); `unknown` where the system does not say."""
    device = os.stat(folder).st_dev
    found = "unknown"
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return found
    for line in mounts:
        fields, _, rest = line.partition(" - ")
        major, _, minor = fields.split()[2].partition(":")
        if os.makedev(int(major), int(minor)) == device:
            found = rest.split()[0]
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
