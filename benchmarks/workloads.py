"""What is trained meanwhile: a GPT like GPT-2 small, the same with most of it frozen, and a tiny one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

VOCABULARY, CONTEXT, WIDTH, LAYERS, HEADS = 50257, 1024, 768, 12, 12
_TOKENS = 32


class Block(nn.Module):
    """Attention and a perceptron, as in GPT-2."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention, self.before_perceptron = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.projection = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.perceptron = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, WIDTH) to the same."""
        heads = self.attention(self.before_attention(x)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.projection(attended.transpose(1, 2).flatten(2))
        return x + self.perceptron(self.before_perceptron(x))


class Gpt(nn.Module):
    """124 million parameters in 148 tensors; the head is tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.after = nn.LayerNorm(WIDTH)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of the next token at each place."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.blocks(self.tokens(tokens) + self.positions(places))
        return functional.linear(self.after(x), self.tokens.weight)


@dataclass
class Training:
    """A model in training: `step` changes every tensor that is not frozen."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]]

    def state(self) -> dict[str, Any]:
        """What is to be saved: the training's own memory."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def step(self) -> None:
        """One step of the optimizer."""
        inputs, targets = next(self.batches)
        loss = functional.cross_entropy(self.model(inputs).flatten(0, -2), targets)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def tensors(self) -> list[torch.Tensor]:
        """All of the state, each once."""
        return list(_tensors(self.state()))

    @property
    def nbytes(self) -> int:
        """Bytes of the state."""
        return sum(each.nbytes for each in self.tensors())


def gpt(*, frozen: bool = False, layers: int = LAYERS) -> Training:
    """Workload A: 1.49 GB of state in 592 tensors. With `frozen` B: 592 MB, of which 142 MB change."""
    torch.manual_seed(0)
    model = Gpt()
    del model.blocks[layers:]
    if frozen:
        model.requires_grad_(False)
        model.blocks[-1].requires_grad_(True)
        if layers > 1:
            model.blocks[-2].perceptron.requires_grad_(True)
    parameters = [each for each in model.parameters() if each.requires_grad]
    training = Training(model, torch.optim.AdamW(parameters, fused=True), _sentences())
    training.step()  # from then on the optimizer has its state
    return training


def small() -> Training:
    """Workload C: 1 MB of state."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 80))
    training = Training(model, torch.optim.AdamW(model.parameters(), fused=True), _vectors())
    training.step()
    return training


def _sentences() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    while True:
        tokens = torch.randint(VOCABULARY, (1, _TOKENS + 1), generator=generator)
        yield tokens[:, :-1], tokens[0, 1:]


def _vectors() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    while True:
        yield torch.randn(64, 256, generator=generator), torch.randint(80, (64,), generator=generator)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
