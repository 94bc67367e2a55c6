"""`ckpt trash`: what was removed and can be had back."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

import click

from ckpt_tracker.cli import human
from ckpt_tracker.cli.command import command
from ckpt_tracker.cli.opening import open_store

if TYPE_CHECKING:
    from ckpt_tracker.retention.trash import Trashed


@command(
    examples=["ckpt trash", "ckpt trash --empty", "ckpt trash --json | jq '.checkpoints[].ref'"],
)
@click.option("--empty", is_flag=True, help="Delete all of it, for good.")
def trash(empty: bool, store: str | None, as_json: bool) -> None:
    """Lists the checkpoints in the trash: what people removed, and can have back with `ckpt undo`.

    A day after that `ckpt gc` deletes them; a save that finds the disk full does so at once. What the retention of a
    training gives up does not come here: it is freed at once.
    """
    from ckpt_tracker.cli.output import emit_json, note

    with open_store(store) as opened:
        found = opened.trash()
        freed = opened.empty_trash() if empty else opened.reclaimer.freed_by_emptying()
    if as_json:
        emit_json({"freed_bytes": freed, "emptied": empty, "checkpoints": [_document(each) for each in found]})
    elif empty:
        click.echo(f"{human.count(len(found), 'checkpoint')} deleted, {human.size(freed)} freed")
    elif found:
        _print(found)
        click.echo(f"ckpt undo brings back what went last; ckpt trash --empty frees {human.size(freed)}")
    else:
        note("the trash is empty")


def _document(each: Trashed) -> dict[str, object]:
    record = each.checkpoint
    what = {"ref": record.ref, "run": record.run, "version": record.version, "epoch": record.epoch, "step": record.step}
    who = {"stripped": each.stripped, "by": each.by, "user": each.user, "keep": each.keep}
    return {**what, "metrics": dict(record.metrics), "removed_at": each.removed_at, "until": each.until, **who}


def _print(found: list[Trashed]) -> None:
    from ckpt_tracker.cli.tables import Column, print_rows

    now = datetime.now(timezone.utc)
    columns: list[Column[Trashed]] = [
        Column("checkpoint", lambda each: each.checkpoint.ref, text=True),
        Column("epoch", lambda each: human.optional(each.checkpoint.epoch), spare=2),
        Column("size", lambda each: human.size(each.checkpoint.nbytes), spare=3),
        Column("removed", lambda each: human.age(each.removed_at, now=now)),
        Column("until (UTC)", lambda each: f"{each.until:%Y-%m-%d %H:%M}", spare=1),
        Column("what", lambda each: "all but its weights" if each.stripped else "all of it", text=True, spare=4),
        Column("by", lambda each: who(each.by, each.user), text=True, spare=5),
    ]
    print_rows(columns, found)


def who(by: str | None, user: str | None) -> str:
    """`ckpt rm (anna)`."""
    return human.printable(f"{by or human.NONE}{f' ({user})' if user else ''}")
