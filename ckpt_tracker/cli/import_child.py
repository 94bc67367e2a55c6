"""What reads a foreign file, in a process of its own: it may take so much memory, and runs nothing that is in it."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ckpt_tracker.errors import CkptTrackerError, ImportRefused, MissingExtra

_OLDEST = (2, 10)
"""Before it `weights_only` could be got round (CVE-2025-32434 up to 2.5, CVE-2026-24747 up to 2.9)."""
_LIGHTNING = "pytorch-lightning_version"
_LIGHTNING_SECTIONS = {
    "model": "state_dict",
    "optimizer": "optimizer_states",
    "scheduler": "lr_schedulers",
    "callbacks": "callbacks",
}
_LIGHTNING_LOOP = ("loops", "epoch", "global_step")
_HYPERPARAMETERS = ("hyper_parameters", "datamodule_hyper_parameters", "hparams_name", "datamodule_hparams_name")
_WEIGHTS = ("model", "state_dict", "model_state_dict")
_REFUSED = re.compile(r"(?:GLOBAL|Unsupported class|Unsupported operand) (\S+)")


def main(file: str, store: str, run: str, memory: str) -> None:
    """Prints what it made, or the error, as a line of JSON."""
    try:
        told = import_file(Path(file), Path(store), run, memory=int(memory))
    except CkptTrackerError as error:
        told = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(told))  # noqa: T201 - the process that started this one reads it


def import_file(file: Path, store: Path, run: str, *, memory: int) -> dict[str, Any]:
    """Saves the file's content as the next checkpoint of the run; durable when it returns."""
    from ckpt_tracker.store import Store

    _limit(memory)
    try:
        loaded = _load(file)
        with Store(store) as opened:
            target = opened.run(run, _config(loaded))
            capture = target.capture(sections(loaded))
            epoch, step = _number(loaded, "epoch"), _number(loaded, "global_step", "step")
            context = {"imported_from": file.name, "file_bytes": file.stat().st_size}
            submitted = target.submit(
                capture, epoch=epoch, step=step, metrics={}, reason="import", context=context, kind="import"
            )
            made = submitted.wait()
    except (MemoryError, OSError, RuntimeError, RecursionError) as error:
        if isinstance(error, CkptTrackerError) or not _is_lack_of_memory(error):
            raise
        message = f"{file} needs more than {memory / 1e9:.1f} GB of memory to be read: --memory allows more"
        raise ImportRefused(message) from error
    return {"ref": made.ref, "digest": made.digest, "nbytes": made.nbytes, "sections": list(made.sections)}


def sections(loaded: object) -> dict[str, object]:
    """The content of a file as sections: the weights are `model`, and what else there is keeps its name."""
    if not isinstance(loaded, Mapping) or not all(isinstance(key, str) for key in loaded) or _is_weights(loaded):
        return {"model": loaded}
    rest = dict(loaded)
    if _LIGHTNING in rest:
        found = {to: rest.pop(key) for to, key in _LIGHTNING_SECTIONS.items() if key in rest}
        found["loop"] = {key: rest.pop(key) for key in _LIGHTNING_LOOP if key in rest}
        found["hyperparameters"] = {key: rest.pop(key) for key in _HYPERPARAMETERS if key in rest}
        found["lightning"] = rest
        return {name: value for name, value in found.items() if value or name == "model"}
    weights = next((key for key in _WEIGHTS if key in rest), None)
    found = {"model": rest.pop(weights)} if weights else {}
    found |= {key: rest.pop(key) for key in list(rest) if key.isidentifier() and key != "other"}
    return found | ({"other": rest} if rest else {})


def _is_weights(loaded: Mapping[str, object]) -> bool:
    import torch

    return all(isinstance(value, torch.Tensor) for value in loaded.values())


def _config(loaded: object) -> Mapping[str, Any]:
    found = loaded.get("hyper_parameters") if isinstance(loaded, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _number(loaded: object, *names: str) -> int | None:
    found = [loaded.get(name) for name in names] if isinstance(loaded, Mapping) else []
    return next((each for each in found if type(each) is int and 0 <= each < 2**63), None)


def _load(file: Path) -> object:
    import pickle

    import torch

    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        match = _REFUSED.search(str(error))
        wanted = match[1].rstrip(".") if match else "what is no tensor and no plain value"
        raise ImportRefused(
            f"{file} can't be imported: it asks for {wanted}, "
            "and nothing in a file is run here; load it in a program of your own if you trust it, and save its "
            "tensors with run.save"
        ) from error
    except Exception as error:
        if _is_lack_of_memory(error):
            raise
        first = str(error).partition("\n")[0][:300]
        raise ImportRefused(f"{file} is no file that torch.save wrote, or a damaged one: {first or error!r}") from error


def _limit(memory: int) -> None:
    """From here on this process can have so much more memory than it has with torch alone. Raises MissingExtra."""
    try:
        import torch
    except ImportError as error:
        message = 'a file is imported by torch, which is not installed: pip install "ckpt-tracker[torch]"'
        raise MissingExtra(message) from error
    if tuple(map(int, torch.__version__.split(".")[:2])) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise MissingExtra(f"a file is imported by torch >= {oldest}, found {torch.__version__}: pip install -U torch")
    torch.set_num_threads(1)
    torch.zeros(8).clone()
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    had = pages * resource.getpagesize() or 16 * 10**9
    for limit, value in ((resource.RLIMIT_AS, had + memory), (resource.RLIMIT_CORE, 0)):
        most = resource.getrlimit(limit)[1]
        allowed = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(limit, (allowed, allowed))


def _is_lack_of_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in ("allocate memory", "bad_alloc"))
