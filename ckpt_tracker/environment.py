"""Where a run was started: Python, platform, package versions and the script. Nothing from the process environment,
which may hold secrets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

_PACKAGES = (
    *("torch", "lightning", "pytorch_lightning", "keras", "tensorflow", "jax"),
    *("transformers", "accelerate", "numpy"),
)


def describe() -> dict[str, Any]:
    """The environment of this process, as `run.json` records it. Imports nothing."""
    import platform

    return {
        "python": platform.python_version(),
        # platform.platform() would start a process to ask for the processor's name
        "platform": f"{platform.system()}-{platform.release()}-{platform.machine()}",
        "packages": {name: _version(name) for name in _PACKAGES if name in sys.modules},
        "script": script(),
    }


def script() -> str:
    """The name of the script that runs, or `interactive`."""
    name = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else ""
    return name or "interactive"


def _version(name: str) -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(sys.modules[name], "__version__", "unknown"))
