"""Whatever is nested in whatever: states made by hypothesis come back, and equal ones have equal digests."""

from __future__ import annotations

import collections
import math
import random
from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy as npst
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt_tracker.disk.jsonfile import dump, load
from ckpt_tracker.files.manifest import digest
from ckpt_tracker.files.objects import blake3
from ckpt_tracker.records import TensorEntry
from ckpt_tracker.state.tree import decode, encode

SETTINGS = settings(deadline=None, max_examples=150, derandomize=True)

texts = st.text(st.characters(codec=None), max_size=8)
names = st.text(st.characters(codec="utf-8"), max_size=8).filter(lambda text: text.isprintable() and text[:1] != "$")
hashable = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    texts,
    st.binary(max_size=8),
    st.tuples(st.integers(), texts),
)
dtypes = st.one_of(npst.boolean_dtypes(), npst.integer_dtypes(), npst.floating_dtypes(), npst.complex_number_dtypes())
arrays = npst.arrays(dtypes, npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
leaves = st.one_of(
    hashable,
    st.floats(),
    st.complex_numbers(),
    st.datetimes(),
    st.timedeltas(),
    dtypes,
    npst.from_dtype(np.dtype("float32")),
    arrays,
)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(inner, max_size=4)
    dicts = st.dictionaries(st.one_of(texts, hashable), inner, max_size=4)
    return st.one_of(
        lists,
        lists.map(tuple),
        lists.map(lambda each: collections.deque(each, maxlen=9)),
        dicts,
        dicts.map(collections.OrderedDict),
        dicts.map(lambda each: collections.defaultdict(list, each)),
        st.sets(st.integers(), max_size=4),
        st.frozensets(texts, max_size=4),
    )


states = st.recursive(leaves, _containers, max_leaves=25)


def _through_disk(state: object) -> Any:
    """As a save and a load do: JSON text, and the tensors' bytes."""
    encoded = encode(state)
    copies = []
    for leaf in encoded.leaves:
        buffer = np.empty(leaf.spec.nbytes, np.uint8)
        leaf.kind.copy_into(leaf.tensor, buffer)
        copies.append(leaf.kind.build(leaf.spec, buffer))
    return decode(load(dump(encoded.skeleton), name="tree"), copies.__getitem__)


def _digest(state: object) -> str:
    encoded = encode({"model": state})
    entries = []
    for leaf in encoded.leaves:
        buffer = np.empty(leaf.spec.nbytes, np.uint8)
        leaf.kind.copy_into(leaf.tensor, buffer)
        entries.append(TensorEntry(leaf.spec, blake3(memoryview(buffer)).hexdigest(), ()))
    return digest(encoded.skeleton, entries)


@SETTINGS
@given(state=states)
def test_any_nested_state_comes_back(same: Callable[[object, object], bool], state: object) -> None:
    """Type, order and every bit."""
    assert same(state, _through_disk(state))


@SETTINGS
@given(state=states)
def test_a_state_that_came_back_has_the_same_digest(state: object) -> None:
    """Saving what was loaded gives a bit-equal checkpoint."""
    assert _digest(state) == _digest(_through_disk(state))


@SETTINGS
@given(pairs=st.dictionaries(names, leaves, min_size=2, max_size=6), seed=st.integers(0, 1000))
def test_a_dict_has_one_digest_whatever_order_it_was_built_in(pairs: dict[str, object], seed: int) -> None:
    """Names are sorted in the digest: a module's parameters are the same in any order."""
    items = list(pairs.items())
    random.Random(seed).shuffle(items)
    assert _digest(dict(items)) == _digest(pairs)


@SETTINGS
@given(array=arrays.filter(lambda each: each.nbytes > 0), data=st.data())
def test_one_flipped_bit_of_a_tensor_changes_the_digest(array: np.ndarray[Any, Any], data: st.DataObject) -> None:
    """Also where the values compare equal, as -0.0 and 0.0 do."""
    flipped = np.frombuffer(bytearray(array.tobytes()), np.uint8)
    index = data.draw(st.integers(0, flipped.size - 1))
    flipped[index] ^= 1 << data.draw(st.integers(0, 7))
    assert _digest(array) != _digest(flipped.view(array.dtype).reshape(array.shape))


@SETTINGS
@given(first=leaves, second=leaves)
def test_digests_are_equal_only_for_equal_leaves(
    same: Callable[[object, object], bool], first: object, second: object
) -> None:
    """Two leaves have one digest exactly when they are the same in type and every bit."""
    equal = same(first, second) and not _differ_in_sign(first, second)
    assert equal == (_digest(first) == _digest(second))


def _differ_in_sign(first: object, second: object) -> bool:
    """0.0 == -0.0, and yet they are not the same bits."""
    if isinstance(first, float) and isinstance(second, float):
        return math.copysign(1, first) != math.copysign(1, second) and first == second
    return isinstance(first, complex) and repr(first) != repr(second)
