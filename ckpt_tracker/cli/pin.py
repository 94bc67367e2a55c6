"""`ckpt pin`: has retention keep a checkpoint."""

from __future__ import annotations

import click

from ckpt_tracker.cli.command import command
from ckpt_tracker.cli.opening import open_store
from ckpt_tracker.cli.params import REF


@command(
    examples=["ckpt pin mnist@v7", "ckpt pin mnist@best --json | jq -r .ref"],
)
@click.argument("ref", type=REF)
def pin(ref: str, store: str | None, as_json: bool) -> None:
    """Pins the checkpoint REF: no retention removes it, or takes a part of it, until `ckpt unpin`."""
    from ckpt_tracker.cli.output import emit_json

    with open_store(store) as opened:
        checkpoint = opened[ref]
        changed = opened.find_run(checkpoint.run).pin(checkpoint)
    if as_json:
        emit_json({"ref": checkpoint.ref, "pinned": True, "changed": changed})
    else:
        click.echo(f"{checkpoint.ref} is pinned{'' if changed else ' already'}")
