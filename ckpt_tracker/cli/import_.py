"""`ckpt import`: a file of weights that somebody else's tool wrote becomes a checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from ckpt_tracker.cli import human
from ckpt_tracker.cli.command import command
from ckpt_tracker.cli.opening import folder
from ckpt_tracker.cli.params import RUN
from ckpt_tracker.errors import InvalidOption


@command(
    examples=[
        "ckpt import lightning_logs/version_0/checkpoints/last.ckpt mnist",
        "ckpt import resnet50.pt pretrained --memory 4GB",
    ],
    exits=(6, 7, 8, 10, 14),
)
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("run", type=RUN)
@click.option("--memory", help="What reading FILE may take, such as 8GB.  [default: three times its size, and 1 GB]")
def import_(file: Path, run: str, memory: str | None, store: str | None, as_json: bool) -> None:
    """Makes of FILE, which torch.save wrote (.pt, .pth, .ckpt), the next checkpoint of RUN, of the kind `import`.

    The weights become the section `model`; what else there is keeps its name. Of Lightning's files the sections are
    those of a training, and the hyperparameters become the run's config. It is made where there is none.

    Nothing in FILE is run: torch (2.10 or later) reads it with weights_only, in a process of its own whose memory is
    limited. What asks for more is refused.
    """
    from ckpt_tracker.cli.import_process import read_in_child, size_named
    from ckpt_tracker.cli.output import emit_json
    from ckpt_tracker.selection import check_run_name

    check_run_name(run)
    if not file.is_file():
        raise InvalidOption(f"{file} is no file: name one that torch.save wrote")
    limit = 3 * file.stat().st_size + 10**9 if memory is None else size_named(memory)
    made = read_in_child(file, folder(store), run, memory=limit)
    if as_json:
        emit_json(made)
    else:
        click.echo(f"{made['ref']}: {human.size(made['nbytes'])} in {', '.join(made['sections'])}")
