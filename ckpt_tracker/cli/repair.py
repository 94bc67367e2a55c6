"""`ckpt repair`: puts right what a verify finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ckpt_tracker.cli import human
from ckpt_tracker.cli.command import command
from ckpt_tracker.cli.opening import folder, open_store
from ckpt_tracker.cli.verify import problem

if TYPE_CHECKING:
    from ckpt_tracker.files.layout import Layout
    from ckpt_tracker.inspection.repair import Deed, Loss, RepairPlan

_WORDS: dict[Deed, tuple[str, str]] = {
    "quarantine": ("would be quarantined", "quarantined"),
    "note": ("would be noted as lost", "noted as lost"),
    "rewrite": ("would be made anew", "made anew"),
    "rebuild": ("would be rebuilt", "rebuilt"),
}


@command(
    examples=["ckpt repair", "ckpt repair --yes", "ckpt repair --json | jq '.losses[].ref'"],
    exits=(6,),
)
@click.option("--yes", is_flag=True, help="Do it; without, it is only said.")
@click.pass_context
def repair(ctx: click.Context, yes: bool, store: str | None, as_json: bool) -> None:
    """Verifies every byte of the store, and puts right what is damaged; without --yes it only says what it would do.

    Damaged objects and manifests go to trash/quarantine, where they stay until somebody deletes that folder; the index,
    run.json and store.json are made anew; what no checkpoint needs, and what interrupted saves left, is deleted as
    `ckpt gc` does. The checkpoints that lost something are listed, with the sections that still load. Then verify
    finds nothing any more, and retention and gc free space again.
    """
    from ckpt_tracker.cli.output import progress_bar
    from ckpt_tracker.errors import Damaged
    from ckpt_tracker.files.layout import Layout
    from ckpt_tracker.inspection import repair as repairs

    layout = Layout(folder(store))
    plan = repairs.plan_store_file(layout)
    if plan is not None and yes:
        repairs.apply_to_store_file(layout)
    freed = 0
    if plan is None or yes:
        with open_store(store) as opened, progress_bar("verifying") as progress:
            plan = opened.plan_repair(progress=progress)
            freed = opened.repair(plan) if yes else 0
    if as_json:
        _emit(plan, layout, done=yes, freed=freed)
    else:
        _print(plan, layout, done=yes, freed=freed)
    if plan.steps and not yes:
        ctx.exit(Damaged.exit_code)


def _emit(plan: RepairPlan, layout: Layout, *, done: bool, freed: int) -> None:
    import dataclasses

    from ckpt_tracker.cli.documents import finding_document
    from ckpt_tracker.cli.output import emit_json

    steps = [{"deed": step.deed, **finding_document(step.finding)} for step in plan.steps]
    what = {"done": done, "steps": steps, "losses": [dataclasses.asdict(loss) for loss in plan.losses]}
    emit_json({**what, "freed_bytes": freed, "quarantine": str(layout.quarantine.absolute())})


def _print(plan: RepairPlan, layout: Layout, *, done: bool, freed: int) -> None:
    for step in plan.steps:
        click.echo(f"{_WORDS[step.deed][done]}: {problem(step.finding)}")
    for loss in plan.losses:
        click.echo(f"{loss.ref}: {_told(loss)}")
    for finding in plan.newer:
        click.echo(problem(finding))
    if not plan.steps:
        click.echo("nothing is damaged")
    elif not done:
        click.echo("nothing was changed: --yes does it")
    if done:
        where = f"; what is damaged lies in {human.path(layout.quarantine)}" if plan.steps else ""
        click.echo(f"{human.size(freed)} freed{where}")


def _told(loss: Loss) -> str:
    return f"still loads: {', '.join(loss.loads)}" if loss.loads else "nothing of it loads"
