"""Kinds of arguments that the shell can complete: runs, references, metrics, tags."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ckpt_tracker.store import Store


class _Completed(click.ParamType):  # type: ignore[type-arg]  # not generic in click 8.3
    """Text, with what the store has of it."""

    def __init__(self, name: str, known: Callable[[Store, click.Context, str], Iterable[str]]) -> None:
        self.name = name
        self._known = known

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """What begins as the word does; nothing where no store can be read: a prompt is no place to say so."""
        import logging

        from click.shell_completion import CompletionItem

        from ckpt_tracker.errors import CkptTrackerError
        from ckpt_tracker.store import Store

        logging.disable()
        given = ctx.params.get("store") or ctx.find_root().params.get("store")
        folder = Path(given or os.environ.get("CKPT_TRACKER_STORE") or "checkpoints").expanduser()
        try:
            if not (folder / "store.json").is_file():
                return []
            with Store(folder, create=False) as store:
                words = [word for word in self._known(store, ctx, incomplete) if word.startswith(incomplete)]
        except (CkptTrackerError, OSError):
            return []
        return [CompletionItem(word) for word in words if word.isprintable()]


def _runs(store: Store, ctx: click.Context, incomplete: str) -> list[str]:
    return [run.name for run in store.runs()]


def _references(store: Store, ctx: click.Context, incomplete: str) -> list[str]:
    """Runs, until it is clear which one is meant: then its checkpoints."""
    run, at, _ = incomplete.partition("@")
    names = [each for each in _runs(store, ctx, "") if each.startswith(run)]
    if at:
        return _selectors(store, run) if run in names else []
    return [*names, *(_selectors(store, names[0]) if len(names) == 1 else ())]


def _selectors(store: Store, run: str) -> list[str]:
    record = store.run_record(run)
    versions = [f"v{each.version}" for each in reversed(store.index.checkpoints(run))]
    best = ["best"] if record.monitor else []
    return [f"{run}@{word}" for word in ("last", *best, *record.tags, *versions)]


def _metrics(store: Store, ctx: click.Context, incomplete: str) -> list[str]:
    return sorted({name for run in _runs(store, ctx, "") for name in store.index.metric_names(run)})


def _tags(store: Store, ctx: click.Context, incomplete: str) -> list[str]:
    named = str(ctx.params.get("run") or ctx.params.get("ref") or "").partition("@")[0]
    return sorted({tag for run in store.index.runs() if named in ("", run.name) for tag in run.tags})


RUN = _Completed("run", _runs)
REF = _Completed("reference", _references)
METRIC = _Completed("metric", _metrics)
TAG = _Completed("tag", _tags)
