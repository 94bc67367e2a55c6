"""What a restart lost because no checkpoint holds it, and what to do, in the words of the framework that trains."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ckpt_tracker.exact_resume.suspects import Suspect

_WHAT = {
    "generator": "the random generator",
    "scheduler": "the scheduler",
    "optimizer": "the state of the optimizer",
    "scaler": "the gradient scaler",
    "average": "the weights' average",
    "module": "the weights of",
    "buffer": "the buffer (persistent=False)",
    "object": "the state of",
}
_PERSISTENT = "let it be part of the module's state: register_buffer(..., persistent=True), the default"
_SET_EPOCH = "call its set_epoch with the number of the epoch, at the start of every epoch"
# by the tracker's integration ("" for the core), then by kind ("" for all others)
_REMEDIES = {
    "torch": {
        "scheduler": "hand it over: CheckpointTracker(..., scheduler=...)",
        "optimizer": "hand it over: CheckpointTracker(..., optimizer=...), several as a list or dict",
        "scaler": "hand it over: CheckpointTracker(..., scaler=...)",
        "average": "hand it over: CheckpointTracker(..., ema=...)",
        "module": "hand it over: CheckpointTracker(..., model=...), several as a list or dict",
        "loader": "run over tracker.batches(loader), which keeps the loader's generator, or hand it over: "
        'CheckpointTracker(..., extra={"order": ...})',
        "": 'hand it over: CheckpointTracker(..., extra={"NAME": ...})',
    },
    "lightning": {
        "scheduler": "return it from configure_optimizers",
        "optimizer": "return it from configure_optimizers",
        "average": "make it a part of the LightningModule, or of the state_dict of a callback",
        "module": "make it a part of the LightningModule, or of the state_dict of a callback",
        "": "keep it in state_dict and load_state_dict of a callback or of the datamodule",
    },
    "keras": {
        "generator": "draw from a keras.random.SeedGenerator of the model, or seed it anew from the epoch's number",
        "": "make it a part of the model",
    },
    "transformers": {
        "generator": "keep it in a TrainerCallback with state(), or seed it anew from the step's number",
        "": "give it to the Trainer, or keep it in a TrainerCallback with state()",
    },
    "": {
        "": "put its state into what is saved, and back from what is loaded: "
        'tracker.save({..., "extra": {"NAME": ...}}, ...)',
    },
}


@dataclass(frozen=True)
class Cause:
    """A likely cause of a difference."""

    kind: str
    """`generator`, `scheduler`, `optimizer`, `average`, `data order`, `kernel`, …"""
    sentence: str
    remedy: str


def lost(each: Suspect, integration: str) -> Cause:
    """The cause that an object is which no checkpoint holds."""
    if each.kind == "sampler":
        sentence = f"the sampler {named(each)} orders the data by another epoch after the restart{values(each)}"
        return Cause("data order", sentence, _SET_EPOCH)
    what = f"{_WHAT.get(each.kind, _WHAT['object'])} {named(each)}"
    sentence = f"no checkpoint holds {what}: after the restart it began anew{values(each)}"
    return Cause(each.kind, sentence, _remedy(each, integration))


def named(each: Suspect) -> str:
    """Its type, and where it was found."""
    return f"{each.type} `{each.holder}`" if each.holder else each.type


def values(each: Suspect) -> str:
    """Two of its numbers that differ, in brackets; nothing where none is known."""
    names = [name for name in each.expected if each.expected[name] != each.found.get(name)]
    told = [f"{name} {each.expected[name]} uninterrupted, {each.found.get(name)} resumed" for name in names[:2]]
    return f" ({'; '.join(told)})" if told else ""


def _remedy(each: Suspect, integration: str) -> str:
    if each.kind == "buffer":
        return _PERSISTENT
    known = _REMEDIES.get(integration, _REMEDIES[""])
    kind = "loader" if re.search(r"(Loader|Sampler)\.", each.holder) else each.kind
    text = known.get(kind, known.get(each.kind, known[""]))
    return text.replace("NAME", _short_name(each))


def _short_name(each: Suspect) -> str:
    """`rng`, of `NoisyDataset.rng` or `rng in main()`."""
    name: str = re.split(r"[.\s\[]", each.holder.partition(" in ")[0])[-1]
    return name if name.isidentifier() else "name"
