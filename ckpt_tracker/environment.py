"""Where a training runs: Python, platform, packages, CUDA, and its code. Nothing from the process environment,
which may hold secrets, and no command line, which may hold them too.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from pathlib import Path
from typing import Any

_PACKAGES = (
    *("torch", "lightning", "pytorch_lightning", "keras", "tensorflow", "jax"),
    *("transformers", "accelerate", "peft", "numpy"),
)
_GIT_SECONDS = 10
_DIFF_BYTES = 256 * 1024


def describe() -> dict[str, Any]:
    """The environment of this process, as `run.json` and the run's starts record it. Imports no framework."""
    import platform

    return {
        "python": platform.python_version(),
        # platform.platform() would start a process to ask for the processor's name
        "platform": f"{platform.system()}-{platform.release()}-{platform.machine()}",
        "packages": {name: _version(name) for name in _PACKAGES if name in sys.modules},
        "cuda": _cuda(),
        "script": script(),
        "code": dict(_code(_program())),
    }


def code_diff() -> str:
    """What was not committed of the script's repository when first asked for: up to 256 KiB of `git diff HEAD`."""
    return _diff(_program())


def user() -> str | None:
    """The login name of whoever runs this process, as the files that it makes name it; no host, and nobody's mail."""
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_name
    except (ImportError, KeyError):
        return None


def script() -> str:
    """The name of the script that runs, or `interactive`."""
    name = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else ""
    return name or "interactive"


# The code that runs is the code that was there at the start, whatever is edited meanwhile: so it is looked at once.
@functools.cache
def _code(program: Path) -> dict[str, Any]:
    """The script's hash; the commit of the repository it lies in, and the hash of what is not committed there."""
    from blake3 import blake3

    code: dict[str, Any] = {}
    with contextlib.suppress(OSError):  # interactive
        code["script"] = blake3(program.read_bytes()).hexdigest()[:16]
    commit = _git(program.parent, "rev-parse", "--verify", "HEAD")
    if commit:
        diff = _diff(program)
        code["commit"] = commit.decode().strip()
        code["uncommitted"] = blake3(diff.encode()).hexdigest()[:16] if diff else None
    return code


@functools.cache
def _diff(program: Path) -> str:
    diff = _git(program.parent, "diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv")
    return diff[:_DIFF_BYTES].decode(errors="replace")


def _cuda() -> dict[str, Any] | None:
    """The CUDA that torch was built for, and the devices where the training has used one already."""
    torch = sys.modules.get("torch")
    version = getattr(getattr(torch, "version", None), "cuda", None)
    if torch is None or version is None:
        return None
    devices = []
    if torch.cuda.is_initialized():
        devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {"version": version, "devices": devices}


def _program() -> Path:
    """The script's path; where there is none, a name in the current folder that no file has."""
    return Path(sys.argv[0] if sys.argv and sys.argv[0] else "-").absolute()


def _git(folder: Path, *arguments: str) -> bytes:
    """What git answers about a folder; nothing where there is no git, or no repository."""
    import subprocess

    try:
        done = subprocess.run(
            ["git", "-C", folder, *arguments],
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=_GIT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return b""
    return done.stdout


@functools.cache
def _version(name: str) -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(sys.modules[name], "__version__", "unknown"))
