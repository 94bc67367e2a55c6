"""The process that reads a foreign file: what it says, and what becomes of that here."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from ckpt_tracker import errors
from ckpt_tracker.cli import human
from ckpt_tracker.errors import CkptTrackerError, ImportRefused, InvalidOption

# The working folder is not looked into for modules: one that lies beside the file could be called torch.
_CODE = (
    "import sys; sys.path[:] = [*filter(None, sys.path), sys.argv.pop(1)]; "
    "from ckpt_tracker.cli.import_child import main; main(*sys.argv[1:])"
)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B", re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def size_named(text: str) -> int:
    """`8GB` in bytes. Raises InvalidOption."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidOption(f"--memory {text!r}: expected a size such as 800MB or 8GB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def read_in_child(file: Path, store: Path, run: str, *, memory: int) -> dict[str, Any]:
    """Has a process with `memory` bytes for it read the file and save it; returns what it tells of the checkpoint.

    Raises what kept it from that: ImportRefused for a file that asks for more than tensors and plain values.
    """
    root = str(Path(errors.__file__).parents[1])
    command = [sys.executable, "-W", "ignore", "-c", _CODE, root, str(file.resolve()), str(store), run, str(memory)]
    ended = subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL)
    told = _told(ended.stdout)
    if "error" in told:
        known: type[CkptTrackerError] = getattr(errors, told["error"], CkptTrackerError)
        raise known(told["message"])
    if ended.returncode or "ref" not in told:
        last = ended.stderr.decode(errors="replace").strip().splitlines()[-1:]
        how = f"signal {signal.Signals(-ended.returncode).name}" if ended.returncode < 0 else " ".join(last)
        raise ImportRefused(
            f"{file} can't be imported: the process that read it, with {human.size(memory)} of memory for it, "
            f"ended with {how or f'status {ended.returncode}'}; nothing of it is in the store"
        )
    return told


def _told(output: bytes) -> dict[str, Any]:
    try:
        told = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
