"""The order of a save, seen from the kernel: strace records every system call that writes, and each step is checked.

A model of the disk follows the calls: bytes are durable after an fsync of their file, names after an fsync of
their folder. At the commit everything that the checkpoint needs has to be durable, at the return of `wait` the commit.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CALLS = "openat,mkdir,rename,renameat,renameat2,unlink,unlinkat,fsync,fdatasync,write,pwrite64,flock"
LINE = re.compile(r"\d+ +(\w+)\((.*)\)\s+= (-?\d+)(?:<(.*?)>)?")
STATE = '{"model": {name: np.full(100_000, ord(name), np.uint8) for name in "%s"}, "loop": {"s": np.full(3, %d)}}'

SCRIPT = f"""
import sys
import numpy as np
from ckpt_tracker import Store
from ckpt_tracker.retention import Last

def save(run, state):
    run.save(state).wait()
    print("durable", flush=True)

if sys.argv[2] == "first":
    with Store(sys.argv[1]) as store:
        save(store.run("a"), {STATE % ("xy", 1)})
else:
    with Store(sys.argv[1]) as store:
        save(store.run("c"), {STATE % ("xy", 1)})
        run = store.run("b")
        save(run, {STATE % ("xz", 1)})
        save(run, {STATE % ("xw", 2)})
        store.evict(run.plan(Last(1)))
        print("evicted", flush=True)
        run.tag("paper")
        print("tagged", flush=True)
        save(run, {STATE % ("x", 3)})
        run.tag("paper")
        store.apply(run.plan(Last(1)))
        print("trashed", flush=True)
"""


def _tracing_works() -> bool:
    if shutil.which("strace") is None:
        return False
    command = ["strace", "-qq", "-o", "/dev/null", "true"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not _tracing_works(), reason="strace is not installed, or may not trace here")


@dataclass
class Disk:
    """What a power cut could still take away, as the calls go by."""

    root: str
    dirty: set[str] = field(default_factory=set)
    """Files with bytes that are not durable."""
    unnamed: set[str] = field(default_factory=set)
    """Files and folders whose names are not durable."""
    seen: set[str] = field(default_factory=set)
    unlinked: set[str] = field(default_factory=set)
    """Files that might come back."""
    log: list[tuple[str, str]] = field(default_factory=list)
    """(what happened, to what), in order."""
    faults: list[str] = field(default_factory=list)
    """What came too early."""

    def pending(self, *folders: str) -> set[str]:
        """What is not durable below some folders of the store."""
        every = self.dirty | self.unnamed
        return {each for each in every if any(each.startswith(f"{folder}/") or each == folder for folder in folders)}

    def call(self, name: str, arguments: str, result: str) -> None:
        """One system call that succeeded."""
        told = re.match(r'1<[^>]*>, "(\w+)', arguments)
        paths = [self._inside(path) for path in re.findall(r'"([^"]*)"|\d+<([^>]*)>', arguments)]
        known = [path for path in paths if path is not None]
        if name == "write" and told:
            self._acknowledged(told[1])
        elif known and not known[0].startswith(("index.sqlite", "locks")) and not known[0].endswith("/lock"):
            getattr(self, f"_{name.rstrip('2').removesuffix('at')}")(known, arguments)

    def _inside(self, found: tuple[str, str]) -> str | None:
        path = found[0] or found[1]
        if path == self.root:
            return "."
        return path.removeprefix(f"{self.root}/") if path.startswith(f"{self.root}/") else None

    def _open(self, paths: list[str], arguments: str) -> None:
        if "O_CREAT" in arguments and paths[0] not in self.seen:
            self.unnamed.add(paths[0])
            self.seen.add(paths[0])

    def _mkdir(self, paths: list[str], arguments: str) -> None:
        self.unnamed.add(paths[0])

    def _write(self, paths: list[str], arguments: str) -> None:
        self.dirty.add(paths[0])
        self.log.append(("write", paths[0]))

    def _pwrite64(self, paths: list[str], arguments: str) -> None:
        self._write(paths, arguments)

    def _flock(self, paths: list[str], arguments: str) -> None:
        """Locks are the business of other tests."""

    def _fsync(self, paths: list[str], arguments: str) -> None:
        self.dirty.discard(paths[0])
        for names in (self.unnamed, self.unlinked):
            names -= {each for each in names if str(Path(each).parent) == paths[0]}
        self.log.append(("fsync", paths[0]))

    _fdatasync = _fsync

    def _rename(self, paths: list[str], arguments: str) -> None:
        source, target = paths
        if source in self.dirty:
            self.faults.append(f"{target} got its name before its bytes were durable")
        self.dirty.discard(source)
        self.unnamed.discard(source)
        self.unnamed.add(target)
        self.log.append(("rename", target))
        if target.startswith("trash/"):
            self.unlinked.add(source)
        elif "/manifests/" in target:
            self.faults += [f"{each} was not durable when {target} was committed" for each in self.pending("objects")]

    def _unlink(self, paths: list[str], arguments: str) -> None:
        target = paths[0]
        self.dirty.discard(target)
        self.unnamed.discard(target)
        self.log.append(("unlink", target))
        if "/manifests/" in target:
            self.faults += [f"{each} was not durable when {target} was evicted" for each in self.pending("runs")]
        if target.startswith("objects/"):
            self.faults += [f"{each} could come back when {target} was freed" for each in self.unlinked]
        else:
            self.unlinked.add(target)

    def _acknowledged(self, word: str) -> None:
        late = self.pending("runs", "objects", "trash", "store.json") | self.unlinked
        self.faults += [f"{each} was not durable at {word!r}" for each in late]
        self.log.append(("told", word))


def _trace(root: Path, part: str, output: Path) -> Disk:
    command = ["strace", "-f", "-qq", "-y", "-s", "16", "-e", f"trace={CALLS}", "-o", str(output)]
    script = [sys.executable, "-c", SCRIPT, str(root), part]
    subprocess.run([*command, *script], check=True, capture_output=True, cwd=output.parent)
    disk = Disk(str(root))
    unfinished: dict[str, str] = {}
    for line in output.read_text().splitlines():
        process = line.split(maxsplit=1)[0]
        if line.endswith("<unfinished ...>"):
            unfinished[process] = line.removesuffix("<unfinished ...>").rstrip()
            continue
        resumed = re.fullmatch(r"\d+ +<\.\.\. \w+ resumed>(.*)", line)
        match = LINE.match(unfinished.pop(process) + resumed[1] if resumed else line)
        if match and int(match[3]) >= 0:
            disk.call(match[1], match[2], match[3])
    return disk


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Disk, Disk]:
    """A new store with a first checkpoint; then another process that saves, evicts and tags."""
    folder = tmp_path_factory.mktemp("order").resolve()
    return (
        _trace(folder / "store", "first", folder / "first.trace"),
        _trace(folder / "store", "second", folder / "second.trace"),
    )


@pytest.fixture
def first(traced: tuple[Disk, Disk]) -> Disk:
    """What the process did that made the store."""
    return traced[0]


@pytest.fixture
def second(traced: tuple[Disk, Disk]) -> Disk:
    """What the next one did."""
    return traced[1]


def _before(disk: Disk, mark: tuple[str, str]) -> list[tuple[str, str]]:
    return disk.log[: disk.log.index(mark)]


def test_nothing_is_named_committed_acknowledged_or_freed_too_early(traced: tuple[Disk, Disk]) -> None:
    """The bytes before the name, the objects before the manifest, the manifest before `wait` returns."""
    assert [disk.faults for disk in traced] == [[], []]


def test_the_trace_holds_what_was_done(first: Disk, second: Disk) -> None:
    """A model that sees nothing would find nothing wrong."""
    commits = [path for what, path in first.log + second.log if what == "rename" and "/manifests/" in path]
    objects = [path for what, path in first.log if what == "rename" and path.startswith("objects/")]
    assert commits == [f"runs/{run}/manifests/00000{version}.json" for run, version in ("a1", "c1", "b1", "b2", "b3")]
    assert len(objects) == 3
    words = [word for what, word in second.log if what == "told"]
    assert words == [*["durable"] * 3, "evicted", "tagged", "durable", "trashed"]
    assert ("rename", "trash/b/000002.json") in second.log


def test_the_manifest_is_the_last_thing_that_a_save_writes(first: Disk) -> None:
    """Between the commit and the report there is the sync of its folder alone, and the index."""
    log = _before(first, ("told", "durable"))
    commit = log.index(("rename", "runs/a/manifests/000001.json"))
    assert log[commit + 1 :] == [("fsync", "runs/a/manifests")]


def test_an_object_that_another_process_wrote_is_synced_before_the_commit(first: Disk, second: Disk) -> None:
    """With its folder, and the folder of that: whoever made it may have died before."""
    shared = [path for what, path in first.log if what == "rename" and path.startswith("objects/")]
    folders = [str(Path(path).parent) for path in shared]
    before = _before(second, ("rename", "runs/c/manifests/000001.json"))
    assert {("fsync", path) for path in (*shared, *folders, "objects")} <= set(before)
    assert not [path for what, path in before if what == "rename" and path.startswith("objects/")]


def test_what_this_run_made_durable_is_not_synced_again(second: Disk) -> None:
    """The second save of a run finds its unchanged tensor durable."""
    start = second.log.index(("rename", "runs/b/manifests/000001.json")) + 1
    end = second.log.index(("rename", "runs/b/manifests/000002.json"))
    synced = {path for what, path in second.log[start:end] if what == "fsync"}
    renamed = {path for what, path in second.log[start:end] if what == "rename"}
    assert len(renamed) == 2
    assert [path for path in synced if re.fullmatch(r"objects/../.*", path)] == []


def test_eviction_deletes_the_manifest_first_and_objects_last(second: Disk) -> None:
    """What the folder holds, the event, the manifest, the folder: each durable before the next."""
    end = second.log.index(("told", "evicted"))
    log = [
        each
        for each in second.log[:end]
        if "manifests" in each[1] or each[1].endswith("events.jsonl") or each[0] == "unlink"
    ]
    gone = log.index(("unlink", "runs/b/manifests/000001.json"))
    event = [(what, "runs/b/events.jsonl") for what in ("fsync", "write", "fsync")]
    assert log[gone - 4 : gone] == [("fsync", "runs/b/manifests"), *event]
    assert log[gone + 1] == ("fsync", "runs/b/manifests")
    rest = [what for what, path in log[gone + 2 :]]
    assert rest == [*["fsync"] * (len(rest) - 1), "unlink"]


def test_an_event_is_synced_before_it_counts(second: Disk) -> None:
    """A tag that was given is not forgotten, nor the file that holds it."""
    log = [each for each in _before(second, ("told", "tagged")) if "events.length" not in each[1]]
    assert log[-4:-1] == [("write", "runs/b/events.jsonl"), ("fsync", "runs/b/events.jsonl"), ("fsync", "runs/b")]
