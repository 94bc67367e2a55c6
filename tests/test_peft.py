"""A LoRA training with the Trainer: what is frozen is stored once, and a restart goes on bit for bit."""

import pytest
import torch
import transformers
from scripts.transformers_training import digests, make_trainer, new, seeded

peft = pytest.importorskip("peft", reason="peft is not installed")

torch.set_num_threads(1)
# peft 0.21 asks under a name that transformers 5.23 is about to give up
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


class Sentences(torch.utils.data.Dataset):
    """Of random words, and which of two kinds they are of; some words are left out at random."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        words = torch.arange(8) * 31 % 97 + index
        return {"input_ids": torch.where(torch.rand(8) < 0.2, 1, words), "labels": torch.tensor(index % 2)}


def lora():
    """A BERT whose weights are frozen, with small matrices beside them that are trained."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 4000, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
    base = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes, num_attention_heads=2))
    config = peft.LoraConfig("SEQ_CLS", r=2, lora_dropout=0.2, target_modules=["query", "value"])
    return peft.get_peft_model(base, config)


def trained(folder, tracker, *callbacks, seed, **args):
    """A training of three epochs."""
    options = {"num_train_epochs": 3, "per_device_train_batch_size": 4, "eval_strategy": "no", "learning_rate": 0.01}
    trainer = make_trainer(folder, tracker, *callbacks, model=lora(), **{**options, **args})
    trainer.train_dataset = Sentences()
    seeded(seed)
    trainer.train()
    return trainer.model


class Interrupt(transformers.TrainerCallback):
    """Ends the training in its second epoch."""

    def on_step_end(self, args, state, control, **_):
        if state.global_step == 9:
            raise KeyboardInterrupt


def test_the_frozen_weights_are_stored_once(tmp_path):
    """Each later checkpoint costs what is trained, and what is too small to lie alone."""
    tracker = new(tmp_path / "store", every=["1 epoch", "2 steps"])
    model = trained(tmp_path, tracker, seed=1)
    first, *others = tracker.run.checkpoints()
    frozen = sum(each.nbytes for each in model.parameters() if not each.requires_grad)

    assert len(others) == 8
    assert first.stored_bytes > frozen
    assert max(each.stored_bytes for each in others) < 0.1 * frozen
    objects = (tmp_path / "store" / "objects").rglob("*")
    assert sum(each.stat().st_size for each in objects if each.is_file()) < 2 * frozen


@pytest.mark.parametrize("every", ["1 epoch", "2 steps"])
def test_a_restart_goes_on_exactly(tmp_path, every):
    """Adapters, optimizer and dropout, from an epoch's end or inside one."""
    whole, tracker = new(tmp_path / "whole", every=every), new(tmp_path / "store", every=every)
    expected = trained(tmp_path, whole, seed=1).state_dict()
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, tracker, Interrupt(), seed=1)
    found = trained(tmp_path, new(tmp_path / "store", every=every), seed=2).state_dict()

    assert digests(tracker) == digests(whole)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
