"""The best of stored history: by one metric, by several, across runs, and in whatever takes a criterion."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from ckpt_tracker import Store
from ckpt_tracker.errors import CheckpointNotFound, InvalidOption
from ckpt_tracker.records import Monitor
from ckpt_tracker.retention import Best, Last, parse
from ckpt_tracker.tracker import Tracker

BALANCED = "0.7*val_acc - 0.3*val_loss"


@pytest.fixture
def trained(store: Store) -> Store:
    """Two runs of four epochs; the second has a metric more, and a NaN."""
    for run, losses, accs in (
        ("a", (0.9, 0.4, 0.3, 0.35), (0.5, 0.9, 0.7, 0.9)),
        ("b", (0.8, 0.2, math.nan, 0.2), (0.4, 0.6, 0.99, 0.6)),
    ):
        for epoch, (loss, acc) in enumerate(zip(losses, accs, strict=True)):
            metrics = {"val_loss": loss, "val_acc": acc, **({"fid": 3.0} if run == "b" else {})}
            store.run(run).save({"model": {"w": np.zeros(epoch + 1)}}, epoch=epoch, metrics=metrics).wait()
    return store


def test_several_metrics_are_weighed(trained: Store) -> None:
    """0.51, 0.40, and 0.525: the last of them."""
    assert trained.run("a").best(BALANCED, mode="max").version == 4
    assert trained.run("a").best("val_acc - 10*val_loss", mode="max").version == 3


def test_a_condition_leaves_only_some(trained: Store) -> None:
    """Of those with a low loss the most accurate."""
    assert trained.run("a").best("val_acc where val_loss < 0.32", mode="max").version == 3
    with pytest.raises(CheckpointNotFound, match=r"can be ranked by .*: val_loss < 0.1 does not hold \(4 of 4\)"):
        trained.run("a").best("val_acc where val_loss < 0.1", mode="max")


def test_ties_and_the_least_difference_are_for_the_caller(trained: Store) -> None:
    """The earlier, unless the later is asked for."""
    run = trained.run("a")
    assert [run.best("val_acc", "max", tie=tie).version for tie in ("first", "last")] == [2, 4]  # type: ignore[arg-type]
    assert run.best("val_loss", "min", min_delta=0.2).version == 2
    for terms in ({"tie": "newest"}, {"min_delta": -1}, {"min_delta": math.nan}, {"min_delta": "0.1"}):
        with pytest.raises(InvalidOption, match=r"tie='newest'|min_delta="):
            run.best("val_loss", "min", **terms)  # type: ignore[arg-type]


def test_a_reference_takes_an_expression(trained: Store) -> None:
    """All between `best:` and the mode."""
    assert trained[f"a@best:{BALANCED}:max"].version == 4
    assert trained["a@best:val_acc where epoch < 3 and val_loss < 0.32:max"].version == 3
    with pytest.raises(InvalidOption, match="no function 'lg'"):
        trained["a@best:lg(val_acc):max"]
    with pytest.raises(
        CheckpointNotFound, match=r"no metric 'val_los'; did you mean 'val_loss' or 'val_acc'\? \(in run 'a'\)"
    ):
        trained["a@best:0.5*val_los:max"]


def test_a_mode_is_never_guessed(trained: Store) -> None:
    """Not for an expression either."""
    with pytest.raises(InvalidOption, match="needs mode='min'"):
        trained.run("a").best(BALANCED)


def test_the_best_of_all_runs(trained: Store) -> None:
    """Of equal ones the first in time; among those that are named."""
    assert trained.best("val_loss", "min").ref == "b@v2"
    assert trained.best("val_loss", "min", tie="last").ref == "b@v4"
    assert trained.best("val_loss", "min", runs=["a"]).ref == "a@v3"
    assert trained.best("val_acc", "max").ref == "b@v3"
    assert trained.best("val_acc where val_loss < 1", "max").ref == "a@v2"
    assert trained.best("fid", "min").ref == "b@v1"


def test_across_runs_an_unknown_metric_is_told(trained: Store) -> None:
    """With the nearest of any run."""
    with pytest.raises(CheckpointNotFound, match=r"no metric 'fit'; did you mean 'fid'\? \(in the runs a, b\)"):
        trained.best("fit", "min")
    with pytest.raises(CheckpointNotFound, match="there is no run 'c'"):
        trained.best("fid", "min", runs=["c"])


def test_across_runs_the_monitor_must_be_common(trained: Store) -> None:
    """Then nothing needs to be named."""
    with pytest.raises(InvalidOption, match=r"do not monitor one and the same metric \(a: none, b: none\): name one"):
        trained.best()
    for run in ("a", "b"):
        trained.record_event(run, "start", monitor="val_loss", mode="min")
    assert trained.best().ref == "b@v2"
    trained.record_event("a", "start", monitor="val_acc", mode="max")
    with pytest.raises(InvalidOption, match=r"a: val_acc \(max\), b: val_loss \(min\)"):
        trained.best()


def test_retention_takes_an_expression(trained: Store) -> None:
    """As a value and as text; its reasons have the value."""
    keep = Last(1) | Best(1, "val_acc - 10*val_loss", mode="max")
    assert parse(str(keep)) == keep
    reasons = {each.checkpoint.version: each.reasons for each in trained.run("a").plan(str(keep)).decisions}
    assert reasons == {1: (), 2: (), 3: ("best-1 val_acc - 10*val_loss=-2.3",), 4: ("last-1",)}
    assert parse(str(Best(2, "val_f1 where val_loss < 0.4", "max"))) == Best(2, "val_f1 where val_loss < 0.4", "max")


def test_a_misspelt_metric_throws_nothing_away(trained: Store) -> None:
    """A plan of a person that names it is refused."""
    with pytest.raises(InvalidOption, match=r"best:1:val_los:min: no metric 'val_los'; did you mean 'val_loss'"):
        trained.plan("best:1:val_los:min")
    kept = [each.checkpoint.ref for each in trained.plan("best:1:fid:min").decisions if each.keep]
    assert kept == ["a@v4", "b@v1"]


def test_retention_follows_a_changed_criterion(store: Store) -> None:
    """A training that goes on with another one keeps by that, as far as there is something left to choose from."""
    losses, accs = (0.1, 0.2, 0.3, 0.4), (0.1, 0.9, 0.2, 0.3)
    for keep, epochs in (("last:1 best:2:loss:min", range(3)), ("last:1 best:1:'acc where loss < 0.5':max", [3])):
        tracker = Tracker(store, "r", keep=keep)
        tracker.begin()
        for epoch in epochs:
            metrics = {"loss": losses[epoch], "acc": accs[epoch]}
            tracker.save({"model": {"w": epoch}}, epoch=epoch, step=epoch, metrics=metrics).wait()
        tracker.close()
    assert [each.version for each in store.run("r").checkpoints()] == [2, 4]


@pytest.mark.parametrize("name", ["mIoU (val)", "a*b", "val/loss", "x`y"])
def test_a_monitor_is_a_plain_metric_whatever_is_in_its_name(store: Store, name: str) -> None:
    """It is never taken for an expression, also not where retention ranks by it."""
    tracker = Tracker(store, "r", monitor=name, mode="max", keep="best:1 last:1")
    tracker.begin()
    for epoch, value in enumerate((0.9, 0.1, 0.2)):
        tracker.save({"model": {}}, epoch=epoch, step=epoch, metrics={name: value, "a": 1.0, "b": epoch}).wait()
    tracker.close()
    assert [each.version for each in store.run("r").checkpoints()] == [1, 3]
    assert store["r@best"].version == 1
    assert store.run("r").record.monitor == Monitor(name, "max")


def test_sqlite_and_the_records_agree_on_the_best(store: Store) -> None:
    """One metric is asked of the index, everything else of the records: with NaN, ties, gaps and later evaluations."""
    generator = random.Random(6)
    for round_number in range(8):
        run = store.run(f"r{round_number}")
        for epoch in range(8):
            value = generator.choice([0.0, -0.0, 0.1, 0.2, math.nan, math.inf, -math.inf])
            metrics = {"x": value} if generator.random() < 0.7 else {}
            weights = np.array([generator.choice([1.0, 1.0, 1.0, math.nan])])
            saved = run.save({"model": {"w": weights, "epoch": epoch}}, metrics=metrics).wait()
            if not metrics and generator.random() < 0.5:
                saved.add_metrics(x=generator.choice([0.0, 0.3, math.nan]))
        for mode in ("min", "max"):
            asked = store.index.best(run.name, Monitor("x", mode))  # type: ignore[arg-type]
            assert asked is not None
            assert run.best("1*x", mode).version == asked  # type: ignore[arg-type]
