"""`ckpt`: its commands, and what an error of theirs looks like: one line on stderr, and an exit code."""

from __future__ import annotations

import errno
import importlib
import keyword
from typing import IO, Any

import click

from ckpt_tracker.cli.command import store_option
from ckpt_tracker.cli.human import printable, relative
from ckpt_tracker.errors import CkptTrackerError, StoreFull

SECTIONS = {
    "Look": {
        "runs": "The trainings in the store, each with its newest and its best",
        "ls": "Checkpoints, sorted by any metric, and why each is kept",
        "show": "Everything about one checkpoint",
        "best": "The best checkpoint, by any metric",
        "why": "Why a checkpoint is kept, or what became of it",
        "diff": "What two checkpoints differ in, tensor by tensor",
        "watch": "The checkpoints of a training as they come",
        "log": "What happened to the checkpoints, by whom and why",
    },
    "Keep": {
        "tag": "Name a checkpoint; what has a name is kept",
        "pin": "Keep a checkpoint, whatever the retention says",
        "unpin": "Leave it to the retention again",
        "metrics": "Add what was measured after the training",
    },
    "Free space": {
        "du": "What takes the space, and what a retention would free",
        "prune": "What a retention keeps and why; with --yes the rest goes",
        "rm": "Move checkpoints to the trash",
        "trash": "What was removed and can be had back",
        "undo": "Bring it back from the trash",
        "gc": "Delete what no checkpoint needs",
        "compact": "Put what is stored into fewer bytes, losslessly",
    },
    "Use and check": {
        "export": "Write weights to a .safetensors, .pt, .npz or .keras file",
        "import": "Make a checkpoint of a .pt or .ckpt file",
        "verify": "Check every checkpoint, with --deep every byte",
        "repair": "Put right what is damaged",
        "verify-resume": "Whether a training, killed and restarted, ends the same",
        "demo": "See a training killed and resumed, bit for bit",
    },
}
_TOLD = {name: told for commands in SECTIONS.values() for name, told in commands.items()}
COMMANDS = tuple(_TOLD)
INTERRUPTED = 130
_EPILOG = """\
A REF is RUN, RUN@last, RUN@best, RUN@best:METRIC:min|max, RUN@v12,
RUN@epoch:3, RUN@step:1200 or RUN@TAG.
ckpt COMMAND --help has examples, the exit codes, and the keys of its --json.
To complete runs, references and options in bash (or zsh_source, fish_source):
eval "$(_CKPT_COMPLETE=bash_source ckpt)"
"""


class Failure(click.ClickException):
    """An error of a command, on its way to stderr."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance

    def show(self, file: IO[Any] | None = None) -> None:
        """Prints it as one line, as far as the message is one."""
        click.echo(f"ckpt: {self.message}", file=file, err=file is None)


class Commands(click.Group):
    """The commands, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which people need them."""
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """By what people want to do. None is imported for that."""
        width = max(map(len, COMMANDS))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), told) for name, told in commands.items()])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command in the module of that name."""
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_") + "_" * keyword.iskeyword(cmd_name)
        found: click.Command = getattr(importlib.import_module(f"ckpt_tracker.cli.{name}"), name)
        found.short_help = _TOLD[cmd_name]  # zsh and fish show it beside the name
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Names the nearest command where there is none of that name."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(COMMANDS)}"
            ctx.fail(f"no command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; what people can mend becomes a Failure, and a bug keeps its traceback."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Failure("interrupted", INTERRUPTED) from error
        except Exception as error:
            code = exit_code(error)
            if code is None:
                raise
            raise Failure(_message(error), code) from error


def exit_code(error: Exception) -> int | None:
    """The exit code of an error, or None for a bug of ours (and for a closed pipe, which click knows)."""
    import sqlite3

    if isinstance(error, CkptTrackerError):
        return error.exit_code
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        return StoreFull.exit_code if error.errno in (errno.ENOSPC, errno.EDQUOT) else CkptTrackerError.exit_code
    return CkptTrackerError.exit_code if isinstance(error, sqlite3.Error) else None


def _message(error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return "\n".join(printable(line) for line in relative(text).splitlines())


@click.group(
    cls=Commands,
    params=[store_option()],
    epilog=f"\b\n{_EPILOG}",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="ckpt-tracker", prog_name="ckpt")
def ckpt(store: str | None) -> None:
    """Looks into the checkpoints that trainings left in a store, checks them, and takes them out."""
