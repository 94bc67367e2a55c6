"""COMMANDS.md is the help of every command: `pytest tests/core/cli/test_reference.py --update` writes it anew."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from ckpt_tracker.cli.app import COMMANDS
from ckpt_tracker.cli.app import ckpt as group

REFERENCE = Path(__file__).parents[3] / "COMMANDS.md"
WIDTH = 100
HEAD = """\
# The commands

This is what `ckpt --help` and `ckpt COMMAND --help` print. The [README](README.md#the-command-line) has the most useful
ones at a glance.
"""


def help_of(*command):
    """The help as a terminal of that width shows it."""
    shown = CliRunner().invoke(
        group, [*command, "--help"], prog_name="ckpt", terminal_width=WIDTH, max_content_width=WIDTH
    )
    assert shown.exit_code == 0
    return shown.stdout.rstrip()


def reference():
    """The whole page."""
    sections = [("ckpt", help_of()), *((f"ckpt {name}", help_of(name)) for name in COMMANDS)]
    return "\n".join([HEAD, *(f"## {title}\n\n```text\n{text}\n```\n" for title, text in sections)])


def test_the_reference_is_what_the_help_says(golden):
    """A command that changes its help changes the page with it."""
    golden(REFERENCE, reference())


def test_the_readme_leads_there():
    """Whoever reads the README finds it."""
    assert "(COMMANDS.md)" in REFERENCE.with_name("README.md").read_text(encoding="utf-8")
