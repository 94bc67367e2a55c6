"""What the PyTorch tracker says when a restart can't be exact, and that it says nothing when it can."""

import itertools
import warnings

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torch_parts import parts, rows, step

from ckpt_tracker import Store
from ckpt_tracker.errors import CheckpointWarning
from ckpt_tracker.integrations.torch import CheckpointTracker


@pytest.fixture
def store(tmp_path):
    """A store, closed at the end."""
    with Store(tmp_path / "checkpoints") as opened:
        yield opened


# -- what was not handed over ----------------------------------------------------------------------------------


def scheduler(objects):
    """A scheduler that is stepped."""
    kept = torch.optim.lr_scheduler.ReduceLROnPlateau(objects["optimizer"])
    return lambda: kept.step(1.0)


def average(objects):
    """An average that is updated."""
    kept = torch.optim.swa_utils.AveragedModel(objects["model"])
    return lambda: kept.update_parameters(objects["model"])


def scaler(objects):
    """A scaler that is used."""
    kept = torch.amp.GradScaler("cpu")
    return lambda: kept.scale(torch.ones(()))


def optimizer(objects):
    """Another optimizer of the same weights."""
    kept = torch.optim.Adam(objects["model"].parameters())
    return kept.step


FORGOTTEN = {"scheduler": scheduler, "ema": average, "scaler": scaler, "optimizer": optimizer}


@pytest.mark.parametrize("keyword", FORGOTTEN)
def test_what_takes_part_and_was_not_handed_over_is_told_of(keyword, store):
    """Once, with the keyword, in the epoch in which it is first seen to do something."""
    objects = parts()
    take_part = FORGOTTEN[keyword](objects)

    def run():
        with CheckpointTracker(store, "run", **objects) as tracker:
            for epoch in tracker.epochs(4):
                step(**objects)
                if epoch:
                    take_part()

    with pytest.warns(CheckpointWarning, match=rf"takes part in this training.*{keyword}=\.\.\.") as caught:
        run()

    assert len([each for each in caught if each.category is CheckpointWarning]) == 1


def test_what_takes_no_part_is_not_told_of(store):
    """Schedulers inside one that was handed over, another training's, one that has been used before, a wrapper."""
    earlier, objects = parts(), parts()
    elsewhere = torch.optim.lr_scheduler.StepLR(earlier["optimizer"], 1)
    before = torch.optim.lr_scheduler.StepLR(objects["optimizer"], 1)
    step(**objects)
    before.step()
    kinds = [torch.optim.lr_scheduler.ConstantLR(objects["optimizer"]) for _ in range(2)]
    whole = torch.optim.lr_scheduler.SequentialLR(objects["optimizer"], kinds, [1])
    off = torch.amp.GradScaler("cpu", enabled=False)
    with CheckpointTracker(store, "run", scheduler=whole, **objects) as tracker:
        for _ in tracker.epochs(3):
            step(**earlier)
            elsewhere.step()
            off.scale(torch.ones(()))
            step(**objects)
            whole.step()

    assert store["run@last"].epoch == 2


# -- what no loader can do again -------------------------------------------------------------------------------


def endless():
    """Batches for ever."""
    while True:
        yield torch.ones(2, 2)


def test_an_iterator_that_goes_on_from_epoch_to_epoch_is_told_of(store):
    """A restarted script has a new one, which begins at its start."""
    stream = endless()
    objects = parts()

    def run():
        with CheckpointTracker(store, "run", **objects) as tracker:
            for _ in tracker.epochs(2):
                for _ in tracker.batches(itertools.islice(stream, 3)):
                    step(**objects)

    with pytest.warns(CheckpointWarning, match="an iterator that had already begun"):
        run()


HARMLESS = {
    "a list": lambda: [torch.ones(2, 2)] * 3,
    "a generator of each epoch's own": lambda: itertools.islice(endless(), 3),
    "two loaders at once": lambda: zip(rows(shuffle=True), rows(), strict=True),
    "numbered": lambda: enumerate(rows(generator=torch.Generator())),
    "moved to a device": lambda: map(list, rows()),
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_begins_anew_in_each_epoch_is_fine(kind, store):
    """It is gone through again like any loader."""

    def run(*, stop):
        objects = parts()
        with CheckpointTracker(store, "run", every="1 step", **objects) as tracker:
            for epoch in tracker.epochs(3):
                for index, _ in enumerate(tracker.batches(HARMLESS[kind]())):
                    if (epoch, index) == (1, 2) and stop:
                        raise ZeroDivisionError
                    step(**objects)
        return tracker.step

    with pytest.raises(ZeroDivisionError):
        run(stop=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps = run(stop=False)

    assert steps == 3 * len(list(HARMLESS[kind]()))


def test_lasting_workers_whose_data_draw_nothing_are_fine(store):
    """The data are looked at before anything is said of them."""
    loader = DataLoader(TensorDataset(torch.ones(6, 2)), 2, num_workers=1, persistent_workers=True)
    objects = parts()
    with CheckpointTracker(store, "run", **objects) as tracker:
        for _ in tracker.epochs(1):
            for _ in tracker.batches(loader):
                step(**objects)

    assert store["run@last"].step == 3


def test_workers_that_give_batches_as_they_come_are_told_of(store):
    """Then no two trainings have the same order."""
    loader = DataLoader(TensorDataset(torch.ones(6, 2)), 2, num_workers=2, in_order=False)
    objects = parts()

    def run():
        with CheckpointTracker(store, "run", **objects) as tracker:
            for _ in tracker.epochs(1):
                for _ in tracker.batches(loader):
                    step(**objects)

    with pytest.warns(CheckpointWarning, match="in_order=True"):
        run()
