"""`ckpt export`: tensors of a checkpoint as a file that other tools read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ckpt_tracker.cli import human
from ckpt_tracker.cli.command import command
from ckpt_tracker.cli.opening import open_store
from ckpt_tracker.cli.params import REF
from ckpt_tracker.errors import InvalidOption

if TYPE_CHECKING:
    from ckpt_tracker.cli.export_state import Source

Write = Callable[["Source", Path], None]
SUFFIXES = (".safetensors", ".pt", ".pth", ".npz", ".keras")


@command(
    examples=[
        "ckpt export mnist@best model.safetensors",
        "ckpt export mnist weights.pt          # torch.load('weights.pt', weights_only=True)",
        "ckpt export mnist@v12 everything.pt --section all",
    ],
    exits=(6, 9, 10),
)
@click.argument("ref", type=REF)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=True))
@click.option("--section", default="model", show_default=True, help="Which section to take; `all` for every one.")
@click.option("--force", is_flag=True, help="Replace FILE where it exists.")
def export(ref: str, file: Path, section: str, force: bool, store: str | None, as_json: bool) -> None:
    """Writes tensors of the checkpoint REF to FILE, in the format that its ending names.

    \b
    .safetensors   the section's tensors by name (`fc.weight`; of several models
                   `G.fc.weight`), with the reference, digest and metrics
    .npz           the same for NumPy
    .pt, .pth      the section as it was saved, nested as it was: what
                   load_state_dict takes, for torch.load(weights_only=True)
    .keras         a Keras model: its architecture and weights

    What is no tensor is left out of .safetensors and .npz, and that is said. FILE appears whole or not at all; every
    tensor is checked against its hash on the way. torch is needed for .pt alone, and Keras for .keras.
    """
    from ckpt_tracker.cli.export_file import check_target, replacing

    write = _writer(file, section)
    check_target(file, force=force)
    from ckpt_tracker.cli.export_state import Source
    from ckpt_tracker.cli.output import emit_json, note, progress_bar

    with open_store(store) as opened, progress_bar("exporting") as progress:
        source = Source(opened, opened[ref], section, progress)
        with replacing(file, force=force) as scratch:
            write(source, scratch)
    if as_json:
        what = {"ref": source.checkpoint.ref, "digest": source.checkpoint.digest, "file": str(file.absolute())}
        done = {"format": file.suffix[1:].lower(), "section": section, "tensors": source.written}
        emit_json({**what, **done, "file_bytes": file.stat().st_size, "left_out": source.left_out})
        return
    tensors = human.count(source.written, "tensor")
    click.echo(f"{human.path(file)}: {tensors} of {source.checkpoint.ref}, {human.size(file.stat().st_size)}")
    if source.left_out:
        left_out = human.count(len(source.left_out), "value")
        note(f"left out, as {file.suffix} can't hold them: {left_out} ({_some(source.left_out)})")


def _writer(file: Path, section: str) -> Write:
    """What writes the format that the file's ending names. Raises InvalidOption, MissingExtra."""
    suffix = file.suffix.lower()
    if suffix == ".keras":
        if section != "model":
            raise InvalidOption(f".keras holds a model: it can't hold --section {section}")
        from ckpt_tracker.cli import export_keras

        return export_keras.writer()
    if suffix in (".pt", ".pth"):
        from ckpt_tracker.cli import export_torch

        return export_torch.writer()
    from ckpt_tracker.cli import export_tensors

    if suffix in (".safetensors", ".npz"):
        return export_tensors.write_safetensors if suffix == ".safetensors" else export_tensors.write_npz
    raise InvalidOption(f"{file.name!r} names no format: expected a name that ends in {', '.join(SUFFIXES)}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
