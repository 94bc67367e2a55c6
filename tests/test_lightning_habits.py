"""What people do with a Lightning Trainer, with the tracker among its callbacks."""

import lightning.pytorch as lightning
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateFinder, ModelCheckpoint
from lightning.pytorch.tuner import Tuner
from lightning_helpers import HARMLESS, StopAt, make_tracker, make_trainer, saved
from lightning_training import loaders, make_model

from ckpt_tracker import Store
from ckpt_tracker.integrations.lightning import CheckpointTracker

pytestmark = HARMLESS


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    """Whatever is written by default is written here."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)


def test_nothing_but_the_store_is_written(tmp_path):
    """The tracker stands in for Lightning's default ModelCheckpoint."""
    make_trainer(make_tracker()).fit(make_model(lightning), *loaders())

    assert [each.name for each in tmp_path.iterdir()] == ["store"]
    assert saved() == [0, 1]


def test_a_checkpoint_has_the_metrics_of_its_epoch():
    """Training and validation metrics are there; those of an earlier validation are not passed off as new."""
    trainer = make_trainer(make_tracker(), max_epochs=2, check_val_every_n_epoch=2)
    trainer.fit(make_model(lightning), *loaders())
    with Store("store") as store:
        first, second = store.run("run").checkpoints()

    assert "val_loss" not in first.metrics
    assert second.metrics["val_loss"] == pytest.approx(trainer.callback_metrics["val_loss"].item())
    assert {"loss", "loss_epoch"} <= set(first.metrics)


def test_an_old_validation_is_not_recorded_again():
    """An epoch without validation has no val_loss, although Lightning still shows the last one."""
    make_trainer(make_tracker(), max_epochs=3, check_val_every_n_epoch=2).fit(make_model(lightning), *loaders())
    with Store("store") as store:
        ranked = [each.epoch for each in store.run("run").checkpoints() if "val_loss" in each.metrics]

    assert ranked == [1]


def test_a_validation_from_before_a_restart_is_not_recorded_again():
    """EarlyStopping has its metric back, and the epoch that goes on has no validation of its own."""
    options = {"check_val_every_n_epoch": 2, "num_sanity_val_steps": 0}
    for epochs in (2, 3):
        trainer = make_trainer(make_tracker(), EarlyStopping("val_loss", patience=9), max_epochs=epochs, **options)
        trainer.fit(make_model(lightning), *loaders())
    with Store("store") as store:
        ranked = [each.epoch for each in store.run("run").checkpoints() if "val_loss" in each.metrics]

    assert (saved(), ranked) == ([0, 1, 2], [1])


def test_the_sections_are_named():
    """The state is sorted into the sections that all trackers use."""
    make_trainer(make_tracker(), EarlyStopping("val_loss")).fit(make_model(lightning, scheduler="step"), *loaders())
    with Store("store") as store:
        checkpoint = store["run@last"]
        callbacks = checkpoint.load("callbacks")
        hyperparameters = checkpoint.load("hyperparameters")

    expected = {"model", "optimizer", "scheduler", "loop", "rng", "data", "callbacks"}
    assert expected <= set(checkpoint.sections)
    assert len(callbacks) == 1
    assert next(iter(callbacks)).startswith("EarlyStopping")
    assert hyperparameters["hyper_parameters"] == {"width": 8}


def test_hyperparameters_are_the_runs_config():
    """What `save_hyperparameters` took is recorded with the run."""
    tracker = make_tracker(config={"note": "hello"})
    make_trainer(tracker).fit(make_model(lightning), *loaders())

    assert tracker.run.config == {"width": 8, "note": "hello"}


def test_a_model_checkpoint_beside_goes_on_working(tmp_path):
    """A ModelCheckpoint writes its files, and stays the one that the Trainer and its loggers ask."""
    beside = ModelCheckpoint("files", monitor="val_loss", save_top_k=-1)
    trainer = make_trainer(make_tracker(), beside)
    trainer.fit(make_model(lightning), *loaders())

    assert len(list((tmp_path / "files").iterdir())) == 2
    assert trainer.checkpoint_callback is beside
    assert saved() == [0, 1]


def test_a_model_checkpoint_is_resumed_with_the_training(tmp_path):
    """Its state is captured after it has seen the epoch: it goes on deleting what it wrote before the interruption."""

    def fit(*callbacks):
        beside = ModelCheckpoint("files", monitor="val_loss", save_top_k=1)
        trainer = make_trainer(make_tracker(), beside, *callbacks, max_epochs=4)
        trainer.fit(make_model(lightning), *loaders())

    with pytest.raises(ValueError, match="stop"):
        fit(StopAt(2, ValueError("stop")))
    fit()

    assert len(list((tmp_path / "files").iterdir())) == 1


def test_the_best_is_found_by_test(tmp_path):
    """`ckpt_path="best"` loads the best checkpoint's weights."""
    tracker = make_tracker()
    trainer = make_trainer(tracker, max_epochs=4)
    model = make_model(lightning)
    trainer.fit(model, *loaders())
    trainer.test(model, loaders()[1], ckpt_path="best", verbose=False)
    best = tracker.run.best()

    assert tracker.best_model_path == f"ckpt://{tmp_path}/store/{best.ref}"
    assert tracker.best_model_score.item() == pytest.approx(best.metrics["val_loss"])
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in best.load("model").items())


def test_the_best_is_loaded_into_a_new_model():
    """`load_from_checkpoint` reads the path of the best as if it were a file, hyperparameters included."""
    tracker = make_tracker()
    model = make_model(lightning)
    trainer = make_trainer(tracker)
    trainer.fit(model, *loaders())
    loaded = type(model).load_from_checkpoint(trainer.checkpoint_callback.best_model_path)
    weights = tracker.run.best().load("model")

    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in weights.items())


def test_there_is_no_best_without_a_monitor():
    """Lightning says so itself."""
    trainer = make_trainer(CheckpointTracker("store", "run"))
    trainer.fit(make_model(lightning), *loaders())

    with pytest.raises(ValueError, match="not configured to save the best"):
        trainer.test(make_model(lightning), loaders()[1], ckpt_path="best", verbose=False)


def test_evaluating_saves_nothing(tmp_path):
    """validate, test and predict don't even make a store."""
    trainer = make_trainer(make_tracker())
    loader = loaders()[1]
    trainer.validate(make_model(lightning), loader, verbose=False)
    trainer.test(make_model(lightning), loader, verbose=False)
    trainer.predict(make_model(lightning), loader)

    assert list(tmp_path.iterdir()) == []


def test_fast_dev_run_saves_nothing(tmp_path):
    """A trial of the script's code leaves nothing."""
    make_trainer(make_tracker(), fast_dev_run=True).fit(make_model(lightning), *loaders())

    assert list(tmp_path.iterdir()) == []


def test_fit_again_with_the_same_trainer_goes_on():
    """The second fit trains the epochs that were added, and restores nothing."""
    tracker = make_tracker()
    trainer = make_trainer(tracker)
    model = make_model(lightning)
    trainer.fit(model, *loaders())
    trainer.fit_loop.max_epochs = 4
    trainer.fit(model, *loaders())

    assert saved() == [0, 1, 2, 3]


def test_fit_again_with_a_new_trainer_records_in_the_same_run():
    """A second phase of training starts from the model as it is."""
    tracker = make_tracker()
    model = make_model(lightning)
    make_trainer(tracker).fit(model, *loaders())
    model.net[0].weight.data.fill_(3.0)
    make_trainer(tracker, max_epochs=1).fit(model, *loaders())

    assert saved() == [0, 1, 0]
    assert model.net[0].weight.mean() > 2


def test_a_new_tracker_continues_the_run():
    """With more epochs, the same script trains those that are missing."""
    make_trainer(make_tracker()).fit(make_model(lightning), *loaders())
    tracker = make_tracker()
    make_trainer(tracker, max_epochs=3).fit(make_model(lightning), *loaders())

    assert saved() == [0, 1, 2]
    assert tracker.resumed_from.ref == "run@v2"


def test_a_finished_training_trains_nothing():
    """The same script again restores the last epoch's state and ends."""
    make_trainer(make_tracker()).fit(make_model(lightning), *loaders())
    model = make_model(lightning)
    make_trainer(make_tracker()).fit(model, *loaders())
    with Store("store") as store:
        weights = store["run@last"].load("model")

    assert saved() == [0, 1]
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in weights.items())


def test_a_training_that_was_stopped_early_stays_stopped(caplog):
    """EarlyStopping's verdict outlives the process; a reference trains on."""

    def fit(**options):
        stopping = EarlyStopping("val_loss", patience=1, min_delta=100.0)
        make_trainer(make_tracker(**options), stopping, max_epochs=9).fit(make_model(lightning), *loaders())

    fit()
    assert saved() == [0, 1]
    fit()
    assert saved() == [0, 1]
    assert "stopped early" in caplog.text
    fit(resume="run@v2")
    assert saved() == [0, 1, 2]


def test_an_interrupted_cell_run_again_goes_on():
    """Ctrl-C in `fit`, then a new tracker, trainer and model in the same process."""
    stop = StopAt(2, KeyboardInterrupt())
    with pytest.raises(SystemExit):
        make_trainer(make_tracker(), stop, max_epochs=4).fit(make_model(lightning), *loaders())
    make_trainer(make_tracker(), max_epochs=4).fit(make_model(lightning), *loaders())

    assert saved() == [0, 1, 2, 3]


def test_fit_run_again_with_the_same_objects_goes_on():
    """Ctrl-C in `fit`, then the same `fit` again: it continues from the last checkpoint, not from the middle."""

    def digests(run, stop):
        lightning.seed_everything(1, verbose=False)
        trainer = make_trainer(CheckpointTracker("store", run, keep="last:99"), stop, max_epochs=4)
        model = make_model(lightning)
        if stop.epoch is not None:
            with pytest.raises(SystemExit):
                trainer.fit(model, *loaders())
            stop.epoch = None
        trainer.fit(model, *loaders())
        with Store("store") as store:
            return [each.digest for each in store.run(run).checkpoints()]

    whole = digests("whole", StopAt(None, None))

    assert digests("run", StopAt(2, KeyboardInterrupt(), batch=2)) == whole


def test_the_fits_of_a_script_are_found_again():
    """A script with two fits, killed in the second and restarted: the first is passed over, the second goes on."""

    def script(*callbacks):
        tracker, model = make_tracker(), make_model(lightning)
        make_trainer(tracker).fit(model, *loaders())
        make_trainer(tracker, *callbacks, max_epochs=3).fit(model, *loaders())

    with pytest.raises(ValueError, match="stop"):
        script(StopAt(1, ValueError("stop")))
    assert saved() == [0, 1, 0]
    script()
    assert saved() == [0, 1, 0, 1, 2]


def test_sanity_checking_saves_nothing():
    """The two validation batches before the training are no epoch."""
    stop = StopAt(0, ValueError("stop"))
    with pytest.raises(ValueError, match="stop"):
        make_trainer(make_tracker(), stop, num_sanity_val_steps=2).fit(make_model(lightning), *loaders())

    assert saved() == []


def make_tunable():
    """What the tuners need: a learning rate, and a batch size to change."""
    model = make_model(lightning)
    model.lr, model.batch_size = 0.01, 4
    model.configure_optimizers = lambda: torch.optim.Adam(model.parameters(), lr=model.lr)
    model.train_dataloader = lambda: torch.utils.data.DataLoader(loaders()[0].dataset, model.batch_size)
    model.val_dataloader = lambda: loaders()[1]
    return model


@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval")
def test_tuners_leave_no_checkpoints(tmp_path):
    """The learning-rate finder and the batch-size scaler train for trial only."""
    trainer = make_trainer(make_tracker(monitor=None, mode=None))
    model = make_tunable()
    tuner = Tuner(trainer)
    tuner.lr_find(model, num_training=5)
    tuner.scale_batch_size(model, max_trials=2, steps_per_trial=1)
    assert list(tmp_path.iterdir()) == []

    trainer.fit(model)
    assert saved() == [0, 1]


def test_a_learning_rate_finder_does_not_spoil_the_resume():
    """The finder puts a checkpoint of its own in and takes it away; ours is restored all the same."""

    def fit(epochs):
        finder = LearningRateFinder(num_training_steps=5)
        trainer = make_trainer(make_tracker(monitor=None, mode=None), finder, max_epochs=epochs)
        trainer.fit(make_tunable())
        return trainer

    fit(2)
    trainer = fit(3)

    assert saved() == [0, 1, 2]
    assert trainer.global_step == 24
    assert trainer.optimizers[0].state_dict()["state"][0]["step"] == 24
