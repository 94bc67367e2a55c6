"""What a Lightning training tells, refuses or changes when it is resumed, and how it leaves the process."""

import os
import signal
import warnings

import lightning.pytorch as lightning
import pytest
import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning_helpers import HARMLESS, StopAt, make_tracker, make_trainer, saved
from lightning_training import loaders, make_model
from torch.utils.data import DataLoader, TensorDataset

from ckpt_tracker import Store
from ckpt_tracker.errors import CheckpointWarning, StateMismatch

pytestmark = HARMLESS
WATCHED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    """Whatever is written by default is written here."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)


def stopped_inside(**options):
    """Leaves a checkpoint inside the second epoch."""
    trainer = make_trainer(make_tracker(every="1 step", **options), StopAt(1, ValueError("stop"), batch=2))
    with pytest.raises(ValueError, match="stop"):
        trainer.fit(make_model(lightning), *loaders())


def test_what_a_training_had_is_recorded():
    """Facts that make a resume right or wrong, as plain values."""
    make_trainer(make_tracker(), max_epochs=1, accumulate_grad_batches=2).fit(make_model(lightning), *loaders())
    with Store("store") as store:
        context = store["run@last"].context

    data = {"length": 32, "batch_size": 8, "num_workers": 0, "drop_last": False, "dataset": "Noisy"}
    assert {key: context[key] for key in ("world_size", "accumulate_grad_batches", "precision")} == {
        "world_size": 1,
        "accumulate_grad_batches": 2,
        "precision": "32-true",
    }
    assert {key: context["data"][key] for key in data} == data


def test_other_batches_inside_an_epoch_are_refused():
    """The position is one in batches of that size; both sizes are named, and the way out."""
    stopped_inside()
    train = DataLoader(loaders()[0].dataset, 4, shuffle=True)

    with pytest.raises(StateMismatch, match=r"data\.batch_size: 8 before, 4 now\n.*resume='run@vN'"):
        make_trainer(make_tracker()).fit(make_model(lightning), train, loaders()[1])


def test_other_batches_at_an_epochs_end_are_shown(caplog):
    """The training goes on with them."""
    make_trainer(make_tracker(), max_epochs=1).fit(make_model(lightning), *loaders())
    train = DataLoader(loaders()[0].dataset, 4, shuffle=True)
    make_trainer(make_tracker()).fit(make_model(lightning), train, loaders()[1])

    assert "data.batch_size: 8 before, 4 now" in caplog.text
    assert saved() == [0, 1]


def test_an_unchanged_training_is_not_spoken_of(caplog):
    """No false alarms."""
    stopped_inside()
    caplog.clear()
    make_trainer(make_tracker()).fit(make_model(lightning), *loaders())

    assert [each.message for each in caplog.records if each.name == "ckpt_tracker"] == []


@pytest.mark.parametrize("scheduler", ["step", "plateau", None])
def test_an_override_is_what_the_training_goes_on_with(scheduler):
    """The learning rate is scaled where a schedule has got to; the checkpoint's parent tells of it."""
    rates = []
    for options in ({}, {"overrides": {"lr": 0.002}}):
        trainer = make_trainer(make_tracker(**options), max_epochs=1 + len(rates))
        trainer.fit(make_model(lightning, scheduler=scheduler), *loaders())
        rates.append(trainer.optimizers[0].param_groups[0]["lr"])
    with Store("store") as store:
        (parent,) = store["run@last"].parents

    decay = 0.7 if scheduler == "step" else 1.0
    # a plateau, which the second epoch may or may not reach, halves it
    halved = scheduler == "plateau" and rates[1] < 0.0015
    assert rates == [pytest.approx(0.02 * decay), pytest.approx(0.001 if halved else 0.002 * decay**2)]
    assert parent.overrides == {"lr": 0.002}


def test_random_numbers_in_workers_that_live_on_are_told_of():
    """Once, with the remedy: a resumed training could not draw the same ones."""
    train = DataLoader(loaders()[0].dataset, 4, shuffle=True, num_workers=1, persistent_workers=True)
    with pytest.warns(CheckpointWarning, match=r"persistent_workers=False") as warned:
        make_trainer(make_tracker()).fit(make_model(lightning), train, loaders()[1])

    assert len([each for each in warned if each.category is CheckpointWarning]) == 1


def test_workers_that_live_on_and_draw_nothing_are_not_spoken_of():
    """That alone is no reason for an alarm."""
    plain = TensorDataset(torch.rand(32, 5), torch.zeros(32, dtype=torch.int64))
    train = DataLoader(plain, 4, shuffle=True, num_workers=1, persistent_workers=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CheckpointWarning)
        make_trainer(make_tracker()).fit(make_model(lightning), train, loaders()[1])

    assert saved() == [0, 1]


@pytest.mark.parametrize("error", [None, ValueError("stop"), KeyboardInterrupt()])
def test_signals_are_handled_as_before_when_fit_is_over(error):
    """Also when it was interrupted, and Lightning has put handlers of its own."""
    own = {number: signal.getsignal(number) for number in WATCHED}
    others = () if error is None else (StopAt(1, error),)
    ending = {ValueError: ValueError, KeyboardInterrupt: SystemExit}.get(type(error))
    trainer = make_trainer(make_tracker(), *others)
    if ending is None:
        trainer.fit(make_model(lightning), *loaders())
    else:
        with pytest.raises(ending):
            trainer.fit(make_model(lightning), *loaders())

    assert {number: signal.getsignal(number) for number in WATCHED} == own


def test_a_training_that_fails_before_it_starts_leaves_no_handlers():
    """Lightning has put its own by then, over the tracker's."""
    own = {number: signal.getsignal(number) for number in WATCHED}
    model = make_model(lightning)
    model.on_train_start = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        make_trainer(make_tracker()).fit(model, *loaders())

    assert {number: signal.getsignal(number) for number in WATCHED} == own


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_slurm_job_is_requeued_when_its_checkpoint_is_durable(number, tmp_path, monkeypatch):
    """As Lightning does, with no file of its own beside: the restart would restore that instead."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text('#!/bin/sh\necho "$@" > requeued\nls store/runs/run/manifests | wc -l >> requeued\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    for name, value in {"JOB_ID": "77", "NTASKS": "1", "NODELIST": "here", "NODEID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    for name in ("SLURM_PROCID", "SLURM_LOCALID"):
        monkeypatch.setenv(name, "0")
    model = make_model(lightning)
    model.point = lambda where, index: os.kill(os.getpid(), number) if where == "train" and index == 1 else None
    environment = SLURMEnvironment(auto_requeue=True, requeue_signal=number)
    trainer = make_trainer(make_tracker(), plugins=[environment])
    before = signal.getsignal(number)
    with pytest.raises(SystemExit):
        trainer.fit(model, *loaders())

    assert (tmp_path / "requeued").read_text().split() == ["requeue", "77", "1"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bin", "requeued", "store"]
    assert signal.getsignal(number) == before
