"""Why two trainings differ: which evidence leads to which cause."""

from __future__ import annotations

from typing import Any

import pytest

from ckpt_tracker.comparison import Difference, Distance
from ckpt_tracker.exact_resume.diagnosis import Case, after_resume, between_starts, left_out
from ckpt_tracker.exact_resume.suspects import Suspect

FAR = Distance(8, 8, 0.5, 0.5, 0.5, (0, 0))
NEAR = Distance(8, 2, 1e-7, 1e-6, 1e-8, (0, 0))


def _tensor(path: str, distance: Distance = FAR) -> Difference:
    return Difference(path, "float32 [8]", "float32 [8]", measurable=True, distance=distance, is_tensor=True)


def _leaf(path: str, first: str | None = "3", second: str | None = "4") -> Difference:
    return Difference(path, first, second)


def _suspect(kind: str, holder: str = "Data.rng", **more: Any) -> Suspect:
    return Suspect(kind, kind.title(), holder, more.get("captured", False), more.get("was", {}), more.get("now", {}))


WEIGHTS = _tensor("model.w")
KEPT = {"num_workers": 2, "persistent_workers": True}
RESUMED = {
    "a generator that is left out": (Case([WEIGHTS, _leaf("rng.torch")], [_suspect("generator")]), "generator"),
    "a scheduler that is left out": (
        Case([_leaf("optimizer.param_groups[0].lr")], [_suspect("scheduler")]),
        "scheduler",
    ),
    "an optimizer that is left out": (Case([WEIGHTS], [_suspect("optimizer", "optimizer in main()")]), "optimizer"),
    "a buffer that no state holds": (Case([WEIGHTS], [_suspect("buffer", "Centre.mean")]), "buffer"),
    "an optimizer that merely shows it": (Case([WEIGHTS], [_suspect("optimizer", captured=True)]), "data order"),
    "a learning rate": (Case([WEIGHTS, _leaf("optimizer.param_groups[0].lr", "0.1", "0.2")]), "scheduler"),
    "a learning rate of an optimizer that lives": (
        Case([WEIGHTS], [_suspect("optimizer", captured=True, was={"lr": [0.1]}, now={"lr": [0.2]})]),
        "scheduler",
    ),
    "the scheduler's own count": (Case([_leaf("scheduler.last_epoch"), WEIGHTS]), "scheduler"),
    "a sampler": (Case([WEIGHTS], [_suspect("sampler", captured=True)]), "data order"),
    "the position in the data": (Case([WEIGHTS, _leaf("data.batch"), _tensor("rng.torch")]), "data order"),
    "captured random states": (Case([WEIGHTS, _tensor("rng.torch")]), "random numbers"),
    "a captured generator of the loader": (Case([WEIGHTS, _tensor("data.generators[0]")]), "random numbers"),
    "workers that live on": (Case([WEIGHTS, _tensor("rng.torch")], loaders=[KEPT]), "data order"),
    "the optimizer's count of steps": (Case([WEIGHTS, _tensor("optimizer.state[0].step")]), "optimizer"),
    "buffers alone": (Case([_tensor("model.1.running_mean"), _leaf("model.1.num_batches_tracked")]), "buffers"),
    "rounding": (Case([_tensor("model.w", NEAR), _tensor("optimizer.state[0].exp_avg", NEAR)]), "kernel"),
    "rounding, but not everywhere": (Case([_tensor("model.w", NEAR), _tensor("model.b")]), "data order"),
    "callbacks alone": (Case([_leaf("callbacks.EarlyStopping.wait_count")]), "callback"),
    "a variable": (Case([WEIGHTS], variables={"Data.stage": (3, 1)}), "variable"),
    "nothing else": (Case([WEIGHTS]), "data order"),
}


@pytest.mark.parametrize("case", RESUMED)
def test_the_cause_of_another_state_after_a_restart(case: str) -> None:
    """One likely cause, with what to do."""
    evidence, kind = RESUMED[case]
    (cause,) = after_resume(evidence)
    assert cause.kind == kind
    assert cause.sentence
    assert cause.remedy


def test_everything_that_is_left_out_is_named() -> None:
    """What decides most comes first; a copy of the model inside an average is no second loss."""
    found = [
        _suspect("module", "Average.module"),
        _suspect("average", "average in main()"),
        _suspect("generator"),
        _suspect("optimizer", "optimizer in main()", captured=True),
    ]
    assert [cause.kind for cause in left_out(found, "torch")] == ["generator", "average"]


REMEDIES = {
    ("torch", "generator", "Data.rng"): 'extra={"rng": ...}',
    ("torch", "generator", "DataLoader.generator"): "tracker.batches(loader)",
    ("torch", "scheduler", "scheduler in main()"): "scheduler=",
    ("torch", "average", "ema in main()"): "ema=",
    ("torch", "optimizer", "optimizer in main()"): "optimizer=",
    ("lightning", "scheduler", "Module.scheduler"): "configure_optimizers",
    ("keras", "generator", "data in train.py"): "SeedGenerator",
    ("transformers", "generator", "Data.rng"): "state()",
    ("", "generator", "rng in main()"): '"extra": {"rng": ...}',
    ("another", "object", ""): "tracker.save",
}


@pytest.mark.parametrize("case", REMEDIES)
def test_the_remedy_is_in_the_framework_s_words(case: tuple[str, str, str]) -> None:
    """As the tracker in use would be called."""
    integration, kind, holder = case
    (cause,) = left_out([_suspect(kind, holder)], integration)
    assert REMEDIES[case] in cause.remedy


def test_what_changed_is_shown() -> None:
    """An object's own numbers, before and after."""
    (cause,) = left_out([_suspect("scheduler", was={"last_epoch": 4}, now={"last_epoch": 1})], "torch")
    assert cause.sentence.endswith("(last_epoch 4 uninterrupted, 1 resumed)")


STARTS = {
    "hashes": (Case([WEIGHTS], [_suspect("generator")]), True, "environment"),
    "a generator": (Case([WEIGHTS], [_suspect("generator", captured=True)]), False, "generator"),
    "a random state": (Case([WEIGHTS, _tensor("rng.numpy.state")]), False, "generator"),
    "rounding": (Case([_tensor("model.w", NEAR)]), False, "kernel"),
    "anything": (Case([WEIGHTS]), False, "not deterministic"),
}


@pytest.mark.parametrize("case", STARTS)
def test_the_cause_of_two_trainings_that_differ_by_themselves(case: str) -> None:
    """The hashes of Python, a generator that is not seeded, a kernel, or something else that varies."""
    evidence, same_hashes_agree, kind = STARTS[case]
    (cause,) = between_starts(evidence, same_hashes_agree=same_hashes_agree)
    assert cause.kind == kind
