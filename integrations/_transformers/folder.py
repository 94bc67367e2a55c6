"""A checkpoint as the folder that a transformers Trainer writes, and takes as `resume_from_checkpoint`."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ckpt_tracker.checkpoint import Checkpoint
from ckpt_tracker.errors import StateMismatch
from ckpt_tracker.integrations._transformers.trainer import NEVER

_NEEDED = ("model", "optimizer", "scheduler", "rng", "loop")
_PUT = ("model", "optimizer", "scheduler")
_LARGE = (*_PUT, "scaler")


class Folder:
    """A temporary folder, removed with this object, and what of the checkpoint has no place in it."""

    def __init__(
        self, checkpoint: Checkpoint, state: Mapping[str, Any], *, skip: bool = False, whole: bool = True
    ) -> None:
        """`skip`: a Trainer that takes it up finds its training done. Unless it is `whole`, what is large is not in it:
        `large` has that.
        """
        missing = [name for name in _NEEDED if name not in state]
        if missing or "trainer" not in state["loop"]:  # the loop of another integration
            raise StateMismatch(
                f"{checkpoint.ref} holds {', '.join(state)}, and is no checkpoint of a transformers Trainer: "
                "use another run name"
            )
        self.checkpoint = checkpoint
        self.skip = skip
        self.model = {
            name: value.to("meta") if hasattr(value, "to") else value for name, value in state["model"].items()
        }
        self.rest = {name: value for name, value in state.items() if name not in _LARGE}
        self.large = {} if whole else {name: state[name] for name in _PUT}
        self.path = tempfile.mkdtemp(prefix="ckpt_tracker-")
        self.remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
        if whole:
            _write_large(Path(self.path), state)
        _write(Path(self.path), state, skip=skip)


def loop_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Where its training was."""
    loop: dict[str, Any] = checkpoint.load("loop") if "loop" in checkpoint.sections else {}
    return loop


def _write_large(folder: Path, state: Mapping[str, Any]) -> None:
    import torch

    _write_model(folder, state["model"])
    torch.save(state["optimizer"], folder / "optimizer.pt")
    torch.save(state["scheduler"], folder / "scheduler.pt")


def _write(folder: Path, state: Mapping[str, Any], *, skip: bool) -> None:
    import torch

    if "scaler" in state:
        torch.save(state["scaler"], folder / "scaler.pt")
    ranks = [state["rng"], *(each["rng"] for each in state.get("ranks", []))]
    for rank, states in enumerate(ranks):
        name = "rng_state.pth" if len(ranks) == 1 else f"rng_state_{rank}.pth"
        torch.save(_as_transformers_has_it(states, distributed=len(ranks) > 1), folder / name)
    document = _trainer_state(state, skip=skip)
    (folder / "trainer_state.json").write_text(json.dumps(document, indent=2), encoding="utf-8")


def _write_model(folder: Path, model: Mapping[str, Any]) -> None:
    """In safetensors, which refuses tensors with a common memory and everything that is no tensor."""
    import torch
    from safetensors.torch import save_file

    if not all(isinstance(value, torch.Tensor) for value in model.values()):
        torch.save(dict(model), folder / "pytorch_model.bin")
        return
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.items():
        tensors[name] = tensor.clone() if tensor.data_ptr() in seen else tensor.contiguous()
        seen.add(tensor.data_ptr())
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _as_transformers_has_it(states: Mapping[str, Any], *, distributed: bool) -> dict[str, Any]:
    """Random states under its names and in its forms; of CUDA the current device's, in a distributed training all."""
    import torch

    version, words, gauss = states["python"]
    found: dict[str, Any] = {
        "python": (version, tuple(int(word) for word in words), gauss),
        "cpu": states["torch"],
    }
    numpy = states["numpy"]
    key = [int(word) for word in numpy["state"]["key"]]  # an array needs leave to be loaded in some versions
    found["numpy"] = (numpy["bit_generator"], key, numpy["state"]["pos"], numpy["has_gauss"], numpy["gauss"])
    devices = states.get("cuda")
    if devices:
        current = torch.cuda.current_device() if torch.cuda.is_available() else 0
        found["cuda"] = devices if distributed else devices[min(current, len(devices) - 1)]
    return found


def _trainer_state(state: Mapping[str, Any], *, skip: bool) -> dict[str, Any]:
    from transformers import TrainerControl, TrainerState

    known = {field.name for field in dataclasses.fields(TrainerState)}
    document = {name: value for name, value in state["loop"]["trainer"].items() if name in known}
    callbacks = state.get("callbacks", {})
    states = {name: each[0] if len(each) == 1 else each for name, each in callbacks.items()}
    # a Trainer that saves looks for it there
    document["stateful_callbacks"] = {**states, "TrainerControl": TrainerControl().state()}
    if skip:
        document["global_step"] = NEVER
    return document
