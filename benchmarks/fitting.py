"""Whole trainings: a CNN on the digits in Lightning and Keras, with a checkpoint after each epoch and without."""

from __future__ import annotations

import logging
import os
import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.report import Findings, Settings, Table

TITLE = "A whole training"
EPOCHS = 12
NONE = "none"
OURS = "ckpt_tracker"

os.environ.setdefault("KERAS_BACKEND", "torch")


def measure(settings: Settings) -> Findings:
    """Both frameworks; each way of checkpointing in turn."""
    repetitions = settings.repetitions()
    tables = []
    data: dict[str, Any] = {}
    for name, ways in (("Lightning", _lightning()), ("Keras (torch)", _keras())):
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(repetitions + 1):
            for index, (way, fit) in enumerate(ways.items()):
                folder = settings.folder / f"{name[0]}{number}-{index}"
                folder.mkdir()
                started = time.perf_counter()
                fit(folder)
                if number:
                    seconds[way].append(time.perf_counter() - started)
        table, data[name] = _table(name, seconds, stall=statistics.median(_stalls(settings.folder)))
        tables.append(table)
    return Findings(tables, data)


def _stalls(folder: Path) -> list[float]:
    """How long each save of ours held the loop up, as its checkpoint tells."""
    from ckpt_tracker import Store

    found = []
    for path in folder.glob("*/store"):
        with Store(path) as store:
            found += [each.record.stall_seconds for each in store.run("r").checkpoints()]
        shutil.rmtree(path)
    return found


def _table(name: str, seconds: Mapping[str, list[float]], *, stall: float) -> tuple[Table, dict[str, float]]:
    medians = {way: statistics.median(each) for way, each in seconds.items()}
    rows = [
        [way, f"{each:.2f}", f"{min(seconds[way]):.2f}", f"{100 * (each / medians[NONE] - 1):+.1f} %"]
        for way, each in medians.items()
    ]
    note = (
        f"The call of `fit`: {EPOCHS} epochs over the 1,797 digits of scikit-learn, all cores. "
        f"A save of {OURS} held the loop up for {1000 * stall:.1f} ms (median)."
    )
    return Table(f"{name}, digits", ["checkpoints", "median s", "least s", "against none"], rows, note), medians


def _digits() -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images.astype("float32")[:, None] / 16, digits.target


def _lightning() -> dict[str, Callable[[Path], None]]:
    import torch
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
    from torch import nn

    from ckpt_tracker.integrations.lightning import CheckpointTracker

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    images, labels = map(torch.as_tensor, _digits())
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=32, shuffle=True)

    class Digits(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
            )
            self.head = nn.Sequential(nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 10))

        def training_step(self, batch: Any, index: int) -> Any:
            return nn.functional.cross_entropy(self.head(self.net(batch[0])), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters())

    def fit(folder: Path, callbacks: list[Any]) -> None:
        torch.manual_seed(0)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = Trainer(
            accelerator="cpu", max_epochs=EPOCHS, callbacks=callbacks, enable_checkpointing=bool(callbacks), **quiet
        )
        trainer.fit(Digits(), loader)

    return {
        NONE: lambda folder: fit(folder, []),
        OURS: lambda folder: fit(folder, [CheckpointTracker(folder / "store", "r")]),
        "ModelCheckpoint": lambda folder: fit(folder, [ModelCheckpoint(folder, save_top_k=-1)]),
    }


def _keras() -> dict[str, Callable[[Path], None]]:
    import keras

    from ckpt_tracker.integrations.keras import CheckpointTracker

    images, labels = _digits()
    images = images.transpose(0, 2, 3, 1)

    def fit(folder: Path, callbacks: list[Any]) -> None:
        keras.utils.set_random_seed(0)
        layers = keras.layers
        model = keras.Sequential(
            [
                layers.Input((8, 8, 1)),
                *(layers.Conv2D(32, 3, padding="same", activation="relu"), layers.Conv2D(64, 3, padding="same")),
                *(layers.ReLU(), layers.MaxPooling2D(), layers.Flatten(), layers.Dense(128, "relu"), layers.Dense(10)),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss)
        model.fit(images, labels, batch_size=32, epochs=EPOCHS, verbose=0, callbacks=callbacks)

    return {
        NONE: lambda folder: fit(folder, []),
        OURS: lambda folder: fit(folder, [CheckpointTracker(folder / "store", "r")]),
        "ModelCheckpoint": lambda folder: fit(folder, [keras.callbacks.ModelCheckpoint(str(folder / "{epoch}.keras"))]),
        "BackupAndRestore": lambda folder: fit(folder, [keras.callbacks.BackupAndRestore(str(folder / "backup"))]),
    }
