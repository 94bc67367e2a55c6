"""The evidence of several trainings side by side: what lived in each of them, and was not in the same state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ckpt_tracker.exact_resume.saved import Key, Saved

Group = list[dict[str, Any]]


@dataclass(frozen=True)
class Suspect:
    """An object whose state is another one at the same checkpoint."""

    kind: str
    type: str
    holder: str
    captured: bool
    """The checkpoint holds its state."""
    expected: Mapping[str, Any]
    found: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.type} {self.holder}".rstrip()


def suspects(key: Key, first: Saved, second: Saved, found: Saved) -> tuple[Suspect, ...]:
    """What the first two trainings have alike at a checkpoint, and `found` has not."""
    expected, repeated, other = (_grouped(each.evidence(key)["objects"]) for each in (first, second, found))
    return tuple(
        _suspect(group[0], other[name][0])
        for name, group in expected.items()
        if _states(group) == _states(repeated.get(name, [])) and _differ(group, other.get(name, []))
    )


def unsteady(key: Key, first: Saved, second: Saved) -> tuple[Suspect, ...]:
    """What two trainings do not have alike at a checkpoint, of what changes while they train.

    Nobody needs to seed a generator that nobody draws from.
    """
    expected, other = (_grouped(each.evidence(key)["objects"]) for each in (first, second))
    begun, ended = (_grouped(first.evidence(each)["objects"]) for each in (first.keys[0], first.keys[-1]))
    return tuple(
        _suspect(group[0], other[name][0])
        for name, group in expected.items()
        if _differ(group, other.get(name, [])) and _differ(begun.get(name, []), ended.get(name, []))
    )


def variables(key: Key, first: Saved, second: Saved, found: Saved) -> dict[str, tuple[Any, Any]]:
    """The script's own numbers that the first two trainings have alike at a checkpoint, and `found` has not."""
    expected, repeated, other = (each.evidence(key)["variables"] for each in (first, second, found))
    return {
        name: (value, other[name])
        for name, value in expected.items()
        if name in other and repeated.get(name) == value != other[name]
    }


def _grouped(objects: Sequence[dict[str, Any]]) -> dict[tuple[str, str, str], Group]:
    """Objects by what they are called: of several of one name none can be told from the other."""
    groups: dict[tuple[str, str, str], Group] = {}
    for each in objects:
        groups.setdefault((each["kind"], each["type"], each["holder"]), []).append(each)
    return groups


def _states(group: Group) -> Counter[str]:
    return Counter(each["state"] for each in group)


def _differ(one: Group, other: Group) -> bool:
    """Not the same states; where one has more of them, garbage not collected yet, none in common."""
    if not one or not other:
        return False
    if len(one) == len(other):
        return _states(one) != _states(other)
    return not _states(one) & _states(other)


def _suspect(expected: dict[str, Any], found: dict[str, Any]) -> Suspect:
    return Suspect(
        expected["kind"],
        expected["type"],
        expected["holder"],
        expected["captured"] and found["captured"],
        expected["shown"],
        found["shown"],
    )
