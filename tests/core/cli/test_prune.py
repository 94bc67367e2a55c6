"""`ckpt prune` and `ckpt why`: what a retention decides, with reasons, and nothing without --yes."""

from __future__ import annotations

import json

import pytest

from ckpt_tracker import Store


def lines(result):
    """The lines of a good call, their words one space apart."""
    assert result.exit_code == 0, result.output
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


def document(result):
    """The JSON of a good call."""
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def versions(store, run="mnist"):
    """The versions that a run has."""
    with Store(store) as opened:
        return [each.version for each in opened.run(run).checkpoints()]


def test_a_plan_is_shown_and_nothing_is_changed(ckpt, mnist, contents):
    """Each checkpoint with what becomes of it and why, and how much that frees."""
    before = contents(mnist / "runs")
    assert lines(ckpt("prune", "mnist", "--keep", "last:1 best:1", "--store", mnist)) == [
        "checkpoint epoch size why",
        "mnist@v1 0 80.1 kB keep tag:paper",
        "mnist@v2 1 80.1 kB keep best-1 val_loss=0.25",
        "mnist@v3 2 80.1 kB keep last-1, not ranked: val_loss is NaN",
        "3 of 3 checkpoints would be kept",
    ]
    assert lines(ckpt("prune", "mnist", "--keep", "last:1", "--store", mnist))[2:] == [
        "mnist@v2 1 80.1 kB remove -",
        "mnist@v3 2 80.1 kB keep last-1",
        "2 of 3 checkpoints would be kept",
        "16 B would be freed; nothing is changed without --yes",
    ]
    assert contents(mnist / "runs") == before


def test_yes_moves_the_rest_to_the_trash(ckpt, mnist):
    """From where it can be had back; and a second time there is nothing left to do."""
    call = ("prune", "mnist", "--keep", "last:1", "--yes", "--store", mnist)
    assert lines(ckpt(*call))[-2:] == [
        "2 of 3 checkpoints kept",
        "the rest is in the trash: ckpt undo brings it back, ckpt trash --empty frees 16 B at once",
    ]
    assert versions(mnist) == [1, 3]
    assert lines(ckpt(*call))[-1] == "2 of 2 checkpoints kept"
    assert lines(ckpt("undo", "--store", mnist)) == ["restored: mnist@v2"]
    assert versions(mnist) == [1, 2, 3]


def test_weights_are_told_apart(ckpt, mnist):
    """What keeps its weights only, before and after; `ls` and `show` say it too."""
    keep = "last:1 best:1:weights"
    shown = lines(ckpt("prune", "mnist", "--keep", keep, "--yes", "--store", mnist))
    assert shown[2] == "mnist@v2 1 80.1 kB keep weights best-1 val_loss=0.25"
    assert shown[4] == "3 of 3 checkpoints kept, 1 of them with weights only"
    assert lines(ckpt("ls", "mnist", "--store", mnist))[2].endswith("best weights-only last-2")
    assert lines(ckpt("show", "mnist@v2", "--store", mnist))[0] == "checkpoint mnist@v2 (best) (weights only)"
    assert lines(ckpt("prune", "mnist", "--keep", keep, "--store", mnist))[-1] == "3 of 3 checkpoints would be kept"


def test_a_plan_as_json_has_every_decision(ckpt, mnist):
    """A budget says in which order it drops; where no run is named it is for all."""
    found = document(ckpt("prune", "mnist", "--keep", "last:3 cap:1kB", "--store", mnist, "--json"))
    assert (found["applied"], found["keep"], found["freed_bytes"]) == (False, "last:3 cap:1kB", 32)
    assert [(each["ref"], each["keep"], each["reasons"]) for each in found["decisions"]] == [
        ("mnist@v1", True, ["last-3", "tag:paper"]),
        ("mnist@v2", False, ["dropped-1 cap:1kB (last-2)"]),
        ("mnist@v3", False, ["dropped-2 cap:1kB (last-1)"]),
    ]
    found = document(ckpt("prune", "--keep", "last:1", "--store", mnist, "--json"))
    assert [each["ref"] for each in found["decisions"] if each["keep"]] == ["mnist@v1", "mnist@v3", "gan@v1"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--keep", "first:1"], "'first:1' is not a retention: expected last:N"),
        (["--keep", ""], "an empty retention would keep nothing"),
        (["gan", "--keep", "tagged"], "'tagged' would keep nothing of gan: keep one at least"),
        (["gan", "--keep", "tagged", "--yes"], "'tagged' would keep nothing of gan: keep one at least"),
        (["gan", "--keep", "best:1"], "Best(1) names no metric and run 'gan' monitors none: write"),
        (["--keep", "best:1"], "Best(1) names no metric and run 'gan' monitors none: write"),
    ],
)
def test_a_retention_that_cannot_be_meant_changes_nothing(ckpt, mnist, arguments, said):
    """Exit code 2, with what is wrong."""
    result = ckpt("prune", *arguments, "--store", mnist)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert (versions(mnist), versions(mnist, "gan")) == ([1, 2, 3], [1])


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([], "--keep says what to keep, such as --keep last:10, as in training"),
        (["gan"], '--keep says what to keep, such as --keep "last:2 best:3"'),
    ],
)
def test_without_a_retention_one_is_proposed(ckpt, mnist, runs, said):
    """The one that the runs were trained with, where there is one: exit code 2."""
    result = ckpt("prune", *runs, "--store", mnist)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"ckpt: {said}\n")


def test_a_run_that_is_not_there_names_the_nearest(ckpt, mnist):
    """Exit code 3."""
    result = ckpt("prune", "mnits", "--keep", "last:1", "--store", mnist)
    assert result.exit_code == 3
    assert "did you mean 'mnist'?" in result.stderr


def test_an_empty_store_has_nothing_to_prune(ckpt, path):
    """That is said, and is no error."""
    Store(path).close()
    result = ckpt("prune", "--keep", "last:1", "--store", path)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "there are no checkpoints\n")


# -- why -----------------------------------------------------------------------------------------------------


WHY = {
    "mnist@v1": "mnist@v1 is kept: last-3, tag:paper (by last:10)",
    "mnist@best": "mnist@v2 is kept: last-2 (by last:10)",
    "mnist": "mnist@v3 is kept: last-1, newest (by last:10)",
}


@pytest.mark.parametrize(("ref", "expected"), WHY.items())
def test_why_is_by_the_runs_own_retention(ckpt, mnist, ref, expected):
    """The one that its training had."""
    assert lines(ckpt("why", ref, "--store", mnist)) == [expected]


def test_what_is_not_kept_is_said_to_go(ckpt, mnist):
    """It is there still, and somebody may want to pin it."""
    with Store(mnist) as store:
        store.record_event("mnist", "start", keep="last:1")
    expected = "mnist@v2 is not kept (by last:1); it goes when the run saves again, or by ckpt prune"
    assert lines(ckpt("why", "mnist@v2", "--store", mnist)) == [expected]


def test_why_takes_another_retention(ckpt, mnist):
    """As `ckpt prune` would decide by it."""
    why = ("why", "mnist@v2", "--store", mnist, "--keep")
    assert lines(ckpt(*why, "best:1:acc:max")) == ["mnist@v2 is not kept (by best:1:acc:max)"]
    assert lines(ckpt(*why, "best:1:weights")) == [
        "mnist@v2 is kept with its weights only: best-1 val_loss=0.25 (by best:1:weights)"
    ]
    found = document(ckpt(*why, "last:2", "--json"))
    assert (found["ref"], found["retention"], found["reasons"]) == ("mnist@v2", "last:2", ["last-2"])


def test_why_of_what_is_gone_tells_what_took_it(ckpt, mnist):
    """Exit code 3, because there is no such checkpoint."""
    ckpt("prune", "mnist", "--keep", "last:1", "--yes", "--store", mnist)
    result = ckpt("why", "mnist@v2", "--store", mnist)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith("ckpt: mnist@v2 is gone: removed ")
    assert result.stderr.endswith(" by ckpt prune; last:1 did not keep it; ckpt undo mnist@v2 brings it back\n")
    ckpt("trash", "--empty", "--store", mnist)
    result = ckpt("why", "mnist@v2", "--store", mnist)
    assert result.stderr.endswith(" by ckpt prune; last:1 did not keep it\n")
    with Store(mnist) as store:
        store.evict(store.plan("best:1:acc:min"))
    result = ckpt("why", "mnist@v3", "--store", mnist)
    assert result.stderr.endswith(" by tracker; best:1:acc:min did not keep it\n")


def test_why_of_what_never_was_is_not_found(ckpt, mnist):
    """Nor of a run without a retention."""
    assert "matches no checkpoint" in ckpt("why", "mnist@v9", "--store", mnist).stderr
    result = ckpt("why", "gan", "--store", mnist)
    assert result.exit_code == 2
    assert "run 'gan' was trained without a retention: name one with --keep" in result.stderr
