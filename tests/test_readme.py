"""Every snippet of the README runs as it stands, after a set-up that a reader would have."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"<!-- runs with: (\w+) -->\n```(python|sh)\n(.*?)```", re.DOTALL)

SET_UP = {
    "core": "import numpy as np\nweights = {'w': np.ones((3, 3), dtype=np.float32)}\n",
    "torch": """
import torch
from torch import nn
torch.set_num_threads(1)
model = nn.Linear(4, 2)
optimizer = torch.optim.AdamW(model.parameters())
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)
data = torch.utils.data.TensorDataset(torch.randn(16, 4), torch.randint(2, (16,)))
train_loader = torch.utils.data.DataLoader(data, 8, shuffle=True)
def loss_of(x, y): return nn.functional.cross_entropy(model(x), y)
def train_step(x, y):
    optimizer.zero_grad(); loss_of(x, y).backward(); optimizer.step()
def evaluate(model): return loss_of(*data[:]).item()
""",
    "accelerate": """
import torch
from accelerate import Accelerator
from torch import nn
torch.set_num_threads(1)
accelerator = Accelerator(cpu=True)
data = torch.utils.data.TensorDataset(torch.randn(16, 4), torch.randint(2, (16,)))
model = nn.Linear(4, 2)
optimizer = torch.optim.AdamW(model.parameters())
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)
train_loader = torch.utils.data.DataLoader(data, 8, shuffle=True)
model, optimizer, scheduler, train_loader = accelerator.prepare(model, optimizer, scheduler, train_loader)
def loss_of(x, y): return nn.functional.cross_entropy(model(x), y)
def train_step(x, y):
    optimizer.zero_grad(); accelerator.backward(loss_of(x, y)); optimizer.step()
def evaluate(model): return loss_of(*data[:]).item()
""",
    "lightning": """
import warnings
warnings.filterwarnings("ignore", module="lightning")
import torch
from torch import nn
import lightning.pytorch as pl
torch.set_num_threads(1)
data = torch.utils.data.TensorDataset(torch.randn(16, 4), torch.randint(2, (16,)))
class Module(pl.LightningModule):
    def __init__(self):
        super().__init__(); self.net = nn.Linear(4, 2)
    def training_step(self, batch): return nn.functional.cross_entropy(self.net(batch[0]), batch[1])
    def validation_step(self, batch): self.log("val_loss", self.training_step(batch))
    def test_step(self, batch): self.log("test_loss", self.training_step(batch))
    def configure_optimizers(self): return torch.optim.Adam(self.parameters())
class Data(pl.LightningDataModule):
    def train_dataloader(self): return torch.utils.data.DataLoader(data, 8, shuffle=True)
    def val_dataloader(self): return torch.utils.data.DataLoader(data, 8)
    test_dataloader = val_dataloader
def Trainer(**options):
    return pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, **options)
model, datamodule = Module(), Data()
""",
    "transformers": """
import torch
from torch import nn
from transformers import Trainer, TrainingArguments
torch.set_num_threads(1)
class Net(nn.Module):
    def __init__(self):
        super().__init__(); self.net = nn.Linear(4, 2)
    def forward(self, x, labels):
        logits = self.net(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}
model = Net()
train = test = [{"x": torch.randn(4), "labels": index % 2} for index in range(16)]
args = TrainingArguments("out", num_train_epochs=2, eval_strategy="epoch", save_strategy="no", report_to=[],
                         use_cpu=True, disable_tqdm=True)
""",
    "keras": """
import os
os.environ["KERAS_BACKEND"] = "torch"
import keras, numpy as np
keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
model.compile("adam", "mse")
x, y = np.ones((20, 4), "float32"), np.ones((20, 2), "float32")
""",
}


def snippets():
    """(needs, language, text) of each block that is marked to run."""
    return BLOCK.findall(README.read_text())


def run(command, folder):
    """Runs a command in an empty folder, and gives what it printed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_python_snippet_is_marked_to_run():
    """No snippet escapes: each names what it runs with."""
    text = README.read_text()

    assert text.count("```python") == sum(language == "python" for _, language, _ in snippets())
    assert {needs for needs, _, _ in snippets()} == {*SET_UP, "cli"}


@pytest.mark.parametrize("needs", SET_UP)
def test_the_snippet_runs(needs, tmp_path):
    """It runs, and leaves at least one checkpoint of the run that it names."""
    text = next(text for found, _, text in snippets() if found == needs)

    run([sys.executable, "-c", SET_UP[needs] + text], tmp_path)

    assert list((tmp_path / "checkpoints/runs/mnist/manifests").glob("*.json"))


def test_the_commands_run(tmp_path):
    """Each `ckpt` line of the README runs on the store that its PyTorch snippet leaves."""
    texts = {needs: text for needs, _, text in snippets()}
    run([sys.executable, "-c", SET_UP["torch"] + texts["torch"]], tmp_path)

    for line in texts["cli"].splitlines():
        words = shlex.split(line, comments=True)
        assert words[0] == "ckpt"
        run([sys.executable, "-m", "ckpt_tracker", *words[1:]], tmp_path)


def test_make_targets_named_in_the_readme_exist():
    """`make demo` and `make test` are in the Makefile."""
    makefile = (README.parent / "Makefile").read_text()
    named = set(re.findall(r"^make ([\w-]+)", README.read_text(), re.MULTILINE))

    assert named == {"demo", "test"}
    assert all(f"\n{name}:" in makefile for name in named)


def test_what_it_costs_is_what_was_measured():
    """Each line of figures is one of the results that `make bench` wrote."""
    section = README.read_text().partition("## What it costs")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    results = (README.parent / "benchmarks" / "RESULTS.md").read_text().splitlines()
    assert len(lines) > 5
    assert [line for line in lines if line not in results] == []
