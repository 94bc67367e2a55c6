"""What every command has: `--store`, `--json`, and help that ends in examples, the JSON's form and the exit codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

EXIT_STATUS = {
    0: "done",
    1: "something else went wrong",
    2: "an argument is wrong, or two don't go together",
    3: "there is no such store, run or checkpoint",
    4: "the folder is no store, or not one that this version can use",
    5: "bytes in the store are damaged",
    6: "there is no room on the disk",
    7: "another training is writing the run",
    8: "a value has no form without pickle",
    9: "the checkpoint does not fit what is asked of it",
    10: "an optional package is not installed",
    11: "the resumed training is not what it should be",
    12: "two trainings that nobody interrupted differ",
    13: "it could not be tried; the output says why",
    14: "the file asks for more than tensors and plain values",
    130: "interrupted with Ctrl-C; nothing is left half done",
}
_ALWAYS = (0, 1, 2, 3, 4, 5, 130)


def store_option(
    *more_names: str, text: str = "The store.  [default: $CKPT_TRACKER_STORE, else ./checkpoints]"
) -> click.Option:
    """`--store`, which may stand before the command's name and after it."""
    return click.Option(["--store", *more_names, "store"], metavar="DIR", help=text)


def _json_option() -> click.Option:
    return click.Option(["--json", "as_json"], is_flag=True, help="Print JSON: raw numbers, stable keys.")


class Command(click.Command):
    """A command whose help ends in examples, the JSON's form and a table of exit codes."""

    def __init__(self, *args: Any, examples: Sequence[str], exits: Sequence[int] = (), **options: Any) -> None:
        super().__init__(*args, **options)
        self.examples = tuple(examples)
        self.exits = tuple(sorted({*_ALWAYS, *exits}))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the three sections."""
        from ckpt_tracker.cli.schemas import described

        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"{'':>{formatter.current_indent}}{example}\n")
        heading, keys = described((self.name or "").rstrip("-"))
        with formatter.section(f"JSON: {heading[:-1].lower()}"):
            formatter.write_dl(keys)
        with formatter.section("Exit status"):
            formatter.write_dl([(str(code), EXIT_STATUS[code]) for code in self.exits])


def command(
    *,
    examples: Sequence[str],
    exits: Sequence[int] = (),
    store: click.Option | None = None,
) -> Callable[[Callable[..., None]], Command]:
    """Makes a function a command; its docstring is the help.

    `exits` are its exit codes besides those that every command has.
    The function is given `store` and `as_json` with its own parameters.
    """

    def decorate(function: Callable[..., None]) -> Command:
        made: Command = click.command(cls=Command, examples=examples, exits=exits)(function)
        made.params += [store or store_option(), _json_option()]
        return made

    return decorate
