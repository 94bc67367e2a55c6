"""`ckpt why`: why a checkpoint is kept, or what became of it."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

import click

from ckpt_tracker.cli import human
from ckpt_tracker.cli.command import command
from ckpt_tracker.cli.opening import open_store
from ckpt_tracker.cli.params import REF
from ckpt_tracker.errors import CheckpointNotFound, InvalidOption

if TYPE_CHECKING:
    from ckpt_tracker.history import Entry
    from ckpt_tracker.records import Decision, RunRecord
    from ckpt_tracker.store import Store


@command(
    examples=["ckpt why mnist@v3", "ckpt why mnist@best", 'ckpt why mnist@v3 --keep "last:2 best:1:val_acc:max"'],
)
@click.argument("ref", type=REF)
@click.option("--keep", metavar="RETENTION", help="Another retention than the run's own.")
def why(ref: str, keep: str | None, store: str | None, as_json: bool) -> None:
    """Tells why the checkpoint REF is kept by its run's retention, or by another; of one that is gone, what took it.

    The newest checkpoint of a run is always kept while it is trained, because there must be one to resume from.
    """
    from ckpt_tracker.cli.documents import decision_document
    from ckpt_tracker.cli.output import emit_json

    with open_store(store) as opened:
        checkpoint = _find(opened, ref)
        run = opened.run_record(checkpoint[0])
        decision, policy = _decision(opened, run, checkpoint[1], keep)
    if as_json:
        emit_json({"retention": policy, **decision_document(decision)})
        return
    reasons = human.printable(", ".join(decision.reasons))
    marked = decision.keep and not decision.weights_only
    state = "is kept" if marked else "is kept with its weights only" if decision.keep else "is not kept"
    until = "" if decision.keep or keep else "; it goes when the run saves again, or by ckpt prune"
    told = f"{state}{': ' if reasons else ''}{reasons} (by {human.printable(policy)}){until}"
    click.echo(f"{decision.checkpoint.ref} {told}")


def _find(store: Store, ref: str) -> tuple[str, int]:
    """Run and version. Raises CheckpointNotFound, with what took it where that is known."""
    from ckpt_tracker.selection import parse

    wanted = parse(ref)
    try:
        found = store[ref]
    except CheckpointNotFound as error:
        if wanted.by != "version" or store.index.run(wanted.run) is None:
            raise
        took = [entry for entry in store.find_run(wanted.run).history() if wanted.number in entry.versions]
        if not took or took[-1].event not in ("evicted", "removed"):
            raise
        there = f"{wanted.run}@v{wanted.number}" in {each.checkpoint.ref for each in store.trash()}
        back = f"; ckpt undo {ref} brings it back" if there else ""
        raise CheckpointNotFound(f"{ref} is gone: {_end(took[-1])}{back}") from error
    return found.run, found.version


def _end(entry: Entry) -> str:
    by = f" by {entry.by}" if entry.by else ""
    keep = f"; {entry.details['keep']} did not keep it" if entry.details.get("keep") else ""
    return f"{entry.event} {human.age(entry.at, now=datetime.now(timezone.utc))}{by}{keep}"


def _decision(store: Store, run: RunRecord, version: int, keep: str | None) -> tuple[Decision, str]:
    from ckpt_tracker.cli.kept import decisions, own_retention

    policy = keep or own_retention(run)
    if policy is None:
        raise InvalidOption(f"run {run.name!r} was trained without a retention: name one with --keep")
    found = decisions(store, run, store.index.checkpoints(run.name), keep=keep)
    return next(each for each in found if each.checkpoint.version == version), policy
