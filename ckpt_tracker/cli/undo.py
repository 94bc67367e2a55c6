"""`ckpt undo`: brings back what was removed."""

from __future__ import annotations

import click

from ckpt_tracker.cli.command import command
from ckpt_tracker.cli.opening import open_store


@command(
    examples=["ckpt undo", "ckpt undo mnist", "ckpt undo mnist@v7 --json | jq -r .restored[]"],
)
@click.argument("ref", required=False)
def undo(ref: str | None, store: str | None, as_json: bool) -> None:
    """Brings the checkpoint REF back from the trash; without REF all that the last command moved there.

    RUN alone is what went last of that run. It is possible until the trash is emptied: a day later, by `ckpt gc`.
    """
    from ckpt_tracker.cli.output import emit_json

    with open_store(store) as opened:
        restored = [checkpoint.ref for checkpoint in opened.undo(ref)]
    if as_json:
        emit_json({"restored": restored})
    else:
        click.echo(f"restored: {', '.join(restored)}")
