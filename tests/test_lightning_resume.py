"""A Lightning training killed with SIGKILL and started again leaves the very checkpoints of an uninterrupted one."""

import pytest
from lightning_processes import killed_and_resumed, trainings

WITHIN = {"every": ["1 epoch", "1 step"]}

# what is trained, and where it is killed: (epoch, batch)
CASES = {
    "step scheduler": ({"scheduler": "step"}, [2, 1]),
    "plateau scheduler": ({"scheduler": "plateau"}, [2, 1]),
    "cosine scheduler": ({"scheduler": "cosine"}, [2, 0]),
    "bf16, accumulation, step-wise scheduler": (
        {"scheduler": "onecycle", "trainer": {"precision": "bf16-mixed", "accumulate_grad_batches": 3}},
        [1, 2],
    ),
    "generators, two workers": (
        {
            "generator": True,
            "workers": 2,
            "trainer": {"check_val_every_n_epoch": 2, "num_sanity_val_steps": 0},
        },
        [2, 0],
    ),
    "generators, before the first validation": (
        {"generator": True, "workers": 2, "trainer": {"check_val_every_n_epoch": 2, "num_sanity_val_steps": 0}},
        [1, 0],
    ),
    "max_steps": ({"scheduler": "plateau", "trainer": {"max_epochs": -1, "max_steps": 16}}, [2, 1]),
    "inside an epoch, validating there, plateau": (
        {**WITHIN, "scheduler": "plateau", "trainer": {"val_check_interval": 2}},
        [1, 2],
    ),
    "inside the first epoch, generators, two workers": (
        {**WITHIN, "scheduler": "step", "generator": True, "workers": 2},
        [0, 2],
    ),
    "inside an epoch, accumulation, bf16, max_steps": (
        {
            "every": "3 steps",
            "scheduler": "onecycle",
            "trainer": {
                "max_epochs": -1,
                "max_steps": 7,
                "accumulate_grad_batches": 2,
                "precision": "bf16-mixed",
            },
        },
        [2, 3],
    ),
    "inside an epoch, more batches to a step from there on, an average that decides": (
        {**WITHIN, "callbacks": ["Accumulating", ["EarlyStopping", {"monitor": "loss_epoch", "patience": 50}]]},
        [1, 2],
    ),
    "averaged weights": ({"callbacks": ["EMAWeightAveraging"]}, [3, 1]),
    "inside an epoch, averaged weights": (
        {**WITHIN, "callbacks": ["EMAWeightAveraging"], "trainer": {"accumulate_grad_batches": 2}},
        [1, 3],
    ),
    "stochastic weight averaging, which begins": (
        {"callbacks": [["StochasticWeightAveraging", {"swa_lrs": 0.05, "swa_epoch_start": 2}]], "scheduler": "step"},
        [1, 1],
    ),
    "stochastic weight averaging, under way": (
        {"callbacks": [["StochasticWeightAveraging", {"swa_lrs": 0.05, "swa_epoch_start": 2}]], "scheduler": "step"},
        [3, 1],
    ),
    "stochastic weight averaging, BatchNorm's epoch": (
        {"callbacks": [["StochasticWeightAveraging", {"swa_lrs": 0.05, "swa_epoch_start": 2}]], "scheduler": "step"},
        [4, 1],
    ),
    "inside an epoch, stochastic weight averaging": (
        {**WITHIN, "callbacks": [["StochasticWeightAveraging", {"swa_lrs": 0.05, "swa_epoch_start": 1}]]},
        [2, 2],
    ),
    "frozen layers": ({"callbacks": ["Freezing"]}, [3, 1]),
    "a stream": ({**WITHIN, "data": "stream", "trainer": {"max_epochs": 2}}, [1, 2]),
    "a stream, two workers, the first epoch": (
        {**WITHIN, "data": "stream", "workers": 2, "trainer": {"max_epochs": 2}},
        [0, 2],
    ),
    "a StatefulDataLoader": ({**WITHIN, "data": "stateful"}, [1, 2]),
    "a StatefulDataLoader, two workers": ({**WITHIN, "data": "stateful", "workers": 2}, [1, 2]),
    "a StatefulDataLoader of data with a state": ({**WITHIN, "data": "stateful stream"}, [1, 2]),
    "a StatefulDataLoader of data with a state, an epoch's end": ({"data": "stateful stream"}, [2, 1]),
    "a sampler that counts, data with a generator": ({"data": "held"}, [2, 1]),
    "inside an epoch, a sampler that counts, data with a generator": ({**WITHIN, "data": "held"}, [1, 2]),
    "workers that live on": ({**WITHIN, "data": "lasting workers"}, [1, 2]),
    "workers that live on, the first epoch": ({**WITHIN, "data": "lasting workers"}, [0, 2]),
    "several loaders": ({**WITHIN, "data": "several"}, [1, 2]),
    "two optimizers by hand": ({"model": "gan"}, [2, 1]),
    "inside an epoch, two optimizers by hand, gradients that wait": ({**WITHIN, "model": "gan"}, [1, 1]),
}
# the other package is the same code under another name
TRIED = [("lightning.pytorch", name) for name in CASES]
TRIED += [
    ("pytorch_lightning", "plateau scheduler"),
    ("pytorch_lightning", "inside an epoch, validating there, plateau"),
]


@pytest.mark.parametrize(("package", "name"), TRIED)
def test_a_killed_training_leaves_the_same_checkpoints(package, name, tmp_path):
    """Every checkpoint's digest is that of an uninterrupted run, although the restart had other seeds."""
    case, kill = CASES[name]

    restarted, whole = killed_and_resumed(case, tmp_path, package=package, kill=kill)

    assert restarted == whole


def test_a_training_killed_three_times_leaves_the_same_checkpoints(tmp_path):
    """Each restart goes on from what the one before left, at an epoch's end or inside one."""
    process = trainings()
    case = {**WITHIN, "scheduler": "plateau"}
    whole = process.whole(case, tmp_path)
    for seed, kill in enumerate([[0, 3], [1, 1], [2, 0]], start=1):
        process.fit(case, tmp_path / "killed", seed=seed, kill=kill)

    assert process.fit(case, tmp_path / "killed", seed=9) == [0, whole]


def test_more_epochs_are_trained_as_if_they_had_been_asked_for_at_once(tmp_path):
    """The end of a training is no end of its run."""
    process = trainings()
    case = {"scheduler": "plateau", "callbacks": ["EMAWeightAveraging"]}
    whole = process.whole(case, tmp_path)
    process.fit({**case, "trainer": {"max_epochs": 2}}, tmp_path / "more", seed=1)

    assert process.fit(case, tmp_path / "more", seed=2) == [0, whole]


def test_another_seed_gives_other_digests(tmp_path):
    """The comparison can fail: the digests depend on the random states."""
    process = trainings()
    first = process.whole({}, tmp_path)
    _, second = process.fit({}, tmp_path / "b", seed=2)

    assert not set(first.values()) & set(second.values())
