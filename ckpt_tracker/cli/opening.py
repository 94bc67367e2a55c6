"""How a command comes by its store: `--store` after the command, or before it, or the environment, or the default."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ckpt_tracker.errors import StoreNotFound

if TYPE_CHECKING:
    from ckpt_tracker.store import Store


def chosen(store: str | None) -> str | None:
    """The `--store` that counts: the one nearer to the command's own arguments."""
    given: str | None = store or click.get_current_context().find_root().params.get("store")
    return given


def folder(store: str | None) -> Path:
    """Where the store is, or would be."""
    return Path(chosen(store) or os.environ.get("CKPT_TRACKER_STORE") or "checkpoints").expanduser()


def open_store(store: str | None) -> Store:
    """The store, which must exist: looking makes none. Raises StoreNotFound, naming stores nearby; NotAStore, …"""
    from ckpt_tracker.store import Store

    path = chosen(store)
    try:
        _refuse_foreign(folder(store))
        opened = Store(path, create=False)
        opened.by = f"ckpt {click.get_current_context().info_name}"
        return opened
    except StoreNotFound as error:
        raise StoreNotFound(f"{error}{_nearby(path or '')}") from error


def _refuse_foreign(path: Path) -> None:
    """Other tools keep their logs in folders called `runs` too: one alone makes no store."""
    if (path / "runs").is_dir() and not (path / "store.json").exists() and not any(path.glob("runs/*/run.json")):
        raise StoreNotFound(f"{path} is not a store: name one with --store or $CKPT_TRACKER_STORE")


def _nearby(wanted: str) -> str:
    from ckpt_tracker.cli.human import path
    from ckpt_tracker.selection import nearest

    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "store.json").is_file():
            return f"; the current folder is in one: --store {os.path.relpath(folder)}"
    folders = {each.absolute() for root in (Path(wanted).parent, Path.cwd()) for each in _folders(root)}
    return nearest(wanted, sorted(path(each) for each in folders if (each / "store.json").is_file()))


def _folders(root: Path) -> Iterator[Path]:
    try:
        yield from (each for each in root.iterdir() if each.is_dir())
    except OSError:
        return
