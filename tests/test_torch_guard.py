"""What is otherwise than it was when a checkpoint was saved: what the PyTorch tracker refuses, shows, and overrides."""

import itertools
import logging

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset
from torch_parts import parts, rows, step, stop_at

from ckpt_tracker import Store
from ckpt_tracker.errors import CheckpointWarning, InvalidOption, StateMismatch
from ckpt_tracker.integrations.torch import CheckpointTracker


@pytest.fixture
def store(tmp_path):
    """A store, closed at the end."""
    with Store(tmp_path / "checkpoints") as opened:
        yield opened


class Stream(IterableDataset):
    """Samples without a length."""

    def __iter__(self):
        return iter(torch.ones(12, 2))


def go_on(store, loader, *, epochs=1, **options):
    """The training continues over that loader."""
    objects = parts()
    with CheckpointTracker(store, "run", **objects, **options) as tracker:
        for _ in tracker.epochs(epochs):
            for _ in tracker.batches(loader):
                step(**objects)
    return objects


# -- changes ---------------------------------------------------------------------------------------------------


def test_a_checkpoint_knows_its_data(store):
    """The context says what the position depends on."""
    go_on(store, rows(shuffle=True))

    assert store["run@last"].context == {
        "world_size": 1,
        "hyperparameters": store["run@last"].context["hyperparameters"],
        "data": {
            **{"length": 12, "batch_size": 2, "drop_last": False, "num_workers": 0},
            **{"sampler": "BatchSampler, RandomSampler", "dataset": "TensorDataset"},
        },
    }


CHANGED = {
    "length": lambda: rows(10),
    "batch_size": lambda: rows(batch_size=3),
    "drop_last": lambda: rows(drop_last=True),
    "sampler": lambda: rows(shuffle=True),
}


@pytest.mark.parametrize("name", CHANGED)
def test_other_data_inside_an_epoch_are_refused_with_the_way_out(name, store):
    """The batches before the position would be others; from an epoch's end on they may be."""
    stop_at(store, 2, rows())

    with pytest.raises(StateMismatch, match=rf"(?s)run@v2 .*data\.{name}: .*start anew with another run name"):
        go_on(store, CHANGED[name]())


def test_the_way_out_names_the_newest_end_of_an_epoch(store):
    """Resuming from there is exact up to the change."""
    go_on(store, rows())
    objects = parts()
    with pytest.raises(ZeroDivisionError), CheckpointTracker(store, "run", every="1 step", **objects) as tracker:
        for _ in tracker.epochs(3):
            for _ in tracker.batches(rows()):
                step(**objects)
                raise_at(tracker, 9)

    with pytest.raises(StateMismatch, match="resume='run@v1'"):
        go_on(store, rows(batch_size=4), epochs=3)

    go_on(store, rows(batch_size=4), epochs=3, resume="run@v1")


def raise_at(tracker, count):
    """Ends a training after so many steps."""
    if tracker.step == count:
        raise ZeroDivisionError


def test_other_data_at_an_epochs_end_are_shown(store, caplog):
    """The next epoch may well have another batch size: it is only told."""
    go_on(store, rows())

    with caplog.at_level(logging.WARNING):
        go_on(store, rows(batch_size=3), epochs=2)

    assert "data.batch_size: 2 before, 3 now" in caplog.text


def test_other_workers_are_shown_where_they_decide_nothing_and_refused_where_they_do(store, caplog):
    """Samples with numbers come in the same order from any number of workers; a stream is divided among them."""
    stop_at(store, 2, rows())
    with caplog.at_level(logging.WARNING):
        go_on(store, rows(num_workers=1))
    assert "data.num_workers: 0 before, 1 now" in caplog.text

    stop_at(store, 2, DataLoader(Stream(), 2), resume="never")
    with pytest.raises(StateMismatch, match=r"data\.num_workers: 0 before, 1 now"):
        go_on(store, DataLoader(Stream(), 2, num_workers=1))


def test_batches_that_come_out_otherwise_are_noticed(store):
    """Whatever the reason, the first batch of the epoch tells that the loader is not where it was."""
    data = [torch.rand(2) for _ in range(6)]
    stop_at(store, 2, data)
    data[0] += 1

    with pytest.warns(CheckpointWarning, match="first batch is not the one"):
        go_on(store, data)


# -- hyperparameters -------------------------------------------------------------------------------------------


def with_schedule(name="StepLR", *, schedule=None, **options):
    """A model, its optimizer, and a scheduler."""
    objects = parts(**options)
    kind = getattr(torch.optim.lr_scheduler, name)
    return {**objects, "scheduler": kind(objects["optimizer"], **(schedule or {"step_size": 1}))}


def resume(store, objects):
    """A training of these objects begins, or goes on."""
    with CheckpointTracker(store, "run", **objects) as tracker:
        for _ in tracker.epochs(1):
            step(objects["model"], objects["optimizer"])


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (with_schedule(lr=0.2), "hyperparameters.optimizer.initial_lr: 0.1 before, 0.2 now"),
        (with_schedule(weight_decay=0.5), "hyperparameters.optimizer.weight_decay: 0 before, 0.5 now"),
        (with_schedule(schedule={"step_size": 3}), "hyperparameters.scheduler.step_size: 1 before, 3 now"),
        (
            with_schedule("ExponentialLR", schedule={"gamma": 0.1}),
            "hyperparameters.scheduler.class: StepLR before, ExponentialLR now",
        ),
    ],
    ids=["lr", "weight decay", "a scheduler's", "scheduler"],
)
def test_hyperparameters_that_the_script_has_changed_are_told_of(now, told, store, caplog):
    """For the checkpoint's are brought back, and the change would have no effect."""
    resume(store, with_schedule())

    with caplog.at_level(logging.WARNING):
        resume(store, now)

    assert told in caplog.text
    assert "overrides={'lr': ...} sets others" in caplog.text


@pytest.mark.parametrize(
    "build",
    [
        lambda: with_schedule("OneCycleLR", schedule={"max_lr": 0.5, "total_steps": 9}, momentum=0.9),
        lambda: with_schedule("ReduceLROnPlateau", schedule={"patience": 0}, optimizer=torch.optim.Adam),
        lambda: with_schedule("LambdaLR", schedule={"lr_lambda": lambda epoch: 0.9**epoch}, lr=torch.tensor(0.1)),
    ],
    ids=["one cycle", "plateau", "tensor"],
)
def test_the_same_hyperparameters_are_no_change(build, store, caplog):
    """Also where a schedule has moved them meanwhile."""
    resume(store, build())

    with caplog.at_level(logging.WARNING):
        resume(store, build())

    assert "hyperparameters" not in caplog.text


@pytest.mark.parametrize(
    ("before", "now"), [(torch.optim.Adam, torch.optim.SGD), (torch.optim.SGD, torch.optim.RMSprop)]
)
def test_another_optimizer_is_refused(before, now, store):
    """torch itself takes any optimizer's state, and fails in the next step."""
    resume(store, parts(optimizer=before))

    with pytest.raises(StateMismatch, match=f"optimizer is a {now.__name__}, and the checkpoint holds no "):
        resume(store, parts(optimizer=now))


# -- overrides -------------------------------------------------------------------------------------------------


def test_an_override_is_set_after_everything_is_restored(store):
    """The learning rate is the new one, and what the optimizer has learned is kept."""
    first = stop_at(store, 3, rows(), objects=parts(momentum=0.9))
    objects = parts(momentum=0.9)
    with CheckpointTracker(store, "run", overrides={"lr": 0.01}, **objects) as tracker:
        assert objects["optimizer"].param_groups[0]["lr"] == 0.01
        for _ in tracker.epochs(1):
            for _ in itertools.islice(tracker.batches(rows()), 1):
                group = objects["optimizer"].param_groups[0]
                assert (group["lr"], group["momentum"]) == (0.01, 0.9)
                assert torch.equal(state(objects), state(first))


def state(objects):
    """The momentum of the first weight."""
    return objects["optimizer"].state[objects["model"].weight]["momentum_buffer"]


def test_an_override_goes_through_the_schedule(store):
    """The base rate is another one: the scheduler goes on, scaled."""

    def build():
        objects = parts()
        return {**objects, "scheduler": torch.optim.lr_scheduler.StepLR(objects["optimizer"], 1, gamma=0.5)}

    objects = build()
    with CheckpointTracker(store, "run", **objects) as tracker:
        for _ in tracker.epochs(1):
            step(objects["model"], objects["optimizer"])
            objects["scheduler"].step()
    objects = build()
    with CheckpointTracker(store, "run", overrides={"lr": 1.0}, **objects) as tracker:
        for _ in tracker.epochs(2):
            step(objects["model"], objects["optimizer"])
            objects["scheduler"].step()

    assert objects["scheduler"].get_last_lr() == [0.25]
    assert store["run@last"].parents[0].overrides == {"lr": 1.0}


@pytest.mark.parametrize(
    ("name", "value"), [("lr", "fast"), ("lr", -1), ("lr", None), ("lr", float("nan")), ("betas", 3), ("betas", [0.9])]
)
def test_an_override_that_is_none_is_refused(name, value, store):
    """The message shows what is expected, before the optimizer stumbles over it."""
    resume(store, parts(optimizer=torch.optim.Adam))

    with pytest.raises(InvalidOption, match=rf"overrides={{'{name}': .*}}: expected something like [0(]"):
        CheckpointTracker(store, "run", overrides={name: value}, **parts(optimizer=torch.optim.Adam))


def test_an_override_of_nothing_is_refused(store):
    """The message names what there is."""
    go_on(store, rows())

    with pytest.raises(InvalidOption, match="momentum"):
        CheckpointTracker(store, "run", overrides={"rate": 1.0}, **parts())
