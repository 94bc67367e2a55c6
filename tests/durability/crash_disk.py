"""A replayer: every disk that a power cut could leave, of what a process did.

Bytes are durable once their file was synced, names once their folder was. Of what is pending any part may have reached
the disk: some of the operations and not others, of a write the first bytes alone, or the length without the bytes.
A file that is moved is never lost, but may be found in both places.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from durability.crash_recording import Op

Content = dict[str, bytes | None]
"""Path → bytes, or None for a folder."""
_WHOLE, _NOTHING, _TORN, _HOLE = range(4)
_INDEX = "index.sqlite"


@dataclass(frozen=True)
class State:
    """What a power cut left, right after `done` operations."""

    done: int
    content: Content

    def digest(self, *, index: bool = True) -> str:
        """A hash of every path and byte; without those of the index where it does not matter."""
        hasher = hashlib.blake2b(digest_size=16)
        for path, data in sorted(self.content.items()):
            if index or _INDEX not in path:
                hasher.update(b"%d %d " % (len(path), -1 if data is None else len(data)))
                hasher.update(path.encode() + (data or b""))
        return hasher.hexdigest()

    def write(self, folder: Path) -> None:
        """Puts it on a real disk."""
        folder.mkdir()
        for path, data in sorted(self.content.items()):
            if data is None:
                (folder / path).mkdir()
            else:
                (folder / path).write_bytes(data)


class Disk:
    """The operations of a job, and what of them is durable when."""

    def __init__(self, ops: Sequence[Op], *, seed: str) -> None:
        self.ops = ops
        self._seed = seed
        self._durable_at = [math.inf] * len(ops)
        """For each operation, the number of operations after which it can't be lost."""
        pending: dict[int, list[int]] = {}
        for position, op in enumerate(ops):
            if op.kind == "fsync":
                for each in pending.pop(op.inode, ()):
                    self._durable_at[each] = position + 1
            elif op.kind == "mark" and "settled" in op.mark:
                for each in itertools.chain(*pending.values()):
                    self._durable_at[each] = position + 1
                pending.clear()
            elif op.kind != "mark":
                pending.setdefault(op.inode, []).append(position)
        scratch = {op.child for op in ops if op.folder and op.name == "tmp"}
        for position, op in enumerate(ops):
            if op.moved_by >= 0 and op.inode in scratch:
                # what stays behind there as well is of no interest
                self._durable_at[position] = 0
        self._of_index = self._index_ops()

    def states(self, done: int, *, limit: int) -> Iterator[State]:
        """The states after `done` operations: all, or a choice of `limit` where there are more."""
        pending = [
            at for at in range(done) if self._durable_at[at] > done and self.ops[at].kind not in ("fsync", "mark")
        ]
        index = [at for at in pending if at in self._of_index]
        core = [at for at in pending if at not in self._of_index]
        generator = random.Random(f"{self._seed}:{done}")
        for choice in self._choices(core, generator, limit=limit):
            chosen = dict(zip(core, choice, strict=True))
            ways = (_WHOLE, _NOTHING) if generator.random() < 0.5 else (_WHOLE, _WHOLE, _NOTHING, _TORN, _HOLE)
            whole = generator.choice((_WHOLE, _NOTHING, None))
            chosen |= {at: generator.choice(ways) if whole is None else whole for at in index}
            yield State(done, self._apply(done, chosen, generator))
        if index and not core:
            for choice in self._choices(index, generator, limit=limit // 4):
                yield State(done, self._apply(done, dict(zip(index, choice, strict=True)), generator))

    def _choices(self, pending: list[int], generator: random.Random, *, limit: int) -> Iterator[tuple[int, ...]]:
        ways = [
            (_WHOLE, _NOTHING, _TORN, _HOLE) if self.ops[at].kind == "data" else (_WHOLE, _NOTHING) for at in pending
        ]
        if math.prod(map(len, ways)) <= limit:
            yield from itertools.product(*ways)
            return
        count = len(pending)
        yield (_WHOLE,) * count
        yield (_NOTHING,) * count
        simple = [(_WHOLE,) * length + (_NOTHING,) * (count - length) for length in range(1, count)]
        for alone, other in itertools.product(range(count), (_WHOLE, _NOTHING)):
            simple += [
                (other,) * alone + (way,) + (other,) * (count - alone - 1) for way in ways[alone] if way != other
            ]
        yield from generator.sample(simple, min(len(simple), limit // 2))
        for _ in range(limit // 2):
            keep = generator.random()
            yield tuple(_WHOLE if generator.random() < keep else generator.choice(each[1:]) for each in ways)

    def _apply(self, done: int, chosen: dict[int, int], generator: random.Random) -> Content:
        files: dict[int, bytearray] = {}
        names: dict[int, dict[str, int]] = {0: {}}
        for at in range(done):
            op, way = self.ops[at], chosen.get(at, _WHOLE)
            if op.kind == "link" and op.folder:
                names.setdefault(op.child, {})
            if way == _NOTHING or op.kind in ("fsync", "mark") or chosen.get(op.moved_by, _WHOLE) == _NOTHING:
                continue
            if op.kind == "link":
                names[op.inode][op.name] = op.child
            elif op.kind == "unlink":
                if names[op.inode].get(op.name) == op.child:
                    del names[op.inode][op.name]
            else:
                _change(files.setdefault(op.inode, bytearray()), op, way, generator)
        return dict(_tree(0, "", names, files))

    def _index_ops(self) -> set[int]:
        """The operations on the index and its journals."""
        inodes = {op.child for op in self.ops if op.kind == "link" and op.name.startswith(_INDEX)}
        return {
            at
            for at, op in enumerate(self.ops)
            if op.inode in inodes or (op.name.startswith(_INDEX) and op.kind in ("link", "unlink"))
        }


def _change(file: bytearray, op: Op, way: int, generator: random.Random) -> None:
    if op.kind == "size":
        file[op.at :] = bytes(op.at - len(file)) if op.at > len(file) else b""
        return
    data = op.data
    if way in (_TORN, _HOLE):
        cut = generator.randrange(len(data))
        data = data[:cut] if way == _TORN else data[:cut] + bytes(len(data) - cut)
    if len(file) < op.at:
        file.extend(bytes(op.at - len(file)))
    file[op.at : op.at + len(data)] = data


def _tree(
    inode: int, prefix: str, names: dict[int, dict[str, int]], files: dict[int, bytearray]
) -> Iterator[tuple[str, bytes | None]]:
    for name, child in names[inode].items():
        path = f"{prefix}{name}"
        if child in names:
            yield path, None
            yield from _tree(child, f"{path}/", names, files)
        else:
            yield path, bytes(files.get(child, b""))
