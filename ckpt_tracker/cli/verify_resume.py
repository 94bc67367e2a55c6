"""`ckpt verify-resume`: whether a training that is killed and started again ends as if nothing had happened."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ckpt_tracker.cli import human
from ckpt_tracker.cli.command import command, store_option
from ckpt_tracker.cli.opening import chosen
from ckpt_tracker.errors import InvalidOption

if TYPE_CHECKING:
    from ckpt_tracker.exact_resume.proof import Progress

_EXITS = {"equal": 0, "different": 11, "left out": 11, "not deterministic": 12, "not tried": 13}
_KEEP = store_option("--keep", text="Keep all stores, and what the script printed, in this new folder.")


@command(
    examples=[
        "ckpt verify-resume -- python train.py --epochs 5",
        "ckpt verify-resume --kill-after 2 -- python train.py",
        "ckpt verify-resume --runs 20 --seed 1 --json -- python train.py | jq .causes",
    ],
    exits=(11, 12, 13),
    store=_KEEP,
)
@click.argument("script", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
@click.option("--kill-after", metavar="N", type=int, help="Kill soon after N checkpoints are durable.")
@click.option("--kill", type=click.Choice(["random"]), help="Kill at a random moment.  [default]")
@click.option("--runs", metavar="K", type=int, default=1, show_default=True, help="How many trainings to kill.")
@click.option("--seed", metavar="S", type=int, default=0, show_default=True, help="Of the random moments.")
@click.option("--timeout", metavar="SECONDS", type=float, help="How long the script may take each time.")
@click.option("-v", "--verbose", is_flag=True, help="Show on stderr what the script prints.")
@click.pass_context
def verify_resume(
    ctx: click.Context,
    script: tuple[str, ...],
    kill_after: int | None,
    kill: str | None,
    runs: int,
    seed: int,
    timeout: float | None,
    verbose: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Starts the training COMMAND twice, then kills it with SIGKILL and starts it again, and compares every checkpoint
    that was saved after the kill with the uninterrupted training's, bit for bit.

    Where they differ it names the first checkpoint and tensors, and the likely cause. The checkpoints go to temporary
    stores, whatever the script says; what else it writes, it writes. Two whole trainings are needed, and for each kill
    about one more.
    """
    from ckpt_tracker.cli.output import emit_json, emit_pairs
    from ckpt_tracker.exact_resume.proof import Options, try_out

    if kill and kill_after:
        raise InvalidOption("--kill random and --kill-after exclude each other")
    with _signals(), _folder(chosen(store)) as (folder, keep), _progress(verbose=verbose) as progress:
        options = Options(kill_after=kill_after, runs=runs, seed=seed, timeout=timeout, shown=verbose, keep=keep)
        report = try_out(script, folder, options, progress=progress)
    if as_json:
        emit_json(report.document())
    else:
        emit_pairs((label, human.printable(human.relative(text))) for label, text in report.lines())
    ctx.exit(_EXITS[report.outcome])


verify_resume.allow_interspersed_args = False  # the script's own options are none of ours


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the script, too, and take the stores away, as Ctrl-C does: it has a session of its own."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    caught = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) == signal.SIG_DFL]
    for each in caught:
        signal.signal(each, end)
    try:
        yield
    finally:
        for each in caught:
            signal.signal(each, signal.SIG_DFL)


@contextlib.contextmanager
def _folder(keep: str | None) -> Iterator[tuple[Path, bool]]:
    """Where the stores are, and whether they stay there."""
    if keep is None:
        import tempfile

        with tempfile.TemporaryDirectory(prefix="ckpt-trial-") as temporary:
            yield Path(temporary).resolve(), False
        return
    folder = Path(keep).expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise InvalidOption(f"--keep {human.path(folder)}: expected a new or an empty folder")
    yield folder, True


@contextlib.contextmanager
def _progress(*, verbose: bool) -> Iterator[Progress]:
    """On a terminal a line that says what runs; in front of the script's own output a heading; else nothing."""
    from ckpt_tracker.cli.output import note

    told = 0

    def heading(what: str, number: int, total: int, durable: int) -> None:
        nonlocal told
        if number != told:
            told = number
            note(f"--- training {number} of {total}: {what}")

    if verbose:
        yield heading
    elif sys.stderr.isatty():
        with _line() as line:
            yield line
    else:
        yield lambda what, number, total, durable: None


@contextlib.contextmanager
def _line() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import Progress as Live
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Live(*columns, console=Console(stderr=True), transient=True) as live:
        task = live.add_task("starting", total=None)

        def show(what: str, number: int, total: int, durable: int) -> None:
            saved = human.count(durable, "checkpoint")
            live.update(task, description=f"training {number} of {total}, {what}: {saved}")

        yield show
