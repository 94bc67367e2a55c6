"""What can be handed to the PyTorch tracker, and what comes back of it."""

import pytest
import torch
from torch import nn
from torch_parts import parts, step, train

from ckpt_tracker import Store
from ckpt_tracker.errors import InvalidOption, StateMismatch
from ckpt_tracker.integrations.torch import CheckpointTracker


@pytest.fixture
def store(tmp_path):
    """A store, closed at the end."""
    with Store(tmp_path / "checkpoints") as opened:
        yield opened


def keep(store, **objects):
    """Saves objects as they are."""
    with CheckpointTracker(store, "run", **objects) as tracker:
        for _ in tracker.epochs(1):
            pass


def test_a_model_that_does_not_fit_is_shown_beside_the_checkpoint(store):
    """Names and shapes of both sides are in the message, and the run can be used afterwards."""
    train(store, 1)

    with pytest.raises(StateMismatch, match=r"weight: \[5, 2\] in the script, \[3, 2\] in the checkpoint"):
        CheckpointTracker(store, "run", **parts(width=5))

    assert train(store, 2)[0] == [1]


def test_other_objects_than_the_checkpoint_holds_are_refused(store):
    """A forgotten scheduler is no silent difference."""
    train(store, 1)
    objects = parts()
    scheduler = torch.optim.lr_scheduler.StepLR(objects["optimizer"], 1)

    with pytest.raises(StateMismatch, match="scheduler"):
        CheckpointTracker(store, "run", scheduler=scheduler, **objects)


def test_dicts_and_generators_are_objects_too(store):
    """A GAN's two models and optimizers, and generators of torch and NumPy, come back each by its name."""
    import numpy as np

    def build():
        models = {"g": nn.Linear(2, 2), "d": nn.Linear(2, 1)}
        optimizers = [torch.optim.Adam(each.parameters()) for each in models.values()]
        extra = {"noise": torch.Generator().manual_seed(3), "order": np.random.default_rng(3)}
        return {"model": models, "optimizer": optimizers, "extra": extra}

    first = build()
    with CheckpointTracker(store, "gan", **first) as tracker:
        for _ in tracker.epochs(1):
            for model, optimizer in zip(first["model"].values(), first["optimizer"], strict=True):
                step(model, optimizer)
            torch.rand(1, generator=first["extra"]["noise"]), first["extra"]["order"].random()

    second = build()
    with CheckpointTracker(store, "gan", **second) as tracker:
        assert list(tracker.epochs(1)) == []

    assert torch.equal(first["model"]["d"].weight, second["model"]["d"].weight)
    assert torch.equal(
        torch.rand(4, generator=first["extra"]["noise"]), torch.rand(4, generator=second["extra"]["noise"])
    )
    assert first["extra"]["order"].random() == second["extra"]["order"].random()
    assert store["gan@last"].step == 1


def test_an_object_without_state_is_refused_by_name(store):
    """What can't be saved is said before the training starts."""
    with pytest.raises(InvalidOption, match=r"extra\.fn is a function"):
        CheckpointTracker(store, "run", extra={"fn": lambda: None})


def test_a_frozen_encoder_is_stored_once(store):
    """Ten epochs of a model whose encoder is frozen add only what changed, small biases of the encoder included."""
    encoder = nn.Sequential(*(nn.Linear(200, 200) for _ in range(4))).requires_grad_(False)
    model = nn.Sequential(encoder, nn.Linear(200, 1))
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
    with CheckpointTracker(store, "frozen", model=model, optimizer=optimizer, keep="last:10") as tracker:
        for _ in tracker.epochs(10):
            optimizer.zero_grad()
            model(torch.ones(1, 200)).sum().backward()
            optimizer.step()

    head = sum(each.numel() * 4 for each in model[1].parameters())
    random_states = 2500 + 2500 + 5056  # Python's, NumPy's and torch's
    assert all(each.stored_bytes < head + random_states + 2000 for each in store.run("frozen").checkpoints()[1:])


def test_tied_weights_come_back_tied(store):
    """One storage under two names is one tensor after loading too."""
    model = nn.ModuleDict({"embed": nn.Embedding(4, 3), "head": nn.Linear(3, 4, bias=False)})
    model["head"].weight = model["embed"].weight
    with CheckpointTracker(store, "tied", model=model) as tracker:
        for _ in tracker.epochs(1):
            pass

    state = store["tied@last"].load("model")

    assert state["head.weight"] is state["embed.weight"]


def net():
    """A small network."""
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def inner_compiled():
    """One layer of it is compiled."""
    model = net()
    model[0] = torch.compile(model[0], backend="eager")
    return model


@pytest.fixture
def distributed(tmp_path):
    """A training of one process that could be one of several."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


WRAPPED = {
    "DataParallel": lambda: nn.DataParallel(net()),
    "DistributedDataParallel": lambda: nn.parallel.DistributedDataParallel(net()),
    "compile": lambda: torch.compile(net(), backend="eager"),
    "compile in DataParallel": lambda: nn.DataParallel(torch.compile(net(), backend="eager")),
    "compile of a layer": inner_compiled,
}


@pytest.mark.usefixtures("distributed")
@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapped_model_restores_into_a_bare_one_and_back(name, store):
    """What `DataParallel` and `torch.compile` put before names is no part of the state."""
    wrapped, bare, again = WRAPPED[name](), net(), WRAPPED[name]()
    keep(store, model=wrapped)

    with CheckpointTracker(store, "run", model=bare) as tracker:
        for _ in tracker.epochs(2):
            nn.init.ones_(bare[0].weight)
    CheckpointTracker(store, "run", model=again).close()

    weights = [[weight.cpu() for weight in each.parameters()] for each in (wrapped, bare, again)]
    assert all(torch.equal(one, other) for one, other in zip(weights[0][1:], weights[1][1:], strict=True))
    assert all(torch.equal(one, other) for one, other in zip(weights[1], weights[2], strict=True))
    assert list(store["run@last"].load("model")) == list(net().state_dict())


def test_an_average_of_a_wrapped_model_restores_into_one_of_a_bare_one(store):
    """AveragedModel copies the wrapper with the model."""
    average = torch.optim.swa_utils.AveragedModel(nn.DataParallel(net()))
    keep(store, ema=average)
    bare = torch.optim.swa_utils.AveragedModel(net())
    CheckpointTracker(store, "run", ema=bare).close()

    assert torch.equal(bare.module[0].weight, average.module.module[0].weight.cpu())


def test_what_an_optimizer_keeps_in_another_type_stays_exact(store):
    """torch would cast float32 moments of bfloat16 weights to bfloat16 when it loads them."""

    class Precise(torch.optim.SGD):
        def step(self, closure=None):
            for weight in self.param_groups[0]["params"]:
                self.state[weight]["master"] = torch.full((3,), 1.0001)

    def build():
        weight = nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
        return weight, Precise([weight], lr=0.1)

    weight, optimizer = build()
    with CheckpointTracker(store, "run", optimizer=optimizer) as tracker:
        for _ in tracker.epochs(1):
            optimizer.step()
    other, restored = build()
    CheckpointTracker(store, "run", optimizer=restored).close()

    assert torch.equal(restored.state[other]["master"], optimizer.state[weight]["master"])


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_are_saved_only_where_they_wait_for_a_step(store, set_to_none):
    """A GAN's or an accumulation's leftover gradients are state; those that were used, or set to zero, are not."""
    objects = parts()
    model, optimizer = objects["model"], objects["optimizer"]
    sections = []
    with CheckpointTracker(store, "run", **objects) as tracker:
        for epoch in tracker.epochs(3):
            optimizer.zero_grad(set_to_none=set_to_none)
            model(torch.ones(1, 2)).sum().backward()
            if epoch != 1:
                optimizer.step()
            if epoch == 2:
                optimizer.zero_grad(set_to_none=set_to_none)
    sections = [each.sections for each in store.run("run").checkpoints()]

    assert ["gradients" in each for each in sections] == [False, True, False]


def test_each_optimizers_waiting_gradients_come_back(store):
    """Of two optimizers one accumulates beyond the epoch's end."""

    def build():
        models = [nn.Linear(2, 1), nn.Linear(2, 1)]
        optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in models]
        return models, optimizers

    models, optimizers = build()
    with CheckpointTracker(store, "run", model=models, optimizer=optimizers) as tracker:
        for _ in tracker.epochs(1):
            step(models[0], optimizers[0])
            models[1](torch.ones(1, 2)).sum().backward()
    again, others = build()
    CheckpointTracker(store, "run", model=again, optimizer=others).close()

    assert again[0].weight.grad is None
    assert torch.equal(again[1].weight.grad, models[1].weight.grad)


def test_python_generators_are_objects(store):
    """`random.Random` comes back too, and a generator that a module holds needs no word."""
    import random

    class Drop(nn.Module):
        def __init__(self):
            super().__init__()
            self.chance = random.Random()

    model, own = Drop(), random.Random()
    keep(store, model=model, extra={"own": own})
    other, restored = Drop(), random.Random()
    with CheckpointTracker(store, "run", model=other, extra={"own": restored}) as tracker:
        next(tracker.epochs(2))
        assert (other.chance.random(), restored.random()) == (model.chance.random(), own.random())
