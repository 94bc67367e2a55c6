"""`ckpt rm`: moves checkpoints to the trash."""

from __future__ import annotations

import click

from ckpt_tracker.cli.command import command
from ckpt_tracker.cli.opening import open_store
from ckpt_tracker.cli.params import REF
from ckpt_tracker.errors import InvalidOption


@command(
    examples=["ckpt rm mnist@v7", "ckpt rm mnist@v7 mnist@v8", "ckpt rm mnist@last --json | jq -r .removed[]"],
)
@click.argument("refs", type=REF, metavar="REF...", nargs=-1, required=True)
def rm(refs: tuple[str, ...], store: str | None, as_json: bool) -> None:
    """Moves each checkpoint REF to the trash, from where `ckpt undo` brings it back; a day later `ckpt gc` deletes it.

    A checkpoint that is tagged or pinned is not removed. A run alone is not taken for its newest checkpoint here.
    """
    from ckpt_tracker.cli.output import emit_json

    for ref in refs:
        if "@" not in ref:
            raise InvalidOption(f"{ref!r} names no checkpoint: write which one, {ref}@last or {ref}@v12")
    with open_store(store) as opened:
        found = {checkpoint.ref: checkpoint for checkpoint in map(opened.__getitem__, refs)}
        opened.remove(*found.values())
    if as_json:
        emit_json({"removed": list(found)})
    else:
        click.echo(f"in the trash: {', '.join(found)}; ckpt undo brings it back")
