"""`ckpt best`: by a metric or an expression, in one run or across several."""

from __future__ import annotations

import json

import pytest

from ckpt_tracker import Store


@pytest.fixture
def found(ckpt, mnist):
    """Which checkpoint `ckpt best` shows for some arguments."""

    def ask(*arguments: str) -> str:
        result = ckpt("--store", mnist, "best", *arguments, "--json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)["ref"]

    return ask


def test_best_takes_an_expression(found):
    """Weighed, and with a condition."""
    assert found("mnist", "--metric", "acc - 0.1*val_loss", "--mode", "max") == "mnist@v2"
    assert found("mnist", "--metric", "acc where epoch < 1", "--mode", "max") == "mnist@v1"
    assert found("mnist", "--metric", "val_loss", "--mode", "min", "--min-delta", "0.3") == "mnist@v1"


def test_best_across_runs(found, mnist):
    """Of all, or of those that are named."""
    with Store(mnist) as store:
        store["gan@v1"].add_metrics(acc=0.2)
    assert found("--across-runs", "--metric", "acc", "--mode", "max") == "mnist@v3"
    assert found("--across-runs", "--metric", "acc", "--mode", "max", "--tie", "last") == "gan@v1"
    assert found("gan", "mnist", "--across-runs", "--metric", "acc where acc < 0.15", "--mode", "max") == "mnist@v2"
    assert found("mnist", "--across-runs") == "mnist@v2"
    assert found("--across-runs") == "mnist@v2"  # gan monitors nothing, and has no say in it


def test_best_shows_the_checkpoint_with_its_run(ckpt, mnist):
    """As a line of the table."""
    result = ckpt("--store", mnist, "best", "--across-runs", "--metric", "fid", "--mode", "min")
    assert result.stdout.splitlines()[1].split()[0] == "gan@v1"


def test_the_only_run_need_not_be_named(ckpt, path):
    """There is no other that could be meant."""
    with Store(path) as store:
        store.run("r").save({"model": {}}, metrics={"loss": 0.5})
    result = ckpt("--store", path, "best", "--metric", "loss", "--mode", "min")
    assert result.stdout.splitlines()[1].split()[0] == "r@v1"


REFUSED = {
    "no run": ((), 2, "best is of one RUN, or with --across-runs of several; there are: mnist, gan"),
    "two runs": (("mnist", "gan"), 2, "best is of one RUN, or with --across-runs of several"),
    "a metric for a run": (("mnist", "acc"), 2, "several; there are: mnist, gan"),
    "no mode": (("mnist", "--metric", "acc*2"), 2, "--metric acc*2 needs --mode min"),
    "no mode across": (("--across-runs", "--metric", "acc"), 2, "needs mode='min'"),
    "no common monitor": (("gan", "--across-runs"), 2, "do not monitor one and the same metric (gan: none)"),
    "no criterion": (("mnist", "--metric", "acc*", "--mode", "min"), 2, "'acc*' is no criterion"),
    "no such metric": (("mnist", "--metric", "2*ac", "--mode", "min"), 3, "no metric 'ac'; did you mean 'acc'"),
    "no such run": (("mnits", "--across-runs"), 3, "did you mean 'mnist'?"),
    "a condition too much": (
        ("mnist", "--metric", "acc where acc > 9", "--mode", "max"),
        3,
        "no checkpoint of run 'mnist' can be ranked by 'acc where acc > 9': acc > 9 does not hold (3 of 3)",
    ),
}


@pytest.mark.parametrize(("arguments", "code", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_best_says_what_it_cannot_do(ckpt, mnist, arguments, code, message):
    """With what was expected, or the nearest."""
    result = ckpt("--store", mnist, "best", *arguments)
    assert (result.exit_code, message in result.stderr) == (code, True), result.stderr
