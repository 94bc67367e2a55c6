"""zsh and fish complete the same words as bash, each by the script that it is given."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

ASK = {
    # what zsh's own functions would put into its list is printed
    "zsh": """
compdef() { }
compadd() { print -rl -- "${(@)completions}" }
_describe() { print -rl -- "${(@)completions_with_descriptions}" }
eval "$(_CKPT_COMPLETE=zsh_source ckpt)"
words=("${(@s: :)LINE_}"); CURRENT=${#words}
_ckpt_completion
""",
    "fish": """
_CKPT_COMPLETE=fish_source ckpt | source
complete -C "$LINE_"
""",
}
OPTIONS = {"zsh": "-f", "fish": "--no-config"}


@pytest.fixture
def completed(tmp_path):
    """What a shell offers for a line with the cursor at its end: words, and what is said of them."""
    script = tmp_path / "ckpt"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from ckpt_tracker.cli import main; main()" "$@"\n')
    script.chmod(0o755)

    def complete(shell, line, **environment):
        if shutil.which(shell) is None:
            pytest.skip(f"there is no {shell} here")
        env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "LINE_": line, **environment}
        command = [shell, OPTIONS[shell], "-c", ASK[shell]]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
        assert done.stderr == ""
        return done.stdout.splitlines()

    return complete


LINES = {
    "ckpt ls ": {"mnist", "gan"},
    "ckpt ls mnist --sort ": {"acc", "fid", "val_loss"},
    "ckpt show g": {"gan", "gan@last", "gan@v1"},
    "ckpt diff gan mnist@": {f"mnist@{word}" for word in ("last", "best", "paper", "v3", "v2", "v1")},
    "ckpt why mnist@pa": {"mnist@paper"},
}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_what_the_store_has_is_offered(completed, mnist, shell):
    """References are whole words there: neither `@` nor `:` ends one."""
    assert {line: {*completed(shell, line, CKPT_TRACKER_STORE=str(mnist))} for line in LINES} == LINES


@pytest.mark.parametrize(("shell", "gap"), [("zsh", ":"), ("fish", "\t")])
def test_a_command_is_offered_with_what_the_help_says_of_it(completed, shell, gap):
    """In as few words."""
    assert completed(shell, "ckpt sho") == [f"show{gap}Everything about one checkpoint"]
