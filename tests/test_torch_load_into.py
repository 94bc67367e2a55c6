"""A checkpoint is read straight into a model and its optimizer."""

import torch
from torch import nn

from ckpt_tracker import Store


def build(seed):
    """A model with tied weights and BatchNorm after a step of its optimizer."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1 / seed)
    model(torch.randn(4, 8)).square().mean().backward()
    optimizer.step()
    return model, optimizer


def state(model, optimizer):
    """What is saved."""
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def test_a_live_model_and_optimizer_are_restored_in_place(tmp_path):
    """Their tensors keep their memory and get the checkpoint's bytes; `load_state_dict` brings the rest."""
    model, optimizer = build(1)
    with Store(tmp_path / "store") as store:
        saved = store.run("r").save(state(model, optimizer)).wait()
        other, its_optimizer = build(2)
        places = [each.data_ptr() for each in (*other.parameters(), *its_optimizer.state[other[0].weight].values())]
        loaded = saved.load(into=state(other, its_optimizer))
        other.load_state_dict(loaded["model"])
        its_optimizer.load_state_dict(loaded["optimizer"])
        assert store.run("other").save(state(other, its_optimizer)).digest == saved.digest

    kept = [each.data_ptr() for each in (*other.parameters(), *its_optimizer.state[other[0].weight].values())]
    assert kept == places
    assert its_optimizer.param_groups[0]["lr"] == 0.1


def test_tensors_that_are_not_laid_out_as_saved_are_left_to_load_state_dict(tmp_path):
    """Channels last, and a conjugated view: the result has the values, and the live ones are as they were."""
    live = {
        "image": torch.zeros(1, 3, 4, 4).to(memory_format=torch.channels_last),
        "conjugated": torch.zeros(3, dtype=torch.complex64).conj(),
    }
    with Store(tmp_path / "store") as store:
        wanted = {"image": torch.rand(1, 3, 4, 4), "conjugated": torch.rand(3, dtype=torch.complex64)}
        loaded = store.run("r").save({"model": wanted}).wait().load("model", into=live)
    assert all(torch.equal(loaded[name], wanted[name]) for name in wanted)
    assert not any(each.any() for each in live.values())
