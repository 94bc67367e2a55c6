"""Why two trainings of a trial saved different states, as far as the evidence tells: causes, each with what to do.

What no checkpoint holds comes first, for it cannot have been brought back. Then what the checkpoints themselves show,
nearest to the root first: the learning rate, the position in the data, random generators, the optimizer's count of
steps, buffers alone, rounding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ckpt_tracker.comparison import Difference
from ckpt_tracker.exact_resume.remedies import Cause, lost, named, values
from ckpt_tracker.exact_resume.suspects import Suspect

_RATE = re.compile(r"(^|[.\]_])(lr|learning_rate|_last_lr(\[\d+\])?)$")
_STEP = re.compile(r"(^|[.\]])(step|iterations?)$")
_BUFFER = re.compile(r"running_(mean|var)|moving_(mean|variance)|num_batches_tracked")
_RANDOM = re.compile(r"(^|[.\]\[\"])(rng|generators?|seed_generator\w*|random\w*)([.\[\"]|$)")
_ROUNDING = 1e-5
_FEW = 4
# of a training's own state, in the order of their weight as a cause
_PARTS = ("generator", "scheduler", "optimizer", "sampler", "scaler", "object", "average", "module", "buffer")


@dataclass(frozen=True)
class Case:
    """What is known of a checkpoint that is not what the first training saved."""

    differences: Sequence[Difference]
    suspects: Sequence[Suspect] = ()
    variables: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    loaders: Sequence[Mapping[str, Any]] = ()
    """The DataLoaders: num_workers, persistent_workers."""
    integration: str = ""
    """`torch`, `lightning`, …; empty for a tracker of the core."""

    def under(self, pattern: re.Pattern[str]) -> list[Difference]:
        """The leaves that differ and whose paths match."""
        return [each for each in self.differences if pattern.search(each.path)]

    @property
    def keeps_workers(self) -> bool:
        """A DataLoader's workers live on from epoch to epoch."""
        return any(each.get("num_workers") and each.get("persistent_workers") for each in self.loaders)


def after_resume(case: Case) -> tuple[Cause, ...]:
    """Why the restarted training went another way, while uninterrupted ones agree."""
    missing = left_out(case.suspects, case.integration)
    if missing:
        return missing
    rules = (_rate, _sampler, _position, _random_numbers, _steps, _buffers, _rounding, _callbacks, _variable)
    return (next((cause for rule in rules if (cause := rule(case)) is not None), _OTHER_DATA),)


def left_out(suspects: Iterable[Suspect], integration: str) -> tuple[Cause, ...]:
    """What of the training's own state no checkpoint holds, and the restart did not bring back."""
    found = sorted(
        (each for each in suspects if not each.captured and each.kind in _PARTS),
        key=lambda each: _PARTS.index(each.kind),
    )
    # the copy of the model inside an average is no second loss, nor is a layer whose generator is lost
    parts = [each for each in found if each.kind != "module"]
    averages = {each.type for each in parts if each.kind == "average"}
    holders = {each.holder.partition(".")[0] for each in parts}
    return tuple(
        lost(each, integration)
        for each in found
        if each in parts or not (each.type in holders or each.holder.partition(".")[0] in averages)
    )


def between_starts(case: Case, *, same_hashes_agree: bool) -> tuple[Cause, ...]:
    """Why two trainings that nobody interrupted differ; `same_hashes_agree`: with one PYTHONHASHSEED they do not."""
    if same_hashes_agree:
        return (_HASHES,)
    names = [named(each) for each in case.suspects if each.kind == "generator"]
    names = names or [f"`{each.path}`" for each in case.under(_RANDOM)]
    if names:
        return (
            Cause(
                "generator",
                f"{_some(names)}: in another state in each training; not seeded, or drawn from by what varies",
                "seed every generator at the top of the script: random.seed, numpy.random.seed, torch.manual_seed, "
                "default_rng(SEED), keras.utils.set_random_seed",
            ),
        )
    return (_rounding(case) or _varies(case),)


def _rate(case: Case) -> Cause | None:
    rates = case.under(_RATE) or [
        each for each in case.differences if each.section.startswith(("scheduler", "lr_scheduler"))
    ]
    live = [each for each in case.suspects if each.kind == "optimizer" and each.expected != each.found]
    if not rates and not live:
        return None
    told = _told(rates[0]) if rates else f"{named(live[0])}{values(live[0])}"
    return Cause(
        "scheduler",
        f"the learning rate follows another schedule after the restart: {told}",
        "hand over the scheduler; where the script sets the rate by itself, let it follow from the number of the epoch "
        "or step, or hand over what it counts",
    )


def _sampler(case: Case) -> Cause | None:
    return next((lost(each, case.integration) for each in case.suspects if each.kind == "sampler"), None)


def _position(case: Case) -> Cause | None:
    found = [each for each in case.differences if each.section in ("loop", "data") and _is_count(each)]
    if not found:
        return None
    return Cause(
        "data order",
        f"the restarted training stands elsewhere in its data: {_told(found[0])}",
        "run over the data as the README shows for this framework, with the same data, batch size and workers",
    )


def _random_numbers(case: Case) -> Cause | None:
    found = case.under(_RANDOM)
    if not found:
        return None
    if case.keeps_workers:
        return _KEPT_WORKERS
    return Cause(
        "random numbers",
        f"since the restart other random numbers were drawn, or more, or fewer: {_some_paths(found)}",
        "draw the same for each batch (dropout, augmentation, order of the data), whatever happened before, and "
        "nothing between the restoring and the first batch",
    )


def _steps(case: Case) -> Cause | None:
    found = [each for each in case.under(_STEP) if each.section.startswith("optimizer")]
    if not found:
        return None
    return Cause(
        "optimizer",
        f"the optimizer counts other steps after the restart (`{found[0].path}`): its state was not restored, or it "
        "was made anew after that",
        "make the optimizer before the tracker, and use that one throughout",
    )


def _buffers(case: Case) -> Cause | None:
    tensors = [each for each in case.differences if each.is_tensor]
    if not tensors or not all(_BUFFER.search(each.path) for each in tensors):
        return None
    return Cause(
        "buffers",
        f"only buffers differ ({_some_paths(tensors)}): one of the two did a forward pass in training mode that was no "
        "training",
        "call model.eval() before every pass that is not training, also before the first epoch",
    )


def _rounding(case: Case) -> Cause | None:
    tensors = [each for each in case.differences if each.is_tensor]
    near = [
        each.distance.relative_l2
        for each in tensors
        if each.distance is not None and each.distance.relative_l2 < _ROUNDING and not any(each.distance.nans)
    ]
    if not near or len(near) < len(tensors):
        return None
    return Cause(
        "kernel",
        f"the states are as near as rounding (apart by {max(near):.1g} of a tensor's length at most): a kernel that "
        "is not deterministic, adding in another order each time",
        "torch.use_deterministic_algorithms(True) with CUBLAS_WORKSPACE_CONFIG=:4096:8, or "
        "tf.config.experimental.enable_op_determinism(); the same number of threads",
    )


def _callbacks(case: Case) -> Cause | None:
    if any(each.section != "callbacks" for each in case.differences):
        return None
    if any("ModelCheckpoint" in each.path for each in case.differences):
        return _MODEL_CHECKPOINT
    return Cause(
        "callback",
        f"only what callbacks remember differs ({_some_paths(case.differences)}), and nothing that is trained",
        "let the callback keep it in its state_dict (Lightning), attributes (Keras) or state() (Transformers)",
    )


def _variable(case: Case) -> Cause | None:
    if case.keeps_workers:
        return _KEPT_WORKERS
    # counters say more than lengths, and these more than running values
    counted = sorted(
        case.variables.items(), key=lambda item: (isinstance(item[1][0], float), item[0].startswith("len("))
    )
    if not counted:
        return None
    told = _some([f"{name} ({was} uninterrupted, {now} resumed)" for name, (was, now) in counted])
    return Cause(
        "variable",
        f"all known random generators agree; variables of the script do not, and no checkpoint holds them: {told}",
        "let them follow from the number of the epoch or step, or hand over what holds them",
    )


def _varies(case: Case) -> Cause:
    return Cause(
        "not deterministic",
        f"all known random generators agree, and {_some_paths(case.differences)} do not: something else that varies "
        "reaches the training, such as weights made before the seeding, the time, the order of files, threads",
        "seed before the model is made; sort what a folder lists; torch.use_deterministic_algorithms(True) names "
        "kernels that vary",
    )


_HASHES = Cause(
    "environment",
    "with the same PYTHONHASHSEED two trainings agree: the order of a set, or the hash() of a text, decides something",
    "sort what comes out of a set before it is used, or always start with PYTHONHASHSEED=0",
)
_KEPT_WORKERS = Cause(
    "data order",
    "a DataLoader keeps its workers from epoch to epoch (persistent_workers=True), and no checkpoint holds the random "
    "generators in them",
    "persistent_workers=False, or let the random numbers of a sample follow from the epoch and the index",
)
_MODEL_CHECKPOINT = Cause(
    "callback",
    "only what Lightning's ModelCheckpoint remembers differs: it does not bring back its last score, nor its best "
    "where its folder is another one, as a logger gives each start",
    "leave it out, for the tracker keeps the best by itself; or give it a fixed dirpath=",
)
_OTHER_DATA = Cause(
    "data order",
    "all known random generators, rates and counters agree: other data were used, or in another order, or something "
    "that only the script knows was not brought back",
    "look for what the training depends on and no checkpoint holds: positions in files, caches, queues, histories",
)


def _is_count(each: Difference) -> bool:
    return all(value is not None and value.isdigit() for value in (each.first, each.second))


def _told(each: Difference) -> str:
    return f"`{each.path}` is {each.first} uninterrupted, {each.second} resumed"


def _some_paths(found: Sequence[Difference]) -> str:
    return _some([f"`{each.path}`" for each in found])


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _FEW
    return ", ".join(names[:_FEW]) + (f" and {rest} more" if rest > 0 else "")
