"""`ckpt unpin`: leaves a checkpoint to retention again."""

from __future__ import annotations

import click

from ckpt_tracker.cli.command import command
from ckpt_tracker.cli.opening import open_store
from ckpt_tracker.cli.params import REF


@command(
    examples=["ckpt unpin mnist@v7", "ckpt unpin mnist@best --json | jq -r .ref"],
)
@click.argument("ref", type=REF)
def unpin(ref: str, store: str | None, as_json: bool) -> None:
    """Takes the pin off the checkpoint REF: retention decides about it as about the others."""
    from ckpt_tracker.cli.output import emit_json

    with open_store(store) as opened:
        checkpoint = opened[ref]
        changed = opened.find_run(checkpoint.run).unpin(checkpoint)
    if as_json:
        emit_json({"ref": checkpoint.ref, "pinned": False, "changed": changed})
    else:
        click.echo(f"{checkpoint.ref} {'is pinned no more' if changed else 'was not pinned'}")
