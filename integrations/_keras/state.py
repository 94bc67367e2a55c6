"""A Keras model and its optimizers as sections of a checkpoint, and back. Variables are stored by path."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from ckpt_tracker.errors import StateMismatch
from ckpt_tracker.integrations._keras.match import Array, match, unique
from ckpt_tracker.integrations._keras.values import as_numpy, quietly


@dataclass(frozen=True)
class TorchBuffer:
    """A buffer of a wrapped torch module, which Keras doesn't count among its variables."""

    path: str
    value: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """As for a variable."""
        return tuple(self.value.shape)

    @property
    def dtype(self) -> str:
        """As for a variable."""
        return str(keras.backend.standardize_dtype(self.value.dtype))

    def assign(self, array: Array) -> None:
        """Overwrites it in place."""
        self.value.copy_(keras.ops.convert_to_tensor(array))


class ModelState:
    """One model with what trains it, over one fit."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._paths: dict[str, list[str]] = {}
        self._architecture: str | None = None

    def capture(self) -> dict[str, Any]:
        """The sections `model`, `optimizer`, `architecture`; `optimizers` where the model holds more than one."""
        names = [name for name, _ in self._optimizers()]
        optimizers = [self._section(section, each.variables) for section, each in self._optimizer_sections()]
        state = {
            "model": self._section("model", model_variables(self.model)),
            "optimizer": optimizers[0] if optimizers else None,
            "architecture": self._describe(),
        }
        if len(optimizers) > 1:
            state["optimizers"] = dict(zip(names[1:], optimizers[1:], strict=True))
        return state

    def restore(self, state: Mapping[str, Any], *, ref: str, optimizers: bool = True) -> None:
        """Assigns every variable. Raises StateMismatch, with nothing changed, where one does not fit."""
        self._build(state, ref)
        stored = {"model": state["model"]}
        live = {"model": model_variables(self.model)}
        if optimizers:
            stored["optimizer"] = state["optimizer"] or {}
            stored.update((f"optimizers.{name}", each) for name, each in state.get("optimizers", {}).items())
            live.update((section, optimizer.variables) for section, optimizer in self._optimizer_sections())
        matched = [
            pair
            for section in {**stored, **live}
            for pair in match(section, stored.get(section, {}), live.get(section, []), ref)
        ]
        for variable, array in matched:
            variable.assign(array)
        self._paths = {section: list(arrays) for section, arrays in stored.items()}
        self._architecture = state["architecture"]["json"]

    def step(self) -> int:
        """Optimizer steps done; of several optimizers, by the one that did most."""
        done = [optimizer.iterations for _, optimizer in self._optimizers()]
        # with accumulation it is not a variable, but a tensor
        values = (each.value if isinstance(each, keras.Variable) else each for each in done)
        return max((int(as_numpy(each)) for each in values), default=0)

    def inner_optimizers(self) -> list[Any]:
        """The optimizers, without those that only scale the loss."""
        return [_inner(each) for _, each in self._optimizers()]

    def applications(self) -> int:
        """Gradients that an optimizer was given; several are one step where they are accumulated."""
        counters = (getattr(each, "_iterations", each.iterations) for each in self.inner_optimizers())
        return max((int(as_numpy(each.value)) for each in counters), default=0)

    def accumulation(self) -> int:
        """Batches to an optimizer step."""
        counts = (getattr(each, "gradient_accumulation_steps", None) for each in self.inner_optimizers())
        return next(counts, None) or 1

    def synchronize(self) -> None:
        """Gives the variables their values inside an epoch too, where JAX keeps them elsewhere."""
        synchronize = getattr(self.model, "jax_state_sync", None)
        if synchronize is not None:
            synchronize()

    def metrics(self) -> dict[str, Array]:
        """What the metrics of the epoch under way have summed up."""
        return self._section("metrics", self.model.metrics_variables)

    def restore_metrics(self, stored: Mapping[str, Array], *, ref: str) -> None:
        """Assigns the metrics' variables. Raises StateMismatch."""
        for variable, array in match("metrics", stored, self.model.metrics_variables, ref):
            variable.assign(array)
        self._paths["metrics"] = list(stored)

    def build_metrics(self, batch: Any) -> None:
        """TensorFlow leaves that to the first batch too, and they are needed before one is trained on."""
        compiled = getattr(self.model, "_compile_metrics", None), getattr(self.model, "_compile_loss", None)
        if any(each is not None and not each.built for each in compiled):
            self.model._symbolic_build(data_batch=batch)

    def variable_ids(self) -> frozenset[int]:
        """The ids of everything that the sections hold."""
        held = [optimizer.variables for _, optimizer in self._optimizers()]
        return frozenset(id(each) for each in sum(held, list(self.model.variables)))

    def _section(self, name: str, variables: Sequence[Any]) -> dict[str, Array]:
        paths = self._paths.get(name, [])
        if len(paths) != len(variables):
            paths = self._paths[name] = unique([each.path for each in variables])
        return {path: as_numpy(each.value) for path, each in zip(paths, variables, strict=True)}

    def _optimizers(self) -> list[tuple[str, Any]]:
        """The compiled optimizer first; then those that a model with its own train_step keeps in attributes."""
        compiled = getattr(self.model, "optimizer", None)
        found = [("optimizer", compiled)] if isinstance(compiled, keras.optimizers.Optimizer) else []
        for name, value in sorted(vars(self.model).items()):
            if isinstance(value, keras.optimizers.Optimizer) and value is not compiled:
                found.append((name, value))
        return found

    def _optimizer_sections(self) -> list[tuple[str, Any]]:
        return [
            (f"optimizers.{name}" if number else "optimizer", optimizer)
            for number, (name, optimizer) in enumerate(self._optimizers())
        ]

    def _describe(self) -> dict[str, Any]:
        text = _architecture(self.model)
        kept = self._architecture
        if kept is None or text is None or _without_numbers(kept) != _without_numbers(text):
            self._architecture = text
        positions = {id(variable): n for n, variable in enumerate(self.model.variables)}
        return {
            "json": self._architecture,
            "build_config": self.model.get_build_config(),
            "trained": {
                name: [positions.get(id(each)) for each in _trained_by(optimizer)]
                for name, optimizer in self._optimizers()
            },
        }

    def _build(self, state: Mapping[str, Any], ref: str) -> None:
        """TensorFlow leaves it to the first batch to make the variables; they are needed before."""
        architecture = state["architecture"]
        if not self.model.built and architecture["build_config"]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # the error below says it better
                self.model.build_from_config(architecture["build_config"])
        # a model that was built through its call() has its variables, and doesn't count as built
        if not self.model.built and len(model_variables(self.model)) != len(state["model"]):
            raise StateMismatch(
                f"{ref} can't be restored into the model {self.model.name!r}, which is not built yet: "
                "call model.build(input_shape), or the model on a batch, before fit"
            )
        variables = self.model.variables
        for name, optimizer in self._optimizers():
            positions = architecture["trained"].get(name)
            if not optimizer.built and positions:
                known = all(n is not None and n < len(variables) for n in positions)
                trained = [variables[n] for n in positions] if known else None
                optimizer.build(trained or self.model.trainable_variables)


def model_variables(model: Any) -> list[Any]:
    """Weights, moments of normalisation, seed generators, and buffers of wrapped torch modules."""
    return [*model.variables, *_torch_buffers(model)]


def _torch_buffers(model: Any) -> list[TorchBuffer]:
    wrapper = getattr(keras.layers, "TorchModuleWrapper", None)
    if wrapper is None or keras.backend.backend() != "torch":
        return []
    return [
        TorchBuffer(f"{layer.path}/{name}", buffer)
        for layer in _layers(model)
        if isinstance(layer, wrapper)
        for name, buffer in layer.module.named_buffers()
    ]


def _layers(layer: Any) -> list[Any]:
    """A layer and all below it. Public attributes stop at the first nesting, hence the guarded private one."""
    flatten = getattr(layer, "_flatten_layers", None)
    return list(flatten()) if flatten is not None else [layer, *getattr(layer, "layers", ())]


def _trained_by(optimizer: Any) -> Sequence[Any]:
    return getattr(_inner(optimizer), "_trainable_variables", None) or ()


def _inner(optimizer: Any) -> Any:
    """The optimizer that another one scales the loss for."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def _architecture(model: Any) -> str | None:
    """The model's JSON without how it was compiled; None for a model that only its own code can make."""
    try:
        with quietly():
            config = json.loads(model.to_json())
    except Exception:  # get_config is the user's code, and may raise anything
        return None
    config.pop("compile_config", None)
    text = json.dumps(config)
    return None if "__lambda__" in text else text


def _without_numbers(architecture: str) -> str:
    """Equal for two models that one script made: without automatic numbers of layers, and drawn seeds."""
    return re.sub(r'"seed": \d+', '"seed": null', re.sub(r'(_\d+)+"', '"', architecture))
