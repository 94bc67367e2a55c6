"""The shell completes commands, runs, references and tags, as bash itself asks for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")

ASK = """
ckpt() { "$PYTHON" -c 'from ckpt_tracker.cli import main; main()' "$@"; }
eval "$(_CKPT_COMPLETE=bash_source ckpt)"
COMP_LINE="$1"; COMP_POINT=${#1}
_ckpt_completion ckpt
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completed(line, **environment):
    """What bash would offer for a line with the cursor at its end."""
    env = {**os.environ, "PYTHON": sys.executable, **environment}
    done = subprocess.run(
        ["bash", "--norc", "-c", ASK, "-", line], env=env, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ckpt sho", ["show"]),
        ("ckpt ls ", ["mnist", "gan"]),
        ("ckpt ls --so", ["--sort"]),
        ("ckpt ls mnist --sort ", ["acc", "fid", "val_loss"]),
        ("ckpt show g", ["gan", "gan@last", "gan@v1"]),
        ("ckpt diff gan mnist@", ["last", "best", "paper", "v3", "v2", "v1"]),
        ("ckpt log --tag ", ["paper"]),
        ("ckpt show nobody@", []),
    ],
)
def test_what_the_store_has_is_offered(mnist, line, expected):
    """Runs in their order, references once the run is clear; behind the `@` bash puts in the rest alone."""
    assert completed(line, CKPT_TRACKER_STORE=str(mnist)) == expected


def test_the_store_named_in_the_line_counts(mnist):
    """`--store` in front of the word says where to look."""
    assert completed(f"ckpt --store {mnist} why mnist@pa") == ["paper"]


def test_without_a_store_there_is_nothing_to_offer(tmp_path):
    """No words, no error, and no store is made."""
    assert completed("ckpt ls ") == []
    assert list(tmp_path.iterdir()) == []


def test_the_help_tells_how_to_switch_it_on(ckpt):
    """The line in `ckpt --help` is one that the shell takes, for zsh and fish too."""
    assert 'eval "$(_CKPT_COMPLETE=bash_source ckpt)"' in ckpt("--help").stdout
    for shell in ("zsh", "fish"):
        done = subprocess.run(
            [sys.executable, "-c", "from ckpt_tracker.cli import main; main()"],
            env={**os.environ, "_CKPT_COMPLETE": f"{shell}_source"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert "_CKPT_COMPLETE" in done.stdout
