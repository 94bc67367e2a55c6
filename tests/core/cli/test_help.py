"""Help that cannot drift from the commands, and what a call costs before it does anything."""

from __future__ import annotations

import pkgutil
import shlex

import click
import pytest

from ckpt_tracker import cli, errors
from ckpt_tracker.cli.app import COMMANDS
from ckpt_tracker.cli.app import ckpt as group
from ckpt_tracker.cli.command import EXIT_STATUS, Command


def command(name):
    """The command of that name."""
    found = group.get_command(click.Context(group), name)
    assert isinstance(found, Command)
    return found


def all_errors(cls=errors.CkptTrackerError):
    """The whole tree of errors."""
    return [cls, *(each for child in cls.__subclasses__() for each in all_errors(child))]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples_and_its_exit_codes(ckpt, name):
    """`ckpt NAME --help` says what it does, shows examples, lists the JSON's keys and the exit codes."""
    result = ckpt(name, "--help")
    assert result.exit_code == 0
    assert command(name).help
    listed = result.stdout.partition("Exit status:")[2].split("\n")
    found = {int(line.split()[0]): line.split(maxsplit=1)[1] for line in listed if line.strip()}
    assert found == {code: EXIT_STATUS[code] for code in command(name).exits}
    assert all(example in result.stdout for example in command(name).examples)
    assert "\nJSON: " in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_is_a_call_that_the_command_takes(name):
    """The examples in the help are parsed by the command that they are of."""
    for example in command(name).examples:
        program, called, *arguments = shlex.split(example.partition("|")[0], comments=True)
        assert (program, called) == ("ckpt", name)
        command(name).make_context(name, arguments)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_json_and_store(name):
    """`--json` and `--store` are options of each command, and each option has a help text."""
    options = {option: each for each in command(name).params for option in each.opts}
    assert {"--json", "--store"} <= set(options)
    assert all(getattr(each, "help", "") for option, each in options.items() if option.startswith("-"))


def test_help_lists_every_command(ckpt):
    """`ckpt --help` has each command on one line of 80 columns, by what people want to do."""
    shown = ckpt("--help").stdout
    listed = shown.partition("Look:")[2].partition("A REF is")[0].splitlines()
    assert [line.split()[0] for line in listed if line.strip() and line[0] == " "] == [*COMMANDS]
    assert all(len(line) <= 80 for line in shown.splitlines())


def test_every_module_with_a_command_is_listed():
    """A command that nobody can call would be a module that defines one and is not in COMMANDS."""
    modules = {each.name for each in pkgutil.iter_modules(cli.__path__)}
    assert {name.replace("-", "_") for name in COMMANDS if name != "import"} | {"import_"} <= modules


def test_every_error_has_an_exit_code_that_is_explained():
    """Each exit code of the tree of errors has its line in the tables of the help."""
    assert {each.exit_code for each in all_errors()} <= set(EXIT_STATUS)


def test_help_loads_neither_rich_nor_anything_heavier(python):
    """`ckpt --help` answers without importing what only the commands' work needs."""
    loaded = python(
        """
        import sys
        from ckpt_tracker.cli.app import ckpt
        ckpt(["--help"], standalone_mode=False)
        heavy = {"keras", "lightning", "numpy", "orjson", "rich", "sklearn", "sqlite_utils", "tensorflow", "torch"}
        heavy |= {"ckpt_tracker.cli.ls", "ckpt_tracker.records", "ckpt_tracker.store", "sqlite3"}
        print("loaded:", *sorted(heavy & set(sys.modules)))
        """
    )
    assert loaded.splitlines()[-1] == "loaded:"


ARGUMENTS = {
    **{name: ["mnist"] for name in ("show", "best", "metrics", "pin", "unpin", "why", "watch")},
    **{
        "diff": ["mnist@v1", "mnist@v2"],
        "tag": ["mnist", "release"],
        "rm": ["mnist@v2"],
        "prune": ["--keep", "last:1", "--yes"],
    },
}


@pytest.mark.parametrize(
    "name", [name for name in COMMANDS if name not in ("compact", "demo", "export", "import", "verify-resume", "undo")]
)
def test_looking_loads_no_framework(mnist, python, name):
    """No command but export, import and demo imports torch or another framework."""
    arguments = ARGUMENTS.get(name, [])
    loaded = python(
        """
        import sys
        from ckpt_tracker.cli.app import ckpt
        ckpt(sys.argv[1:], standalone_mode=False)
        print("loaded:", *sorted({"keras", "lightning", "tensorflow", "torch"} & set(sys.modules)))
        """,
        *(name, "--store", mnist, *arguments),
    )
    assert loaded.splitlines()[-1] == "loaded:"
