"""`ckpt tag`: names a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ckpt_tracker.cli.command import command
from ckpt_tracker.cli.opening import open_store
from ckpt_tracker.cli.params import REF, TAG
from ckpt_tracker.errors import InvalidOption

if TYPE_CHECKING:
    from ckpt_tracker.store import Store


@command(
    examples=["ckpt tag mnist@best paper", "ckpt tag mnist paper --delete", "ckpt tag mnist@v7 paper --json"],
)
@click.argument("ref", type=REF)
@click.argument("name", type=TAG)
@click.option("--delete", is_flag=True, help="Take the name away instead; REF may be the run.")
def tag(ref: str, name: str, delete: bool, store: str | None, as_json: bool) -> None:
    """Gives the checkpoint REF a NAME: `RUN@NAME` means it from then on, and retention keeps it.

    A name that another checkpoint of the run has moves, and `ckpt log RUN --tag NAME` remembers where it stood.
    """
    from ckpt_tracker.cli.output import emit_json

    with open_store(store) as opened:
        opened_ref, before = _delete(opened, ref, name) if delete else _give(opened, ref, name)
    if as_json:
        emit_json({"ref": opened_ref, "tag": name, "before": before, "deleted": delete})
    elif delete:
        click.echo(f"{opened_ref} is {name} no more")
    else:
        moved = f" ({before} was)" if before not in (None, opened_ref) else ""
        click.echo(f"{opened_ref} is {name}{moved}")


def _give(store: Store, ref: str, name: str) -> tuple[str, str | None]:
    checkpoint = store[ref]
    before = store.find_run(checkpoint.run).tag(name, checkpoint)
    return checkpoint.ref, None if before is None else f"{checkpoint.run}@v{before}"


def _delete(store: Store, ref: str, name: str) -> tuple[str, str]:
    from ckpt_tracker.selection import parse

    run = store.find_run(parse(ref).run)
    if "@" in ref and name not in store[ref].tags:
        raise InvalidOption(f"{store[ref].ref} is not tagged {name}")
    had = f"{run.name}@v{run.untag(name)}"
    return had, had
