"""A recorder: what a process changes below a folder, system call by system call, as strace tells it.

The calls become operations on inodes, in the order in which the kernel finished them, so that `crash_disk` can make of
them every disk that a power cut could leave.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_CALLS = (
    "openat,close,write,writev,pwrite64,pwritev,pwritev2,ftruncate,truncate,fallocate,copy_file_range,sendfile,link,linkat,"
    "symlink,symlinkat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,fsync,fdatasync,sync,syncfs,msync"
)
_CALL = re.compile(r"(\w+)\((.*)\)\s+= (\d+)(?:<.*>)?")
_ARGUMENT = re.compile(r'"((?:\\x..)*)"|(?:AT_FDCWD|(\d+))<(?:\\x..)*>(?:\(deleted\))?|([\w|]+)')
_MARK = b"#mark "
# Locks are free after a power cut, and SQLite makes its shared memory anew.
_FORGOTTEN = re.compile(r"lock|store|turnstile|.*-shm")


@dataclass(frozen=True)
class Op:
    """One thing that happened to the file or folder `inode`."""

    kind: str
    """`data`, `size`, `link`, `unlink`, `fsync`; or `mark`, which a script told of itself."""
    inode: int = 0
    name: str = ""
    """The name that is given or taken in the folder `inode`."""
    child: int = 0
    """What gets the name."""
    folder: bool = False
    """It is a folder that gets the name."""
    moved_by: int = -1
    """For the `unlink` half of a rename: the position of its `link` half, without which it does not happen."""
    at: int = 0
    data: bytes = b""
    mark: dict[str, Any] = field(default_factory=dict)


def mark(**told: Any) -> None:
    """To be called in the recorded process."""
    os.write(1, _MARK + json.dumps(told).encode())


def environment() -> dict[str, str]:
    """For processes that need these modules."""
    tests = str(Path(__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])}


def why_not() -> str | None:
    """Why nothing can be recorded here, or None."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    command = ["strace", "-f", "-qq", "-y", "-xx", "--seccomp-bpf", "-e", f"trace={_CALLS}", "-o", "/dev/null", "true"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    return f"strace may not trace here: {ended.stderr.strip()}" if ended.returncode or ended.stderr else None


def record(command: list[str], root: Path, output: Path) -> Iterator[tuple[str, list[Op]]]:
    """Runs a Python script that marks where its jobs begin and end; yields each one's name and operations.

    What a job does counts below `root / name`, a folder that is there and durable.
    """
    strace = ["strace", "-f", "-qq", "-y", "-xx", "-s", "1000000", "--seccomp-bpf", "-e", f"trace={_CALLS}"]
    everything = [*strace, "-o", str(output), sys.executable, *command]
    ended = subprocess.run(everything, check=False, capture_output=True, text=True, env=environment())
    assert ended.returncode == 0, ended.stderr
    job: _Job | None = None
    for name, arguments, result in _calls(output):
        told = _mark(name, arguments)
        if told and "begin" in told:
            job = _Job(os.path.join(root, told["begin"]))
        elif job and told and "end" in told:
            yield told["end"], job.ops
            job = None
        elif job and told:
            job.ops.append(Op("mark", mark=told))
        elif job:
            job.call(name, arguments, result)


def _calls(output: Path) -> Iterator[tuple[str, list[bytes | int | str], int]]:
    """The calls that succeeded, when they ended: texts as bytes, descriptors as numbers, and the rest as it is."""
    unfinished: dict[str, str] = {}
    for line in output.read_text().splitlines():
        process, _, call = line.partition(" ")
        call = call.lstrip()
        if call.endswith("<unfinished ...>"):
            unfinished[process] = call.removesuffix("<unfinished ...>").rstrip()
            continue
        resumed = re.fullmatch(r"<\.\.\. \w+ resumed>(.*)", call)
        match = _CALL.match(unfinished.pop(process) + resumed[1] if resumed else call)
        if match:
            yield match[1], [_argument(each) for each in _ARGUMENT.finditer(match[2])], int(match[3])


def _argument(match: re.Match[str]) -> bytes | int | str:
    text, descriptor, word = match.groups()
    if text is not None:
        return bytes.fromhex(text.replace("\\x", ""))
    return word or int(descriptor or -1)


def _mark(name: str, arguments: list[bytes | int | str]) -> dict[str, Any] | None:
    data = arguments[1] if name == "write" else None
    if not isinstance(data, bytes) or not data.startswith(_MARK):
        return None
    told: dict[str, Any] = json.loads(data.removeprefix(_MARK))
    return told


@dataclass
class _Open:
    inode: int
    at: int
    append: bool


class _Job:
    """The file system below a folder as the job sees it, and what is done to it."""

    def __init__(self, root: str) -> None:
        self.ops: list[Op] = []
        self._root = root
        self._names: dict[tuple[int, str], int] = {}
        self._sizes: dict[int, int] = {}
        self._open: dict[int, _Open] = {}
        self._inodes = 0

    def call(self, name: str, arguments: list[Any], result: int) -> None:
        texts = [os.fsdecode(each) for each in arguments if isinstance(each, bytes)]
        if name == "openat":
            self._opened(texts[0], str(arguments[2]), result)
        elif name in ("rename", "renameat", "renameat2", "mkdir", "unlink", "rmdir"):
            places = [place for place in map(self._place, texts) if place]
            if places:
                getattr(self, f"_{name.removesuffix('2').removesuffix('at')}")(*places)
        elif arguments and arguments[0] in self._open:
            self._on_descriptor(name, self._open[arguments[0]], arguments, result)
            if name == "close":
                del self._open[arguments[0]]

    def _on_descriptor(self, name: str, file: _Open, arguments: list[Any], result: int) -> None:
        if name in ("write", "pwrite64"):
            at = int(arguments[3]) if name == "pwrite64" else self._sizes[file.inode] if file.append else file.at
            self._add("data", file.inode, at=at, data=arguments[1][:result])
            self._sizes[file.inode] = max(self._sizes[file.inode], at + result)
            if name == "write":
                file.at = at + result
        elif name == "ftruncate":
            self._add("size", file.inode, at=int(arguments[1]))
            self._sizes[file.inode] = int(arguments[1])
        elif name in ("fsync", "fdatasync"):
            self._add("fsync", file.inode)
        else:
            assert name == "close", f"the recorder does not know {name}"

    def _opened(self, path: str, flags: str, descriptor: int) -> None:
        self._open.pop(descriptor, None)
        place = self._place(path)
        if place is None:
            return
        inode = self._names.get(place) if path != self._root else 0
        if inode is None:
            inode = self._link(*place)
        elif "O_TRUNC" in flags:
            self._add("size", inode)
            self._sizes[inode] = 0
        self._open[descriptor] = _Open(inode, 0, "O_APPEND" in flags)

    def _link(self, folder: int, name: str, *, is_folder: bool = False) -> int:
        self._inodes += 1
        forgotten = folder < 0 or (_FORGOTTEN.fullmatch(name) and not is_folder)
        inode = -self._inodes if forgotten else self._inodes
        self._names[folder, name] = inode
        self._sizes[inode] = 0
        self._add("link", folder, name=name, child=inode, folder=is_folder)
        return inode

    def _mkdir(self, place: tuple[int, str]) -> None:
        self._link(*place, is_folder=True)

    def _unlink(self, place: tuple[int, str]) -> None:
        inode = self._names.pop(place)
        self._add("unlink", place[0], name=place[1], child=inode)

    _rmdir = _unlink

    def _rename(self, source: tuple[int, str], target: tuple[int, str]) -> None:
        inode = self._names[target] = self._names.pop(source)
        self._add("link", target[0], name=target[1], child=inode)
        self._add("unlink", source[0], name=source[1], child=inode, moved_by=len(self.ops) - 1)

    def _add(self, kind: str, inode: int, *, child: int = 0, **details: Any) -> None:
        if inode >= 0 and child >= 0:
            self.ops.append(Op(kind, inode, child=child, **details))

    def _place(self, path: str) -> tuple[int, str] | None:
        """The folder's inode, and the name in it."""
        if path == self._root:
            return 0, ""
        if not path.startswith(f"{self._root}/"):
            return None
        *folders, name = path.removeprefix(f"{self._root}/").split("/")
        inode = 0
        for folder in folders:
            inode = self._names[inode, folder]
        return inode, name
