"""`ckpt runs`, `ls`, `best` and `show`: what they print for people, and what for programs."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from ckpt_tracker import Store


def rows(text):
    """The words of each line."""
    return [line.split() for line in text.splitlines()]


def document(result):
    """The JSON that a call printed."""
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_runs_shows_each_run_with_its_newest_and_best(ckpt, mnist):
    """`ckpt runs` has a line a run, oldest first."""
    header, first, second = rows(ckpt("runs", "--store", mnist).stdout)
    assert header == ["run", "checkpoints", "epoch", "step", "best", "age", "stored", "finished"]
    assert first[:6] == ["mnist", "3", "2", "30", "v2", "val_loss=0.25"]
    assert first[-1] == "yes"
    assert second[:5] == ["gan", "1", "-", "-", "-"]
    assert second[-1] == "no"


def test_runs_as_json_has_the_keys_of_the_records(ckpt, mnist):
    """`ckpt runs --json` has raw values under the names that the help lists."""
    first, second = document(ckpt("runs", "--store", mnist, "--json"))
    assert set(first) == {
        *("name", "created_at", "config", "environment", "unnamed", "finished", "monitor", "tags"),
        *("last_start", "pins", "evaluations"),
        *("checkpoints", "last", "best", "stored_bytes"),
    }
    assert first["config"] == {"lr": 0.001, "layers": [64, 32]}
    assert first["monitor"] == {"metric": "val_loss", "mode": "min"}
    assert (first["checkpoints"], first["last"], first["best"]) == (3, "mnist@v3", "mnist@v2")
    assert (first["tags"], first["finished"]) == ({"paper": 1}, True)
    assert (second["monitor"], second["best"]) == (None, None)


def test_ls_puts_the_monitored_metric_first_and_marks_the_best(ckpt, mnist):
    """`ckpt ls RUN` has a line a checkpoint, oldest first; `best` and the tags are what may stand behind the @."""
    header, *lines = rows(ckpt("ls", "mnist", "--store", mnist).stdout)
    assert header == [
        "version",
        "epoch",
        "step",
        "val_loss",
        "acc",
        "age",
        "size",
        "new",
        "shared",
        "stall",
        "tags",
        "why",
    ]
    assert [line[:5] for line in lines] == [
        ["v1", "0", "10", "0.5", "0"],
        ["v2", "1", "20", "0.25", "0.1"],
        ["v3", "2", "30", "nan", "0.2"],
    ]
    assert [line[-2:] for line in lines] == [["paper", "last-3"], ["best", "last-2"], ["last-1", "newest"]]


def test_ls_shows_that_what_did_not_change_is_stored_once(ckpt, mnist):
    """The size is that of the whole checkpoint, what it added has the frozen encoder only once."""
    first, second, _ = document(ckpt("ls", "mnist", "--store", mnist, "--json"))
    assert first["nbytes"] == second["nbytes"] == 80_080
    assert first["stored_bytes"] > 80_000
    assert second["stored_bytes"] < 1000
    assert second["shared_bytes"] == second["nbytes"] - second["stored_bytes"]


def test_ls_without_a_run_lists_all_by_reference(ckpt, mnist):
    """`ckpt ls` names each checkpoint so that it can be copied into another command."""
    header, *lines = rows(ckpt("ls", "--store", mnist).stdout)
    assert header[0] == "checkpoint"
    assert [line[0] for line in lines] == ["gan@v1", "mnist@v1", "mnist@v2", "mnist@v3"]


def test_ls_as_json_has_the_keys_of_the_records(ckpt, mnist):
    """`ckpt ls --json` has raw values under the names that the help lists; NaN is null."""
    found = document(ckpt("ls", "mnist", "--store", mnist, "--json"))
    assert set(found[0]) == {
        *("ref", "run", "version", "epoch", "step", "metrics", "created_at", "digest", "nbytes", "stored_bytes"),
        *("sections", "kind", "reason", "parents", "stall_seconds", "write_seconds", "tags", "best"),
        *("context", "pinned", "full_digest", "nonfinite", "evaluations", "shared_bytes", "reasons"),
    }
    assert [each["best"] for each in found] == [False, True, False]
    assert found[2]["metrics"] == {"acc": 0.2, "val_loss": None}
    assert found[0]["tags"] == ["paper"]
    assert found[1]["parents"] == [{"ref": "mnist@v1", "digest": found[0]["digest"], "overrides": {}}]


def test_a_pipe_gets_neither_colour_nor_cut_off_lines(path):
    """However long a name and however many the metrics, a program gets them whole."""
    name = "n" * 100
    with Store(path) as store:
        metrics = {f"a_rather_long_metric_{number}": number / 7 for number in range(12)}
        store.run(name).save({"model": {}}, epoch=0, metrics=metrics)
    command = [sys.executable, "-m", "ckpt_tracker", "ls", "--store", str(path)]
    header, line = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    assert "\x1b" not in header + line
    assert line.split()[0] == f"{name}@v1"
    assert [word for word in header.split() if word.startswith("a_rather")] == sorted(metrics)
    assert line == line.rstrip()


def test_a_narrow_terminal_gets_whole_columns_and_is_told_of_the_rest(ckpt, mnist):
    """Where not all columns fit, some are left out and named; none is cut."""
    narrow = {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "COLUMNS": "45", "NO_COLOR": "1", "TERM": "xterm"}
    result = ckpt("ls", "mnist", "--store", mnist, env=narrow)
    assert "left out for want of room: step, acc, size, new, shared, stall, why (--json has all)" in result.stdout
    assert "…" not in result.stdout
    assert max(map(len, result.stdout.splitlines()[:4])) <= 45
    assert "0.25" in result.stdout


def test_names_cannot_drive_the_terminal(ckpt, path):
    """An escape sequence in a metric's name is shown, and not sent."""
    with Store(path) as store:
        store.run("r").save({"model": {}}, metrics={"\x1b[31mred": 1.0})
    for arguments in (["ls"], ["show", "r"], ["best", "r", "--metric", "\x1b[31mred", "--mode", "min"]):
        result = ckpt(*arguments, "--store", path)
        assert result.exit_code == 0
        assert "\x1b" not in result.stdout
        assert "\\x1b[31mred" in result.stdout


def test_best_is_by_the_runs_own_monitor(ckpt, mnist):
    """`ckpt best RUN` needs no more words where the training named its metric."""
    found = document(ckpt("best", "mnist", "--store", mnist, "--json"))
    assert (found["ref"], found["best"]) == ("mnist@v2", True)
    assert found["monitor"] == {"metric": "val_loss", "mode": "min"}


def test_best_is_by_any_metric(ckpt, mnist):
    """Another metric and mode than the training's own are asked for by name."""
    found = document(ckpt("best", "mnist", "--metric", "acc", "--mode", "max", "--store", mnist, "--json"))
    assert found["ref"] == "mnist@v3"
    header, line = rows(ckpt("best", "mnist", "--metric", "acc", "--mode", "max", "--store", mnist).stdout)
    assert (header[0], line[0], header[3], line[3]) == ("checkpoint", "mnist@v3", "acc", "0.2")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gan"], "run 'gan' monitors no metric: name one with --metric and --mode; there are: fid"),
        (["gan", "--metric", "fid"], "--metric fid needs --mode min (lower is better) or --mode max"),
        (["mnist", "--mode", "max"], "--mode max is about no metric"),
    ],
)
def test_best_needs_to_know_what_is_better(ckpt, mnist, arguments, said):
    """No direction is guessed from a name: exit code 2, with what is missing."""
    result = ckpt("best", *arguments, "--store", mnist)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


def test_best_says_which_metrics_there_are(ckpt, mnist):
    """A metric that no checkpoint has is exit code 3."""
    result = ckpt("best", "mnist", "--metric", "loss", "--mode", "min", "--store", mnist)
    assert result.exit_code == 3
    assert "no metric 'loss'; did you mean 'val_loss'? (in run 'mnist')" in result.stderr


def test_show_has_everything(ckpt, mnist):
    """`ckpt show REF --json` has the record, its sections' sizes, and the run's config and environment."""
    found = document(ckpt("show", "mnist@best", "--store", mnist, "--json"))
    assert (found["ref"], found["best"], found["tags"]) == ("mnist@v2", True, [])
    assert found["tensors"] == 4
    assert found["section_sizes"] == {
        "model": {"tensors": 2, "nbytes": 80_016},
        "optimizer": {"tensors": 2, "nbytes": 64},
    }
    assert found["config"]["lr"] == 0.001
    assert found["environment"]["packages"]["numpy"] == np.__version__
    assert (found["finished"], found["reason"]) == (True, "1 epoch")
    assert found["manifest"] == str(mnist / "runs/mnist/manifests/000002.json")


def test_show_is_readable(ckpt, mnist):
    """`ckpt show REF` says the same in words, with sizes and relative paths."""
    text = ckpt("show", "mnist@v1", "--store", mnist).stdout
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "checkpoint mnist@v1 (paper)"
    assert "metrics val_loss: 0.5" in lines or "metrics acc: 0" in lines
    assert "size 80.1 kB in 4 tensors" in lines
    assert "sections model: 2 tensors, 80.0 kB" in lines
    assert "manifest store/runs/mnist/manifests/000001.json" in lines
    assert "layers: [64, 32]" in lines


@pytest.mark.parametrize("reference", ["mnist", "mnist@last", "mnist@v3", "mnist@epoch:2", "mnist@step:30"])
def test_every_form_of_reference_is_understood(ckpt, mnist, reference):
    """A REF may name the checkpoint in each of its forms."""
    assert document(ckpt("show", reference, "--store", mnist, "--json"))["ref"] == "mnist@v3"


def test_a_tag_is_a_reference(ckpt, mnist):
    """So is a tag, and a best by another metric."""
    assert document(ckpt("show", "mnist@paper", "--store", mnist, "--json"))["ref"] == "mnist@v1"
    assert document(ckpt("show", "mnist@best:acc:min", "--store", mnist, "--json"))["ref"] == "mnist@v1"
