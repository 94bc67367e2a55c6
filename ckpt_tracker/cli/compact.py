"""`ckpt compact`: puts what is stored into fewer bytes, losslessly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ckpt_tracker.cli import human
from ckpt_tracker.cli.command import command
from ckpt_tracker.cli.opening import open_store
from ckpt_tracker.cli.params import RUN

if TYPE_CHECKING:
    from ckpt_tracker.compaction.apply import Compaction


@command(
    examples=["ckpt compact --dry-run", "ckpt compact mnist", "ckpt compact --json | jq .freed_bytes"],
    exits=(6, 10),
)
@click.argument("run", type=RUN, required=False)
@click.option("--dry-run", is_flag=True, help="Only say about how much would be freed.")
def compact(run: str | None, dry_run: bool, store: str | None, as_json: bool) -> None:
    """Encodes the tensors of RUN, or of all runs, so that they take less room; they load as before, bit for bit.

    Each by itself, or as the difference to an earlier checkpoint where that pays: that one's bytes stay as long as they
    are needed, whatever retention does. Trainings may go on meanwhile. What is encoded already is left alone, so that
    it can be run as often as one likes. Versions of ckpt_tracker that don't know of it refuse the store from then on.
    """
    from ckpt_tracker.cli.output import emit_json, progress_bar

    with open_store(store) as opened:
        names = [opened.find_run(run).name] if run else None
        plan = opened.plan_compaction(runs=names)
        what = {"objects": len(plan.steps), "before_bytes": plan.nbytes, "after_bytes": plan.estimate}
        freed = plan.nbytes - plan.estimate
        if not dry_run:
            with progress_bar("encoding") as progress:
                done = opened.compact(plan, progress=progress)
            what, freed = _told(done), done.freed_bytes
    if as_json:
        emit_json({"dry_run": dry_run, **what, "freed_bytes": freed})
        return
    sizes = f"{human.size(what['before_bytes'])} to {'about ' if dry_run else ''}{human.size(what['after_bytes'])}"
    would = "would be " if dry_run else ""
    click.echo(f"{human.count(what['objects'], 'object')} {would}encoded, {sizes}; {human.size(freed)} {would}freed")


def _told(done: Compaction) -> dict[str, int]:
    return {"objects": done.objects, "before_bytes": done.before_bytes, "after_bytes": done.after_bytes}
