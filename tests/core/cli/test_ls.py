"""What `ckpt ls` is asked for: an order, some of the lines, some of the columns, and how a metric went."""

from __future__ import annotations

import json

import pytest

from ckpt_tracker import Store
from ckpt_tracker.tracker import Tracker

TERMINAL = {"FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": "80", "TERM": "xterm"}


def names(result):
    """What the first column names."""
    assert result.exit_code == 0, result.output
    return [line.split()[0] for line in result.stdout.splitlines()[1:]]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--sort", "val_loss"], ["v2", "v1", "v3"]),
        (["--sort", "val_loss", "--desc"], ["v1", "v2", "v3"]),
        (["--sort", "acc", "--desc", "-n", "2"], ["v3", "v2"]),
        (["--sort", "new"], ["v2", "v3", "v1"]),
        (["--sort", "age"], ["v3", "v2", "v1"]),
        (["--desc"], ["v3", "v2", "v1"]),
        (["--sort", "val_loss + 10*acc", "--desc"], ["v2", "v1", "v3"]),
        (["--where", "epoch > 0"], ["v2", "v3"]),
        (["--where", "val_loss < 1 and not acc > 0.05"], ["v1"]),
        (["-n", "2"], ["v2", "v3"]),
        (["-n", "2", "--desc"], ["v3", "v2"]),
    ],
)
def test_the_order_is_the_one_asked_for(ckpt, mnist, arguments, expected):
    """By a metric or a column, NaN last in both directions; `-n` takes the first of what was sorted, else the last."""
    assert names(ckpt("ls", "mnist", *arguments, "--store", mnist)) == expected


def test_runs_are_compared_in_one_list(ckpt, mnist):
    """`ckpt ls --sort METRIC` over all runs puts what has no such metric last."""
    assert names(ckpt("ls", "--sort", "val_loss", "--store", mnist))[:2] == ["mnist@v2", "mnist@v1"]
    assert names(ckpt("ls", "gan", "mnist", "-n", "1", "--store", mnist)) == ["gan@v1"]


def test_a_condition_that_holds_of_none_is_no_error(ckpt, mnist):
    """Nothing on stdout, and the words on stderr say of what."""
    result = ckpt("ls", "mnist", "--where", "epoch > 99", "--store", mnist)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "run mnist has no checkpoint where epoch > 99\n"


def test_columns_are_chosen_by_name(ckpt, mnist):
    """`--columns` gives these and no others, in their order, those too that are not shown unasked."""
    result = ckpt("ls", "mnist", "--columns", "acc, sections,epoch,reason", "--store", mnist)
    header, first, *_ = result.stdout.splitlines()
    assert header.split() == ["version", "acc", "sections", "epoch", "reason"]
    assert first.split() == ["v1", "0", "model", "optimizer", "0", "1", "epoch"]


def test_the_first_column_may_be_named_too(ckpt, mnist):
    """It stands first in any case."""
    assert ckpt("ls", "mnist", "--columns", "epoch,version", "--store", mnist).stdout.split()[:4] == [
        *("version", "epoch"),
        *("v1", "0"),
    ]
    assert ckpt("ls", "mnist", "--columns", "version", "--store", mnist).stdout.split()[:3] == ["version", "v1", "v2"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--columns", "epoch,los"], "there is no column 'los'"),
        (["--columns", "val_los"], "did you mean 'val_loss' or 'stall'?"),
        (["--columns", "versio"], "did you mean 'version'"),
        (["--sort", "val_loss + ac"], "nothing can be sorted by 'ac'; did you mean 'acc'?"),
        (["--where", "epoch"], "'epoch' is no condition: expected such as 'epoch > 5 and val_loss < 0.4'"),
        (["--where", "epoc > 1"], "'epoc > 1': nothing is called 'epoc'; did you mean 'epoch' or 'step'?"),
        (["--sort", "val_los"], "nothing can be sorted by 'val_los'; did you mean 'val_loss' or 'stall'?"),
    ],
)
def test_a_name_that_is_none_is_refused_with_the_nearest(ckpt, mnist, arguments, said):
    """Exit code 2, and nothing on stdout."""
    result = ckpt("ls", "mnist", *arguments, "--store", mnist)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


def test_why_is_what_the_runs_own_retention_says(ckpt, path):
    """The column has the names of the reasons, the JSON all of each."""
    tracker = Tracker(path, "r", monitor="loss", mode="min", keep="last:1 best:1")
    tracker.begin()
    for epoch, loss in enumerate((0.1, 0.5, 0.4)):
        tracker.save({"model": {}}, epoch=epoch, step=epoch, metrics={"loss": loss}, reason="1 epoch")
    tracker.close()
    lines = ckpt("ls", "r", "--columns", "tags,why", "--store", path).stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["version", "tags", "why"],
        ["v1", "best", "best-1"],
        ["v3", "last-1", "newest"],
    ]
    found = json.loads(ckpt("ls", "r", "--store", path, "--json").stdout)
    assert [each["reasons"] for each in found] == [["best-1 loss=0.1"], ["last-1", "newest"]]


def test_a_terminal_is_shown_how_the_metric_went(ckpt, mnist):
    """Below the list of one run a line of blocks, a dot for NaN; a pipe gets the list alone."""
    result = ckpt("ls", "mnist", "--store", mnist, env=TERMINAL)
    assert result.stdout.splitlines()[-1] == "val_loss █▁· 0.5 → nan, best 0.25 (v2)"
    assert "█" not in ckpt("ls", "mnist", "--store", mnist).stdout


def test_columns_line_up_for_wide_characters(ckpt, path):
    """A name of characters that take two cells, or none, moves nothing behind it."""
    with Store(path) as store:
        run = store.run("r")
        run.save({"model": {}}, epoch=0, metrics={"损失": 0.5, "é": 1.0})
    header, line = ckpt("ls", "r", "--columns", "损失,epoch", "--store", path).stdout.splitlines()
    assert header == "version  损失  epoch"
    assert line == "v1        0.5      0"


def test_a_long_name_costs_no_column(ckpt, mnist):
    """On a terminal it stands on a line of its own, whole, with its row below it."""
    name = "n" * 70
    with Store(mnist) as store:
        store.run(name).save({"model": {}}, epoch=7, step=1, metrics={"val_loss": 0.125})
    shown = ckpt("ls", "--store", mnist, env=TERMINAL).stdout.splitlines()
    place = shown.index(f"{name}@v1")
    assert shown[place + 1].split()[:3] == ["7", "1", "0.125"]
    assert shown[place + 1].index("0.125") + 5 == shown[0].index("val_loss") + 8


def test_ten_thousand_lines_need_no_rich(mnist, python):
    """A list of ASCII names is written without importing rich, sqlite-utils or NumPy."""
    loaded = python(
        """
        import sys
        from ckpt_tracker.cli.app import ckpt
        ckpt(sys.argv[1:], standalone_mode=False)
        print("loaded:", *sorted({"numpy", "rich", "sqlite_utils"} & set(sys.modules)))
        """,
        *("ls", "mnist", "--store", mnist),
    )
    assert loaded.splitlines()[-1] == "loaded:"
