"""`ckpt prune`: what a retention would keep and why; with --yes the rest goes to the trash."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ckpt_tracker.cli import human
from ckpt_tracker.cli.command import command
from ckpt_tracker.cli.opening import open_store
from ckpt_tracker.cli.params import RUN
from ckpt_tracker.errors import InvalidOption

if TYPE_CHECKING:
    from ckpt_tracker.records import Decision, Plan
    from ckpt_tracker.store import Store


@command(
    examples=[
        'ckpt prune mnist --keep "last:2 best:3"',
        'ckpt prune mnist --keep "last:2 best:5:val_loss:min:weights every:10epochs" --yes',
        'ckpt prune --keep "last:9 within:7days:day cap:20GB" --json | jq .freed_bytes',
    ],
)
@click.argument("runs", type=RUN, metavar="[RUN]...", nargs=-1)
@click.option("--keep", metavar="RETENTION", help="What to keep; see above.  [required]")
@click.option("--yes", is_flag=True, help="Do it. Without this nothing is changed.")
def prune(runs: tuple[str, ...], keep: str | None, yes: bool, store: str | None, as_json: bool) -> None:
    """Shows which checkpoints of each RUN (of all, where none is named) a retention keeps, and why.

    With --yes the others go to the trash, from where `ckpt undo` brings them back; a day later `ckpt gc` deletes them.

    \b
    last:N                       the newest N
    best:N, best:N:METRIC:min    the best N, by the run's own metric or another,
                                 or an expression: 'best:1:f1 where loss < 1:max'
    every:Nepochs, every:Nsteps  each N-th, for ever
    within:Nhours, within:Ndays  the recent ones; with :hour, :day or :week at
                                 the end one in each of those
    tagged                       what has a tag or is pinned: implied always
    ...:weights                  what nothing else keeps loses its optimizer and
                                 all else that predictions don't need
    cap:20GB                     no more than that, of all RUNs together: the
                                 highest rank and the oldest go first

    Joined by spaces they keep what any of them keeps; a cap is for all beside it, and parentheses give it less.
    """
    from ckpt_tracker.cli.documents import plan_document
    from ckpt_tracker.cli.output import emit_json

    with open_store(store) as opened:
        names = [opened.find_run(run).name for run in runs] or None
        if keep is None:
            raise InvalidOption(f"--keep says what to keep, such as {_suggestion(opened, names)}")
        plan = opened.plan(keep, runs=names)
        if plan.emptied:
            raise InvalidOption(f"{keep!r} would keep nothing of {', '.join(plan.emptied)}: keep one at least")
        if yes:
            plan = opened.apply(plan)
    if as_json:
        emit_json({"applied": yes, **plan_document(plan)})
    else:
        _print(plan, applied=yes)


def _suggestion(store: Store, names: Sequence[str] | None) -> str:
    """What the runs were trained with; or what anybody might want."""
    from ckpt_tracker.cli.kept import own_retention

    runs = [run for run in store.index.runs() if names is None or run.name in names]
    own = dict.fromkeys(filter(None, map(own_retention, runs)))
    if not own:
        return '--keep "last:2 best:3"'
    return f"{' or '.join(f'--keep {shlex.quote(each)}' for each in [*own][:3])}, as in training"


def _print(plan: Plan, *, applied: bool) -> None:
    from ckpt_tracker.cli.output import note
    from ckpt_tracker.cli.tables import Column, print_rows

    if not plan.decisions:
        note("there are no checkpoints")
        return
    columns: list[Column[Decision]] = [
        Column("checkpoint", lambda each: each.checkpoint.ref, text=True),
        Column("epoch", lambda each: human.optional(each.checkpoint.epoch), spare=1),
        Column("size", lambda each: human.size(each.checkpoint.nbytes), spare=2),
        Column("", verdict, text=True),
        Column("why", why, text=True, wrap=True),
    ]
    print_rows(columns, plan.decisions, chosen=lambda each: each.keep)
    kept = len(plan.decisions) - len(plan.removed)
    would = "" if applied else "would be "
    losing = f", {len(plan.stripped)} of them with weights only" if plan.stripped else ""
    click.echo(f"{kept} of {human.count(len(plan.decisions), 'checkpoint')} {would}kept{losing}")
    if not plan.removed and not plan.stripped:
        return
    size = human.size(plan.freed_bytes)
    if applied:
        click.echo(f"the rest is in the trash: ckpt undo brings it back, ckpt trash --empty frees {size} at once")
    else:
        click.echo(f"{size} would be freed; nothing is changed without --yes")


def verdict(decision: Decision) -> str:
    """What becomes of it, in a word."""
    if not decision.keep:
        return "remove"
    return "keep weights" if decision.weights_only else "keep"


def why(decision: Decision) -> str:
    """All reasons."""
    return human.printable(", ".join(decision.reasons)) or human.NONE
