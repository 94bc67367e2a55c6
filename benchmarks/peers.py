"""The tools that are measured, each made to save the state of one training.

A tool is a factory: `make(training, folder)`. It raises ImportError where it is not installed.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.timing import Saves, Wait
from benchmarks.workloads import Training

Make = Callable[[Training, Path], Saves]


class Peer:
    """Saves into a path of its own each time."""

    def __init__(self, training: Training, folder: Path) -> None:
        self.training = training
        self.folder = folder
        folder.mkdir()

    def path(self, number: int) -> Path:
        """Where that save goes."""
        return self.folder / f"{number}.ckpt"

    def save(self, number: int) -> Wait | None:
        """See `Saves`."""
        raise NotImplementedError

    def clean(self, number: int) -> int:
        """See `Saves`."""
        path = self.path(number)
        files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
        stored = sum(each.stat().st_size for each in files)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return stored


class Ours(Peer):
    """`run.save`: hashed, deduplicated, durable."""

    def __init__(self, training: Training, folder: Path) -> None:
        from ckpt_tracker import Store

        super().__init__(training, folder)
        self.store = Store(folder / "store")
        self.run = self.store.run("bench")
        self._saved: Any = None

    def save(self, number: int) -> Wait:
        self._saved = self.run.save(self.training.state())
        wait: Wait = self._saved.wait
        return wait

    def clean(self, number: int) -> int:
        from ckpt_tracker.retention import Last

        stored: int = self._saved.stored_bytes
        self.store.evict(self.run.plan(Last(1)))
        return stored


class OursOverlapped(Peer):
    """The PyTorch tracker with `overlap=True`: copies while the next step computes, up to `optimizer.step()`."""

    def __init__(self, training: Training, folder: Path, *, keep: str = "last:1") -> None:
        from ckpt_tracker.integrations.torch import CheckpointTracker

        super().__init__(training, folder)
        self.tracker = CheckpointTracker(
            folder / "store", "bench", model=training.model, optimizer=training.optimizer, overlap=True, keep=keep
        )

    def save(self, number: int) -> Wait:
        training = self.tracker._training
        training.save(training.state(), reason="bench", epoch=number, metrics=None)
        steps = training.step

        def wait() -> None:
            while training.step == steps or not self.tracker._tracker._newest:
                time.sleep(0.001)
            self.tracker._tracker._newest.wait()

        return wait

    def clean(self, number: int) -> int:
        self.tracker.run.writer().drain()
        stored: int = self.tracker.run.last().stored_bytes
        return stored


class TorchSave(Peer):
    """`torch.save` as it is."""

    crc = True
    sync = False

    def save(self, number: int) -> None:
        import torch

        torch.serialization.set_crc32_options(self.crc)
        torch.save(self.training.state(), self.path(number))
        if self.sync:
            descriptor = os.open(self.path(number), os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


class TorchSaveFast(TorchSave):
    """Without its checksum."""

    crc = False


class TorchSaveDurable(TorchSaveFast):
    """And made durable."""

    sync = True


class Safetensors(Peer):
    """`save_file` of all tensors in one flat dict."""

    def save(self, number: int) -> None:
        from safetensors.torch import save_file

        save_file(flat(self.training.state()), self.path(number))


class Dcp(Peer):
    """torch.distributed.checkpoint, in one process."""

    def save(self, number: int) -> None:
        import torch.distributed.checkpoint as dcp

        dcp.save(self.training.state(), checkpoint_id=str(self.path(number)), no_dist=True)


class DcpAsync(Peer):
    """`async_save` with staging buffers that are kept."""

    staging_thread = False

    def __init__(self, training: Training, folder: Path) -> None:
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        super().__init__(training, folder)
        options = StagingOptions(
            use_pinned_memory=False,
            use_shared_memory=True,
            use_async_staging=self.staging_thread,
            use_non_blocking_copy=False,
        )
        self.stager = DefaultStager(options)

    def save(self, number: int) -> Wait:
        import torch.distributed.checkpoint as dcp

        saving: Any = dcp.async_save(
            self.training.state(), checkpoint_id=str(self.path(number)), async_stager=self.stager, no_dist=True
        )
        wait: Wait = getattr(saving, "upload_completion", saving).result
        staged = getattr(saving, "staging_completion", None)
        if staged is not None:

            def settle(*_: object) -> None:
                staged.result()
                hook.remove()

            hook = self.training.optimizer.register_step_pre_hook(settle)
        return wait


class DcpStaging(DcpAsync):
    """And staged in a thread, while the next step is computed."""

    staging_thread = True


class Lightning(Peer):
    """`trainer.save_checkpoint`, which is what ModelCheckpoint calls."""

    asynchronous = False

    def __init__(self, training: Training, folder: Path) -> None:
        from lightning.pytorch import LightningModule, Trainer
        from lightning.pytorch.plugins import AsyncCheckpointIO

        super().__init__(training, folder)
        self.io: Any = AsyncCheckpointIO() if self.asynchronous else None
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        self.trainer = Trainer(accelerator="cpu", plugins=[self.io] if self.io else None, **quiet)
        module = LightningModule()
        module.net = training.model
        self.trainer.strategy.connect(module)
        self.trainer.strategy._lightning_module = module
        self.trainer.strategy.optimizers = [training.optimizer]

    def save(self, number: int) -> Wait | None:
        self.trainer.save_checkpoint(self.path(number))
        if self.io is None:
            return None
        wait: Wait = self.io._executor.submit(lambda: None).result
        return wait


class LightningAsync(Lightning):
    """With AsyncCheckpointIO."""

    asynchronous = True


class Ignite(Peer):
    """ignite's Checkpoint with a DiskSaver."""

    def __init__(self, training: Training, folder: Path) -> None:
        from ignite.handlers import DiskSaver

        super().__init__(training, folder)
        self.saver = DiskSaver(str(folder), create_dir=True, require_empty=False)

    def save(self, number: int) -> None:
        import torch

        torch.serialization.set_crc32_options(True)
        self.saver(self.training.state(), self.path(number).name)


class TorchSnapshot(Peer):
    """`Snapshot.async_take`."""

    def __init__(self, training: Training, folder: Path) -> None:
        import torchsnapshot

        super().__init__(training, folder)
        self.package: Any = torchsnapshot

    def save(self, number: int) -> Wait:
        state = self.package.StateDict(**self.training.state())
        pending = self.package.Snapshot.async_take(str(self.path(number)), {"state": state})
        wait: Wait = pending.wait
        return wait


class Orbax(Peer):
    """Orbax's asynchronous checkpointer, with the state as JAX arrays: these never change, so it need not copy them."""

    def __init__(self, training: Training, folder: Path) -> None:
        import jax
        import orbax.checkpoint as orbax

        super().__init__(training, folder)
        self.package: Any = orbax
        self.state = {name: jax.numpy.array(each.numpy()) for name, each in flat(training.state()).items()}
        self.checkpointer = orbax.AsyncCheckpointer(orbax.PyTreeCheckpointHandler())

    def save(self, number: int) -> Wait:
        self.checkpointer.save(self.path(number).absolute(), args=self.package.args.PyTreeSave(self.state))
        wait: Wait = self.checkpointer.wait_until_finished
        return wait


OURS: Mapping[str, Make] = {"ckpt_tracker": Ours, "ckpt_tracker, overlap": OursOverlapped}
LEAN: Mapping[str, Make] = {
    "torch.save": TorchSave,
    "torch.save, no crc": TorchSaveFast,
    "torch.save, no crc, fsync": TorchSaveDurable,
    "safetensors": Safetensors,
}
ALL: Mapping[str, Make] = {
    **OURS,
    **LEAN,
    "DCP": Dcp,
    "DCP async": DcpAsync,
    "DCP async, staged in a thread": DcpStaging,
    "Lightning": Lightning,
    "Lightning async": LightningAsync,
    "ignite": Ignite,
    "torchsnapshot async": TorchSnapshot,
    "Orbax async (JAX)": Orbax,
}
DURABLE = {"ckpt_tracker", "ckpt_tracker, overlap", "torch.save, no crc, fsync", "Orbax async (JAX)"}
"""Those that sync what they write, files and folders."""


def start(makers: Mapping[str, Make], training: Training, folder: Path) -> tuple[dict[str, Saves], dict[str, str]]:
    """The tools that could be started, and why the others could not."""
    tools: dict[str, Saves] = {}
    failed = {}
    for index, (name, make) in enumerate(makers.items()):
        try:
            tools[name] = make(training, folder / str(index))
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"
    return tools, failed


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """All tensors of a state, by path."""
    import torch

    if isinstance(value, torch.Tensor):
        return {path: value.detach()}
    found = {}
    for name, each in value.items() if isinstance(value, dict) else ():
        found.update(flat(each, f"{path}.{name}" if path else str(name)))
    return found
