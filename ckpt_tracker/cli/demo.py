"""`ckpt demo`: a training that is killed in the middle, goes on, and ends as if nothing had happened."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ckpt_tracker.cli import human
from ckpt_tracker.cli.command import command, store_option
from ckpt_tracker.cli.opening import chosen
from ckpt_tracker.errors import CkptTrackerError, MissingExtra

if TYPE_CHECKING:
    from ckpt_tracker.cli.demo_story import Story

_KEEP = store_option("--keep", text="Keep what the demo makes, in this store.  [default: a temporary one]")


@command(
    examples=["ckpt demo", "ckpt demo --keep demo-checkpoints", "ckpt demo --json | jq .equal"],
    exits=(6, 10),
    store=_KEEP,
)
def demo(store: str | None, as_json: bool) -> None:
    """Trains a small CNN on scikit-learn's digits, kills the training with SIGKILL in the middle of an epoch, starts it
    again with another seed, and compares the end with that of a training that nobody killed.

    It takes some twenty seconds, and downloads nothing. The exit code is 1 where the two ends differ.
    """
    _check_installed()
    from ckpt_tracker.cli.demo_story import tell
    from ckpt_tracker.cli.output import emit_json

    with _place(chosen(store)) as (kept, scratch):
        story = tell(kept, scratch, quiet=as_json)
        if as_json:
            emit_json(story.document())
        else:
            _print(story, kept=kept != scratch / "checkpoints")
    if not story.equal:
        raise CkptTrackerError("the restarted training ended with another digest than the uninterrupted one")


def _check_installed() -> None:
    missing = [name for name in ("torch", "sklearn") if importlib.util.find_spec(name) is None]
    if missing:
        names = " and ".join({"sklearn": "scikit-learn"}.get(name, name) for name in missing)
        verb = "is" if len(missing) == 1 else "are"
        raise MissingExtra(
            f"the demo trains with torch on scikit-learn's digits, and {names} {verb} not installed: "
            'pip install "ckpt-tracker[demo]"'
        )


@contextmanager
def _place(store: str | None) -> Iterator[tuple[Path, Path]]:
    """The store to use, and a temporary folder."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="ckpt-demo-") as folder:
        scratch = Path(folder)
        yield (Path(store).expanduser() if store else scratch / "checkpoints"), scratch


def _print(story: Story, *, kept: bool) -> None:
    from ckpt_tracker.cli.checkpoint_table import print_checkpoints
    from ckpt_tracker.cli.output import emit_pairs

    run, best = story.run, story.best
    click.echo()
    print_checkpoints(story.records, monitors={run: story.monitor}, best={run: best.version})
    click.echo()
    values = ", ".join(f"{name} {human.number(value)}" for name, value in best.metrics.items())
    stall, training = human.duration(story.stall_seconds), human.duration(story.training_seconds)
    count, held = human.count(len(story.records), "checkpoint"), human.size(story.nbytes)
    rows = [
        ("best", f"{best.ref} ({values})"),
        ("stored", f"{human.size(story.stored_bytes)} for {count} that hold {held}"),
        ("held up", f"the training waited {stall} for its checkpoints; its two processes took {training}"),
        ("digest", story.digest),
        ("never killed", story.uninterrupted_digest),
    ]
    emit_pairs(rows)
    verdict = "equal: every tensor, and every other value of the state, is the same bit for bit"
    click.secho(f"\n{verdict if story.equal else 'different'}", fg="green" if story.equal else "red", bold=True)
    if kept:
        click.echo(f"look around with: ckpt ls {run} --store {human.path(story.store)}")
