"""`ckpt rm`, `trash`, `undo`, `tag`, `pin`, `unpin` and `log`: taking back, protecting, and looking back."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest

from ckpt_tracker import Store
from ckpt_tracker.environment import user


def lines(result):
    """The lines of a good call, their words one space apart."""
    assert result.exit_code == 0, result.output
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


def document(result):
    """The JSON of a good call."""
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def versions(store):
    """The versions that the run mnist has."""
    with Store(store) as opened:
        return [each.version for each in opened.run("mnist").checkpoints()]


def test_rm_moves_to_the_trash_and_undo_brings_back(ckpt, mnist):
    """All that one call named, with one call."""
    removed = ckpt("rm", "mnist@v2", "mnist@last", "--store", mnist)
    assert removed.stdout == "in the trash: mnist@v2, mnist@v3; ckpt undo brings it back\n"
    assert versions(mnist) == [1]
    assert ckpt("undo", "--store", mnist).stdout == "restored: mnist@v2, mnist@v3\n"
    assert versions(mnist) == [1, 2, 3]
    assert document(ckpt("rm", "mnist@v2", "--store", mnist, "--json")) == {"removed": ["mnist@v2"]}
    assert document(ckpt("undo", "mnist@v2", "--store", mnist, "--json")) == {"restored": ["mnist@v2"]}


@pytest.mark.parametrize(
    ("refs", "code", "said"),
    [
        (["mnist"], 2, "'mnist' names no checkpoint: write which one, mnist@last or mnist@v12"),
        (["mnist@v2", "mnist"], 2, "'mnist' names no checkpoint"),
        (
            ["mnist@v2", "mnist@v1"],
            2,
            "mnist@v1 is tagged paper: take that away first, ckpt tag mnist@v1 paper --delete",
        ),
        (["mnist@v2", "mnist@v9"], 3, "'mnist@v9' matches no checkpoint"),
    ],
)
def test_rm_removes_all_that_is_named_or_nothing(ckpt, mnist, refs, code, said):
    """A run alone, a tagged one, one that is not there."""
    result = ckpt("rm", *refs, "--store", mnist)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr
    assert versions(mnist) == [1, 2, 3]


def test_the_trash_lists_what_went_last_first(ckpt, mnist):
    """With who, and until when; as JSON with raw values."""
    ckpt("rm", "mnist@v2", "--store", mnist)
    ckpt("prune", "mnist", "--keep", "last:1", "--yes", "--store", mnist)
    ckpt("rm", "gan@v1", "--store", mnist)
    header, first, second, last = lines(ckpt("trash", "--store", mnist))
    assert header == "checkpoint epoch size removed until (UTC) what by"
    assert [each.split()[0] for each in (first, second)] == ["gan@v1", "mnist@v2"]
    assert first.endswith(f"all of it ckpt rm ({user()})")
    assert last == "ckpt undo brings back what went last; ckpt trash --empty frees 104 B"
    found = document(ckpt("trash", "--store", mnist, "--json"))
    assert (found["freed_bytes"], found["emptied"]) == (104, False)
    gan, other = found["checkpoints"]
    assert set(gan) == {
        *("ref", "run", "version", "epoch", "step", "metrics", "removed_at", "until", "stripped", "by", "user", "keep")
    }
    assert (gan["ref"], gan["by"], other["metrics"]) == ("gan@v1", "ckpt rm", {"acc": 0.1, "val_loss": 0.25})


def test_the_trash_is_emptied_when_that_is_asked_for(ckpt, mnist):
    """Then there is no way back."""
    ckpt("rm", "mnist@v2", "--store", mnist)
    assert ckpt("trash", "--empty", "--store", mnist).stdout == "1 checkpoint deleted, 16 B freed\n"
    empty = ckpt("trash", "--store", mnist)
    assert (empty.exit_code, empty.stdout, empty.stderr) == (0, "", "the trash is empty\n")
    result = ckpt("undo", "--store", mnist)
    assert (result.exit_code, result.stderr) == (3, "ckpt: the trash is empty: there is nothing to undo\n")
    assert "'mnist@v2' is not in the trash" in ckpt("undo", "mnist@v2", "--store", mnist).stderr


def test_a_tag_is_given_moved_and_taken_away(ckpt, mnist):
    """Each says what was before."""
    assert ckpt("tag", "mnist@best", "release", "--store", mnist).stdout == "mnist@v2 is release\n"
    assert ckpt("tag", "mnist@v3", "release", "--store", mnist).stdout == "mnist@v3 is release (mnist@v2 was)\n"
    assert document(ckpt("show", "mnist@release", "--store", mnist, "--json"))["version"] == 3
    moved = document(ckpt("tag", "mnist@v1", "release", "--store", mnist, "--json"))
    assert moved == {"ref": "mnist@v1", "tag": "release", "before": "mnist@v3", "deleted": False}
    assert ckpt("tag", "mnist", "release", "--delete", "--store", mnist).stdout == "mnist@v1 is release no more\n"
    assert ckpt("show", "mnist@release", "--store", mnist).exit_code == 3


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["mnist@v2", "best"], 2, "'best' is not a tag"),
        (["mnist@v2", "v7"], 2, "'v7' is not a tag"),
        (["mnist", "papr", "--delete"], 3, "run 'mnist' has no tag 'papr'; did you mean 'paper'?"),
        (["mnist@v2", "paper", "--delete"], 2, "mnist@v2 is not tagged paper"),
    ],
)
def test_a_tag_that_cannot_be_meant_is_refused(ckpt, mnist, arguments, code, said):
    """And nothing moves."""
    result = ckpt("tag", *arguments, "--store", mnist)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr
    assert document(ckpt("show", "mnist@paper", "--store", mnist, "--json"))["version"] == 1


def test_a_pin_protects_and_is_shown(ckpt, mnist):
    """In lists, in what `ckpt show` says, and from `rm` and `prune`."""
    assert ckpt("pin", "mnist@v2", "--store", mnist).stdout == "mnist@v2 is pinned\n"
    assert ckpt("pin", "mnist@v2", "--store", mnist).stdout == "mnist@v2 is pinned already\n"
    assert lines(ckpt("ls", "mnist", "--store", mnist))[2].endswith("best pinned last-2")
    assert document(ckpt("show", "mnist@v2", "--store", mnist, "--json"))["pinned"] is True
    assert "unpin it first, ckpt unpin mnist@v2" in ckpt("rm", "mnist@v2", "--store", mnist).stderr
    found = document(ckpt("prune", "mnist", "--keep", "last:1", "--store", mnist, "--json"))
    assert [each["reasons"] for each in found["decisions"]] == [["tag:paper"], ["pinned"], ["last-1"]]
    assert ckpt("unpin", "mnist@v2", "--store", mnist).stdout == "mnist@v2 is pinned no more\n"
    unpinned = document(ckpt("unpin", "mnist@v2", "--store", mnist, "--json"))
    assert unpinned == {"ref": "mnist@v2", "pinned": False, "changed": False}


# -- log -----------------------------------------------------------------------------------------------------


def test_the_log_tells_what_happened(ckpt, mnist):
    """Oldest first, with who and why."""
    ckpt("rm", "mnist@v3", "--store", mnist)
    told = lines(ckpt("log", "mnist", "--store", mnist))
    assert told[0] == "at (UTC) event checkpoints by details"
    who = f"({user()})"
    assert [line.split(" ", 2)[2] for line in told[1:]] == [
        f"started - tracker {who} by last:10",
        "saved v1 - epoch 0, step 10, acc=0, val_loss=0.5, because of 1 epoch",
        "saved v2 - epoch 1, step 20, acc=0.1, val_loss=0.25, because of 1 epoch",
        "saved v3 - epoch 2, step 30, acc=0.2, val_loss=nan, because of 1 epoch",
        f"finished - tracker {who} -",
        f"tagged v1 python {who} paper",
        f"removed v3 ckpt rm {who} -",
    ]


def test_the_log_of_all_runs_is_one(ckpt, mnist):
    """In the order of time."""
    found = document(ckpt("log", "--store", mnist, "--json"))
    assert [(each["run"], each["event"]) for each in found][-2:] == [("mnist", "tagged"), ("gan", "saved")]
    assert set(found[0]) == {"at", "run", "event", "versions", "by", "user", "details"}
    assert [each["at"] for each in found] == sorted(each["at"] for each in found)


def test_the_log_of_a_tag_tells_where_it_went(ckpt, mnist):
    """And nothing else."""
    ckpt("tag", "mnist@v2", "paper", "--store", mnist)
    ckpt("tag", "mnist", "paper", "--delete", "--store", mnist)
    told = [line.split(" ", 2)[2] for line in lines(ckpt("log", "mnist", "--tag", "paper", "--store", mnist))[1:]]
    who = f"({user()})"
    assert told == [
        f"tagged v1 python {who} paper",
        f"tagged v2 ckpt tag {who} paper, was v1",
        f"untagged - ckpt tag {who} paper, was v2",
    ]


def test_the_log_answers_where_a_tag_stood(ckpt, mnist):
    """At any moment, in any zone; a day means its beginning."""
    before = datetime.now(timezone.utc).isoformat()
    ckpt("tag", "mnist@v2", "paper", "--store", mnist)
    log = ("log", "mnist", "--store", mnist, "--at")
    assert ckpt(*log, before).stdout == "paper was mnist@v1\n"
    assert ckpt(*log, before.replace("+00:00", "Z"), "--tag", "paper").stdout == "paper was mnist@v1\n"
    assert ckpt(*log, "2200-01-01").stdout == "paper was mnist@v2\n"
    found = document(ckpt(*log, "2200-01-01", "--json"))
    assert (found["run"], found["tags"]) == ("mnist", {"paper": 2})
    early = ckpt(*log, "2000-01-01")
    assert (early.exit_code, early.stdout, early.stderr) == (0, "", "run mnist had no tags then\n")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--at", "2026-11-01"], 2, "--at is about the tags of a RUN: name it"),
        (["mnist", "--at", "yesterday"], 2, "--at yesterday: expected a day or a time such as 2026-11-01T12:30"),
        (["mnist", "--at", "2000-01-01", "--tag", "paper"], 3, "no checkpoint of 'mnist' was 'paper' then\n"),
        (["mnist", "--at", "2200-01-01", "--tag", "papr"], 3, "was 'papr' then; did you mean 'paper'?"),
        (["nobody"], 3, "there is no run 'nobody'"),
    ],
)
def test_the_log_says_what_it_cannot_answer(ckpt, mnist, arguments, code, said):
    """With what to write instead."""
    result = ckpt("log", *arguments, "--store", mnist)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr


def test_a_tag_that_was_never_given_is_no_error(ckpt, mnist):
    """The list is empty."""
    result = ckpt("log", "--tag", "nothing", "--store", mnist)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no tag 'nothing' was ever given\n")
