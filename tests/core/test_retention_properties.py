"""Laws of retention that hold for every policy over every history, tried with hypothesis."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timedelta, timezone

from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt_tracker.records import CheckpointRecord
from ckpt_tracker.retention import Best, Every, Last, Retention, Tagged, Within, decide, parse

NOW = datetime(2026, 11, 21, 12, tzinfo=timezone.utc)
SETTINGS = settings(deadline=None, max_examples=100, derandomize=True)

counts = st.integers(1, 6)
modes = st.sampled_from(["min", "max"])
names = st.sampled_from(["loss", "acc"])
values = st.one_of(st.floats(-2, 2), st.sampled_from([0.0, 0.5, math.nan, math.inf, -math.inf]))
policies = st.one_of(
    counts.map(Last),
    st.builds(Best, counts, names, modes),
    counts.map(lambda count: Every(epochs=count)),
    counts.map(lambda count: Every(steps=count)),
    st.builds(Within, hours=st.floats(0.1, 50), one_per=st.sampled_from([None, "hour", "day", "week"])),
    st.just(Tagged()),
)
unions = st.lists(policies, min_size=1, max_size=4)
sizes = st.integers(1, 60)


def _join(parts: list[Retention]) -> Retention:
    joined = parts[0]
    for part in parts[1:]:
        joined = joined | part
    return joined


def _with_weights(flags: list[bool], parts: list[Retention]) -> list[Retention]:
    return [part.weights_only() if flag else part for flag, part in zip(flags, parts, strict=False)]


mixed = st.builds(_with_weights, st.lists(st.booleans(), min_size=4, max_size=4), unions)
"""Some of them keep weights only."""
retentions = st.lists(
    st.one_of(mixed.map(_join), st.builds(lambda parts, size: _join(parts).capped(size), mixed, sizes)),
    min_size=1,
    max_size=3,
).map(_join)
"""Anything: unions of policies and of capped unions."""


@st.composite
def histories(draw: st.DrawFn) -> list[CheckpointRecord]:
    """One run's checkpoints, with gaps in versions, repeated epochs and missing metrics."""
    records = []
    version, age = 0, timedelta(hours=draw(st.floats(0, 60)))
    for _ in range(draw(st.integers(0, 12))):
        version += draw(st.integers(1, 3))
        age -= timedelta(minutes=draw(st.integers(0, 300)))
        records.append(
            CheckpointRecord(
                run="r",
                version=version,
                epoch=draw(st.one_of(st.none(), st.integers(0, 20))),
                step=draw(st.one_of(st.none(), st.integers(0, 200))),
                metrics=draw(st.dictionaries(names, values)),
                created_at=NOW - age,
                digest="",
                nbytes=draw(st.integers(0, 20)),
                stored_bytes=0,
                sections=("model", "optimizer"),
                tags=draw(st.sampled_from([(), (), ("paper",)])),
                pinned=draw(st.sampled_from([False, False, False, True])),
            )
        )
    return records


def _kept(keep: Retention, records: list[CheckpointRecord]) -> set[int]:
    return {each.checkpoint.version for each in decide(keep, records, now=NOW) if each.keep}


@SETTINGS
@given(parts=unions, more=policies, records=histories())
def test_adding_a_policy_never_removes_more(
    parts: list[Retention], more: Retention, records: list[CheckpointRecord]
) -> None:
    """`|` keeps what either side keeps."""
    both = _kept(_join(parts) | more, records)
    assert both == _kept(_join(parts), records) | _kept(more, records)


@SETTINGS
@given(parts=unions, records=histories())
def test_the_order_of_a_union_does_not_matter(parts: list[Retention], records: list[CheckpointRecord]) -> None:
    """Nor does how it was joined."""
    assert _kept(_join(parts), records) == _kept(_join(parts[::-1]), records)


@SETTINGS
@given(parts=unions, records=histories())
def test_planning_twice_gives_the_same(parts: list[Retention], records: list[CheckpointRecord]) -> None:
    """A plan depends on the records and the moment alone."""
    keep = _join(parts)
    assert decide(keep, records, now=NOW) == decide(keep, records[::-1], now=NOW)


@SETTINGS
@given(parts=st.lists(policies, min_size=1), records=histories())
def test_what_a_plan_keeps_it_keeps_again(parts: list[Retention], records: list[CheckpointRecord]) -> None:
    """Applied, and planned once more, nothing else goes."""
    keep = _join(parts)
    kept = _kept(keep, records)
    assert _kept(keep, [each for each in records if each.version in kept]) == kept


@SETTINGS
@given(count=counts, name=names, mode=modes, records=histories())
def test_best_is_stable(count: int, name: str, mode: str, records: list[CheckpointRecord]) -> None:
    """Also for Best itself: removing what is not among the best changes nothing among them."""
    keep = Best(count, name, mode)  # type: ignore[arg-type]
    kept = _kept(keep, records)
    assert _kept(keep, [each for each in records if each.version in kept]) == kept


@SETTINGS
@given(parts=unions, records=histories())
def test_what_is_kept_has_a_reason_and_what_is_removed_at_most_why_it_is_not_ranked(
    parts: list[Retention], records: list[CheckpointRecord]
) -> None:
    """That is what keeping means."""
    decisions = decide(_join(parts), records, now=NOW)
    assert all(each.reasons for each in decisions if each.keep)
    assert all(reason.startswith("not ranked: ") for each in decisions if not each.keep for reason in each.reasons)
    assert [each.checkpoint.version for each in decisions] == sorted(each.version for each in records)


@SETTINGS
@given(parts=unions, records=histories())
def test_tagged_checkpoints_always_stay(parts: list[Retention], records: list[CheckpointRecord]) -> None:
    """Whatever the policy; so do pinned ones."""
    assert {each.version for each in records if each.tags or each.pinned} <= _kept(_join(parts), records)


@SETTINGS
@given(count=counts, name=names, mode=modes, records=histories())
def test_best_never_keeps_what_is_not_finite(count: int, name: str, mode: str, records: list[CheckpointRecord]) -> None:
    """And never leaves a better one out than one it keeps."""
    untagged = [each for each in records if not each.tags and not each.pinned]
    kept = _kept(Best(count, name, mode), untagged)  # type: ignore[arg-type]
    ranked = [each for each in untagged if name in each.metrics]
    inside = [each.metrics[name] for each in ranked if each.version in kept]
    outside = [each.metrics[name] for each in ranked if each.version not in kept]
    assert all(map(math.isfinite, inside))
    sign = 1 if mode == "min" else -1
    assert all(sign * worse >= sign * better for better in inside for worse in outside if math.isfinite(worse))


def _whole(keep: Retention, records: list[CheckpointRecord]) -> set[int]:
    decisions = decide(keep, records, now=NOW)
    return {each.checkpoint.version for each in decisions if each.keep and not each.weights_only}


@SETTINGS
@given(keep=retentions, more=retentions, records=histories())
def test_adding_a_retention_of_any_kind_takes_nothing_more(
    keep: Retention, more: Retention, records: list[CheckpointRecord]
) -> None:
    """Neither a checkpoint nor a part of one, also where caps and weights are among them."""
    assert _kept(keep | more, records) == _kept(keep, records) | _kept(more, records)
    assert _whole(keep | more, records) == _whole(keep, records) | _whole(more, records)


@SETTINGS
@given(parts=mixed, size=sizes, records=histories())
def test_a_cap_is_held(parts: list[Retention], size: int, records: list[CheckpointRecord]) -> None:
    """What is kept beside tags and pins fits; and nothing is dropped where all would fit."""
    keep = _join(parts)
    wanted, kept = _kept(keep, records), _kept(keep.capped(size), records)
    nbytes = {each.version: each.nbytes for each in records}
    marked = {each.version for each in records if each.tags or each.pinned}
    total = sum(nbytes[version] for version in kept)
    assert total <= max(size, sum(nbytes[version] for version in marked))
    assert kept <= wanted
    assert kept == wanted or sum(nbytes[version] for version in wanted) > size


@SETTINGS
@given(parts=mixed, size=sizes, less=sizes, records=histories())
def test_a_smaller_cap_keeps_nothing_that_a_larger_one_drops(
    parts: list[Retention], size: int, less: int, records: list[CheckpointRecord]
) -> None:
    """So the order of dropping does not depend on the cap."""
    keep = _join(parts)
    assert _kept(keep.capped(min(size, less)), records) <= _kept(keep.capped(max(size, less)), records)


@SETTINGS
@given(parts=mixed, size=sizes, records=histories())
def test_the_order_of_what_is_capped_does_not_matter(
    parts: list[Retention], size: int, records: list[CheckpointRecord]
) -> None:
    """Nor does how it was joined."""
    one, other = _join(parts).capped(size), _join(parts[::-1]).capped(size)
    assert (_kept(one, records), _whole(one, records)) == (_kept(other, records), _whole(other, records))


@SETTINGS
@given(
    parts=st.lists(policies, min_size=1, max_size=4),
    size=sizes,
    records=histories(),
)
def test_what_a_capped_plan_keeps_it_keeps_again(
    parts: list[Retention], size: int, records: list[CheckpointRecord]
) -> None:
    """Applied, and planned once more, nothing else goes."""
    keep = _join(parts).capped(size)
    kept = _kept(keep, records)
    assert _kept(keep, [each for each in records if each.version in kept]) == kept


@SETTINGS
@given(keep=retentions, records=histories())
def test_what_is_stripped_is_not_stripped_again(keep: Retention, records: list[CheckpointRecord]) -> None:
    """A checkpoint that has its weights only has nothing more to give up."""
    lost = {each.checkpoint.version for each in decide(keep, records, now=NOW) if each.weights_only}
    after = [replace(each, sections=("model",)) if each.version in lost else each for each in records]
    assert not any(each.weights_only for each in decide(keep, after, now=NOW))
    assert _kept(keep, after) == _kept(keep, records)


@SETTINGS
@given(keep=retentions, records=histories().filter(bool))
def test_the_newest_of_a_tracker_always_stays_whole(keep: Retention, records: list[CheckpointRecord]) -> None:
    """Whatever the retention: there must be one to resume from."""
    newest = records[-1]
    decision = decide(keep, records, now=NOW, always={(newest.run, newest.version): "newest"})[-1]
    assert (decision.keep, decision.weights_only, "newest" in decision.reasons) == (True, False, True)


@SETTINGS
@given(keep=retentions)
def test_every_retention_writes_itself_as_text(keep: Retention) -> None:
    """And is read as what it was."""
    assert parse(str(keep)) == keep
