"""`ckpt ls`: the checkpoints of a run, or of all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ckpt_tracker.cli import human
from ckpt_tracker.cli.command import command
from ckpt_tracker.cli.documents import CHECKPOINT_KEYS
from ckpt_tracker.cli.opening import open_store

if TYPE_CHECKING:
    from ckpt_tracker.store import Store


@command(
    examples=["ckpt ls", "ckpt ls mnist", "ckpt ls mnist --json | jq '.[] | select(.best) | .ref'"],
    document=f"An array, by run, oldest checkpoint first; of each: {CHECKPOINT_KEYS} (by its run's own monitor).",
)
@click.argument("run", required=False)
def ls(run: str | None, store: str | None, as_json: bool) -> None:
    """Lists the checkpoints of RUN, or of all runs by name, oldest first.

    The metric that the run monitors stands first, and `best` is by it. `size` is what a checkpoint holds, `stored` what
    it added to the store: a tensor that did not change is stored once. `stall` is how long the training waited for it.
    """
    from ckpt_tracker.cli.checkpoint_table import print_checkpoints
    from ckpt_tracker.cli.documents import checkpoint_document
    from ckpt_tracker.cli.output import emit_json, note

    with open_store(store) as opened:
        records = opened.index.checkpoints(opened.find_run(run).name if run else None)
        monitors = {each.name: each.monitor for each in opened.index.runs() if run in (None, each.name)}
        best = best_versions(opened, run)
        if as_json:
            emit_json([checkpoint_document(each, best=each.version == best[each.run]) for each in records])
        elif records:
            print_checkpoints(records, monitors=monitors, best=best, by_ref=run is None)
        else:
            where = f"run {run}" if run else f"the store {human.path(opened.path)}"
            note(f"{where} has no checkpoints yet")


def best_versions(store: Store, run: str | None = None) -> dict[str, int | None]:
    """The best version of each run (or of one) by its own monitor; None where it has no best."""
    return {
        each.name: store.index.best(each.name, each.monitor) if each.monitor else None
        for each in store.index.runs()
        if run in (None, each.name)
    }
