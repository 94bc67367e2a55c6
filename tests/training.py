"""Starting a training script of `tests/scripts` in a process of its own, as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parent / "scripts"


def start(script: str, *arguments: object, seed: int = 1, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a script to its end, or to its death."""
    return subprocess.run(
        [sys.executable, SCRIPTS / script, *map(str, arguments)],
        env={**os.environ, "SEED": str(seed), **environment},
        text=True,
        capture_output=True,
        check=False,
        timeout=300,
    )


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """What a script that came to its end printed last."""
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]
