"""Stores that somebody forged, each by one change to a sound one, with right checksums wherever there are any."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from ckpt_tracker.disk.jsonfile import dump, unseal

HASH = "ab" * 32
MANIFEST = "runs/r/manifests/000001.json"
VISITOR = "__main__"


@dataclass(frozen=True)
class Forgery:
    """A store that is not what it seems, and what it must be refused with."""

    forge: Callable[[Path], object]
    step: str = "load"
    """The step of a visit that refuses it."""
    word: str = "r@v1"
    """What the message has in it."""
    errors: tuple[str, ...] = ("Damaged",)


def sealed(body: bytes) -> bytes:
    """The bytes of an object without its closing brace, sealed as the store does it, whatever they are."""
    return body + b',"checksum":"' + blake3(body).hexdigest().encode() + b'"}'


def rewrite(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes a sealed document, and seals it again."""
    document = unseal(file.read_bytes(), name="x")
    change(document)
    file.write_bytes(sealed(dump(document)[:-1]))


def manifest(**members: object) -> Forgery:
    """A manifest with other members."""
    return Forgery(lambda store: rewrite(store / MANIFEST, lambda document: document.update(members)))


def text(found: bytes, other: bytes) -> Forgery:
    """A manifest with other text in it, which need not be JSON."""

    def forge(store: Path) -> None:
        body = (store / MANIFEST).read_bytes()[:-78]
        assert found in body
        (store / MANIFEST).write_bytes(sealed(body.replace(found, other, 1)))

    return Forgery(forge)


def tensor(**members: object) -> Forgery:
    """A manifest whose first tensor (six float64) is another."""
    return Forgery(lambda store: rewrite(store / MANIFEST, lambda document: document["tensors"][0].update(members)))


def tree(form: object, *errors: str) -> Forgery:
    """A manifest with such a form in its tree."""

    def change(document: dict[str, Any]) -> None:
        document["sections"]["loop"] = {"x": form}

    return Forgery(lambda store: rewrite(store / MANIFEST, change), errors=errors or ("Damaged",))


def event(**members: object) -> Forgery:
    """A run with another event: it is skipped, and the verify names it."""

    def forge(store: Path) -> None:
        with (store / "runs/r/events.jsonl").open("ab") as file:
            file.write(sealed(dump(members)[:-1]) + b"\n")

    return Forgery(forge, "verify", "events.jsonl is damaged", ("findings",))


def run_file(**members: object) -> Forgery:
    """A run whose `run.json` has other members: its config is lost, its checkpoints are not."""
    change = Forgery(lambda store: rewrite(store / "runs/r/run.json", lambda document: document.update(members)))
    return Forgery(change.forge, "verify", "run.json is damaged", ("findings",))


def store_file(data: bytes) -> Forgery:
    """Another `store.json`."""
    return Forgery(lambda store: (store / "store.json").write_bytes(data), "open", "store.json")


def replaced(
    name: str, step: str, *, by: Callable[[Path, Path], object], errors: tuple[str, ...] = ("Damaged",)
) -> Forgery:
    """Something else where a file or folder of the store should be; it was moved to `outside`."""

    def forge(store: Path) -> None:
        target = next(store.glob(name)) if "*" in name else store / name
        away = store.parent / "outside" / target.name
        if target.exists():
            shutil.move(target, away)
        else:
            away.write_bytes(b"precious")
        by(target, away)

    return Forgery(forge, step, name.rpartition("*/")[2].rpartition("/")[2].strip("*"), errors)


def link(target: Path, away: Path) -> None:
    """A symlink to what was there."""
    target.symlink_to(away)


def link_to_device(target: Path, away: Path) -> None:
    """A symlink to zeros without end."""
    target.symlink_to("/dev/zero")


def fifo(target: Path, away: Path) -> None:
    """A pipe that nobody writes to."""
    os.mkfifo(target)


def folder(target: Path, away: Path) -> None:
    """A folder."""
    target.mkdir()


def plain_file(target: Path, away: Path) -> None:
    """A file where a folder should be."""
    target.write_bytes(b"x")


def sparse(nbytes: int) -> Callable[[Path, Path], object]:
    """A file of that many zeros."""

    def make(target: Path, away: Path) -> None:
        target.touch()
        os.truncate(target, nbytes)

    return make


def bomb(section: bytes) -> Forgery:
    """A manifest with such a section: small in the file, large in memory."""

    def forge(store: Path) -> None:
        head, found, rest = (store / MANIFEST).read_bytes()[:-78].partition(b'"sections":{')
        (store / MANIFEST).write_bytes(sealed(head + found + b'"bomb":' + section + b"," + rest))

    return Forgery(forge)


def huge_tensor(store: Path) -> None:
    """A tensor of 10 TB over an object of 10 TB of holes."""
    nbytes = 10 * 2**40
    hole = store / "objects" / HASH[:2] / HASH
    hole.parent.mkdir(exist_ok=True)
    sparse(nbytes)(hole, hole)
    members = {"shape": [nbytes // 8], "nbytes": nbytes, "pieces": [[HASH, 0, nbytes]]}

    def change(document: dict[str, Any]) -> None:
        document["nbytes"] += nbytes - document["tensors"][0]["nbytes"]
        document["tensors"][0].update(members)

    rewrite(store / MANIFEST, change)


def piece_outside(store: Path) -> None:
    """A piece that begins behind the end of its object."""

    def change(document: dict[str, Any]) -> None:
        document["tensors"][0]["pieces"][0][1] = 2**40

    rewrite(store / MANIFEST, change)


def repeated_pieces(store: Path) -> None:
    """One object a hundred thousand times: a terabyte of a few bytes."""

    def change(document: dict[str, Any]) -> None:
        entry = document["tensors"][0]
        pieces = entry["pieces"] * 100_000
        nbytes = sum(piece[2] for piece in pieces)
        entry.update(pieces=pieces, nbytes=nbytes, shape=[nbytes // 8])
        document["nbytes"] += nbytes - 48

    rewrite(store / MANIFEST, change)


def foreign_index(script: str) -> Callable[[Path], None]:
    """An index that somebody else has worked at."""

    def forge(store: Path) -> None:
        with contextlib.closing(sqlite3.connect(store / "index.sqlite")) as connection:
            connection.executescript(script)

    return forge


def renamed(name: str) -> Callable[[Path], object]:
    """A copy of the manifest under another name."""
    return lambda store: shutil.copy(store / MANIFEST, store / "runs/r/manifests" / name)


def old_files_behind_the_trash(store: Path) -> None:
    """The trash of a run leads to files that are older than a day."""
    outside = store.parent / "outside" / "documents"
    outside.mkdir()
    (outside / "thesis.tex").write_bytes(b"precious")
    os.utime(outside / "thesis.tex", (0, 0))
    (store / "trash/r").symlink_to(outside)
