"""A training on a CUDA device, killed where it is told to.

Usage: training_cuda.py KIND STORE [EPOCH BATCH]: torch, lightning or transformers, or one of them followed by
"-overlapped". Prints the last digest.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import warnings

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

KIND, STORE, *KILL = sys.argv[1:]
FRAMEWORK, _, OVERLAPPED = KIND.partition("-")
SEED = int(os.environ["SEED"])
EVERY = ["1 epoch", "3 steps"]
EPOCHS = 3
DEVICE = torch.device("cuda")


class Noisy(Dataset):
    """Samples with noise from each of the three generators."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        noise = torch.rand(()) + random.random() + np.random.random()
        return torch.full((8,), index / 40.0) + noise.float(), index % 2


def network():
    """With what keeps state, and draws random numbers, on the device."""
    torch.manual_seed(0)
    wide = [nn.Linear(8, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Dropout(0.4)]
    return nn.Sequential(*wide, nn.Linear(512, 512), nn.Linear(512, 2))


def loader():
    """Shuffled, by two workers, into pinned memory."""
    return DataLoader(Noisy(), 5, shuffle=True, num_workers=2, pin_memory=True)


def die_at(epoch, batch, run):
    """SIGKILL at that batch, once all that was saved is durable."""
    if list(map(int, KILL)) == [epoch, batch]:
        run.writer().drain()
        os.kill(os.getpid(), signal.SIGKILL)


def train_torch():
    """fp16 with a scaler, an average of the weights, one cycle."""
    from ckpt_tracker.integrations.torch import CheckpointTracker

    model = network().to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    objects = {
        "model": model,
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=EPOCHS * 8),
        "scaler": torch.amp.GradScaler("cuda", init_scale=2.0**30, growth_interval=3),
        "ema": torch.optim.swa_utils.AveragedModel(model),
    }
    with CheckpointTracker(STORE, "run", every=EVERY, overlap=bool(OVERLAPPED), **objects) as tracker:
        for epoch in tracker.epochs(EPOCHS):
            for x, y in tracker.batches(loader()):
                die_at(epoch, tracker.batch, tracker.run)
                with torch.autocast("cuda", torch.float16):
                    loss = nn.functional.cross_entropy(model(x.to(DEVICE)), y.to(DEVICE))
                optimizer.zero_grad()
                scaler = objects["scaler"]
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                objects["ema"].update_parameters(model)
                with warnings.catch_warnings():
                    # the scaler's first steps overflow, and are skipped
                    warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
                    objects["scheduler"].step()
            tracker.log(loss=loss)
    return tracker


def train_lightning():
    """fp16 with Lightning's own scaler."""
    import lightning

    from ckpt_tracker.integrations.lightning import CheckpointTracker

    tracker = CheckpointTracker(STORE, "run", every=EVERY, overlap=bool(OVERLAPPED))

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()

        def training_step(self, batch, index):
            die_at(self.current_epoch, index, tracker.run)
            x, y = batch
            return nn.functional.cross_entropy(self.net(x), y)

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=0.01)

    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        accelerator="gpu", devices=1, precision="16-mixed", max_epochs=EPOCHS, callbacks=[tracker], **quiet
    )
    trainer.fit(Module(), loader())
    return tracker


def train_transformers():
    """The Trainer with bfloat16."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from ckpt_tracker.integrations.transformers import CheckpointTracker

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x, labels):
            return {"loss": nn.functional.cross_entropy(self.net(x), labels)}

    class Killing(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            die_at(*divmod(state.global_step, 8), tracker.run)

    class Pairs(Noisy):
        def __getitem__(self, index):
            return {"x": torch.full((8,), index / 40.0), "labels": index % 2}

    tracker = CheckpointTracker(STORE, "run", every=EVERY, overlap=bool(OVERLAPPED))
    quiet = {"report_to": [], "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}
    arguments = TrainingArguments(
        f"{STORE}-output", num_train_epochs=EPOCHS, per_device_train_batch_size=5, bf16=True, seed=7, **quiet
    )
    Trainer(Model(), arguments, train_dataset=Pairs(), callbacks=[tracker, Killing()]).train()
    return tracker


def forget_the_device():
    """Lets checkpoints be found without the device's random state, as if it had not been captured."""
    from ckpt_tracker import Checkpoint

    load = Checkpoint.load

    def spoilt(self):
        state = load(self)
        del state["rng"]["cuda"]
        return state

    Checkpoint.load = spoilt


if __name__ == "__main__":
    if "FORGET" in os.environ:
        forget_the_device()
    torch.use_deterministic_algorithms(True)
    random.seed(SEED), np.random.seed(SEED), torch.manual_seed(SEED)
    train = {"torch": train_torch, "lightning": train_lightning, "transformers": train_transformers}[FRAMEWORK]
    tracker = train()
    print(tracker.run.last().digest)
