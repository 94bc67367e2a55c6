"""One tracker for the packages `lightning` and `pytorch_lightning`, which hold two copies of every class."""

import pickle
import subprocess
import sys

import lightning.pytorch as lightning
import pytest
import pytorch_lightning
import torch
from lightning_training import QUIET, loaders, make_model

from ckpt_tracker.integrations.lightning import CheckpointTracker

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]
MADE_TOO_EARLY = """
import sys
from ckpt_tracker.integrations.lightning import CheckpointTracker
early = CheckpointTracker(sys.argv[1], "run")
import pytorch_lightning
class Model(pytorch_lightning.LightningModule):
    def training_step(self, batch): ...
    def configure_optimizers(self): ...
quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 0}
try:
    pytorch_lightning.Trainer(callbacks=[early], **quiet).fit(Model(), [1])
except ValueError as error:
    print(str(error).partition(", whose")[0])
tracker = CheckpointTracker(sys.argv[1], "run")
pytorch_lightning.Trainer(callbacks=[tracker], **quiet).fit(Model(), [1])
print(tracker.run.checkpoints())
"""
IMPORT_WITHOUT = """
import sys
sys.modules.update(dict.fromkeys({names!r}))
import ckpt_tracker.integrations.lightning
print(sorted({{"torch", "lightning", "pytorch_lightning"}} & {{name for name in sys.modules if sys.modules[name]}}))
"""


def import_without(*names):
    """Imports the tracker in a new process where some packages can't be."""
    script = IMPORT_WITHOUT.format(names=names)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("package", [lightning, pytorch_lightning])
def test_a_trainer_of_either_package_takes_it(package, tmp_path):
    """It is a Checkpoint of both: neither adds a ModelCheckpoint of its own."""
    torch.set_num_threads(1)
    tracker = CheckpointTracker(tmp_path, "run")
    trainer = package.Trainer(callbacks=[tracker], **QUIET, max_epochs=1)
    trainer.fit(make_model(package), *loaders())

    assert trainer.checkpoint_callbacks == [tracker]
    assert [each.epoch for each in tracker.run.checkpoints()] == [0]


def test_a_tracker_made_too_early_is_noticed(tmp_path):
    """A Trainer imported after the tracker was made does not know it; one that is made then is known."""
    done = subprocess.run([sys.executable, "-c", MADE_TOO_EARLY, tmp_path], capture_output=True, text=True, check=False)

    assert done.stdout == "the tracker was made before 'pytorch_lightning' was imported\n[]\n", done.stderr


def test_what_is_made_is_a_tracker(tmp_path):
    """The class that is imported is the one that `isinstance` knows, and a subclass stays what it is."""

    class Mine(CheckpointTracker):
        pass

    assert isinstance(CheckpointTracker(tmp_path), CheckpointTracker)
    assert isinstance(Mine(tmp_path), Mine)


def test_a_tracker_is_pickled(tmp_path):
    """Strategies that spawn their processes pickle the trainer with its callbacks."""
    copy = pickle.loads(pickle.dumps(CheckpointTracker(tmp_path, "run", monitor="loss", mode="min")))

    assert isinstance(copy, CheckpointTracker)
    assert isinstance(copy, lightning.callbacks.Checkpoint)


def test_importing_it_imports_no_framework():
    """Lightning takes seconds to import: the script does that, with the package that it uses."""
    assert import_without().stdout == "[]\n"


def test_one_package_is_enough():
    """`pytorch_lightning` alone will do."""
    assert import_without("lightning").returncode == 0


def test_without_any_package_the_extra_is_named():
    """The error says what to install."""
    done = import_without("lightning", "pytorch_lightning")

    assert "MissingExtra" in done.stderr
    assert "pip install 'ckpt-tracker[lightning]'" in done.stderr
