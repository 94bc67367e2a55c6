"""`ckpt gc`: deletes what no checkpoint needs."""

from __future__ import annotations

import click

from ckpt_tracker.cli import human
from ckpt_tracker.cli.command import command
from ckpt_tracker.cli.opening import open_store


@command(
    examples=["ckpt gc --dry-run", "ckpt gc"],
)
@click.option("--dry-run", is_flag=True, help="Only say how much would be freed.")
def gc(dry_run: bool, store: str | None, as_json: bool) -> None:
    """Deletes objects that no checkpoint needs, what interrupted saves left, and trash that is older than a day.

    Trackers free what their retention gives up by themselves; this is for what killed trainings left. It waits until
    no save is under way, and deletes nothing while a manifest can't be read: what it needs is not known then.
    """
    from ckpt_tracker.cli.output import emit_json

    with open_store(store) as opened:
        freed = opened.gc(dry_run=dry_run)
    if as_json:
        emit_json({"dry_run": dry_run, "freed_bytes": freed})
    else:
        click.echo(f"{human.size(freed)} {'would be freed' if dry_run else 'freed'}")
