"""What a tf.data.Dataset draws, and from what: the seeds and the variables that the steps of its pipeline hold.

A step that draws by a seed begins anew with each pass. One that draws from a generator, as a layer for augmentation
does, moves that generator's variable on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

_CACHE = "CacheDataset"
_SEEDED_DRAWS = {
    *("RandomUniform", "RandomUniformInt", "RandomStandardNormal", "TruncatedNormal", "RandomShuffle"),
    *("RandomGamma", "RandomPoisson", "RandomPoissonV2", "Multinomial", "ParameterizedTruncatedNormal"),
}
_VARIABLE_DRAWS = {"RngReadAndSkip", "AssignVariableOp", "AssignAddVariableOp"}


def is_tf_dataset(data: object) -> bool:
    """Imports nothing: where TensorFlow isn't loaded there are none."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(data, tensorflow.data.Dataset)


def cached(dataset: Any) -> bool:
    """What comes out of a part of the pipeline in the first pass stays."""
    return any(type(step).__name__ == _CACHE for step in _steps(dataset))


def seeds(dataset: Any) -> list[list[int]] | None:
    """Two numbers for each step that draws by a seed, both 0 where it has none. None where that is hidden."""
    try:
        found = [[int(step._seed), int(step._seed2)] for step in _steps(dataset) if "_seed2" in vars(step)]
        for step in _steps(dataset):
            drawing = (each for each in operations(_graphs(step)) if each.type in _SEEDED_DRAWS)
            found += [[each.get_attr("seed"), each.get_attr("seed2")] for each in drawing]
    except AttributeError:
        return None
    return found


def generators(dataset: Any) -> list[Any]:
    """The variables that drawing moves; a table or a layer's weights are of another type."""
    found = {
        id(variable): variable
        for step in _steps(dataset)
        for graph in _graphs(step)
        for variable in graph.variables
        if variable.dtype.is_integer and variable.shape.rank == 1
    }
    return list(found.values())


def draws_in_parallel(dataset: Any) -> bool:
    """Several calls of one step draw at the same time, so that chance says which sample gets which number."""
    config = sys.modules.get("tensorflow.python.framework.config")
    if config is not None and config.is_op_determinism_enabled():
        return False
    return any(
        each.type in _SEEDED_DRAWS | _VARIABLE_DRAWS
        for step in _steps(dataset)
        if "Parallel" in type(step).__name__
        for each in operations(_graphs(step))
    )


def seeded_draws(graphs: Iterable[Any]) -> set[str]:
    """The types of those operations that draw from a state in TensorFlow's kernels."""
    return _SEEDED_DRAWS & {each.type for each in operations(graphs)}


def operations(graphs: Iterable[Any]) -> Iterator[Any]:
    """All operations in TensorFlow graphs, and in the functions that they call."""
    waiting = list(graphs)
    seen: set[int] = set()
    while waiting:
        graph = waiting.pop()
        if id(graph) not in seen:
            seen.add(id(graph))
            yield from graph.get_operations()
            called = getattr(graph, "_functions", {}).values()
            waiting += [each.graph for each in called if getattr(each, "graph", None) is not None]


def _graphs(step: Any) -> list[Any]:
    functions = (getattr(each, "function", None) for each in vars(step).values())
    graphs = (getattr(each, "graph", None) for each in functions)
    return [each for each in graphs if each is not None]


def _steps(dataset: Any) -> Iterator[Any]:
    """The data set and everything that it is made from."""
    yield dataset
    for each in dataset._inputs():
        yield from _steps(each)
