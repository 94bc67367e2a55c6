"""`ckpt verify-resume`: real trainings, killed and started again; what they lose is found, and named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from json_shapes import faults

from ckpt_tracker.cli.schemas import SCHEMAS

AS_IN_A_TERMINAL = """
import os, signal, sys
for ending in (signal.SIGINT, signal.SIGHUP):
    signal.signal(ending, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""
SCRIPT = Path(__file__).parents[2] / "scripts" / "resuming_numpy.py"


@pytest.fixture
def tried(ckpt, monkeypatch):
    """Tries the script with something wrong in it; returns the exit code and the report."""
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)

    def run(wrong="", *options):
        arguments = ["--timeout", "120", *options, "--json", "--", sys.executable, SCRIPT, *([wrong] if wrong else [])]
        result = ckpt("verify-resume", *arguments)
        document = json.loads(result.stdout)
        assert [*faults(document, SCHEMAS["verify-resume"])] == []
        return result.exit_code, document

    return run


def causes(report):
    """The kinds of the likely causes, and all that is said of them."""
    return [each["kind"] for each in report["causes"]], " ".join(each["sentence"] for each in report["causes"])


def test_a_training_that_resumes_exactly_passes(tried, path):
    """Each of its kills is survived; what was compared is told, and the script's own store is left alone."""
    code, report = tried("", "--runs", "2", "--seed", "3")
    assert (code, report["outcome"], report["equal"]) == (0, "equal", True)
    assert [each["resumed_from"] for each in report["kills"]] == [f"toy@v{each['after']}" for each in report["kills"]]
    assert report["compared"] == sum(5 - each["after"] for each in report["kills"]) > 0
    assert (report["checkpoints"], report["deviation"], report["causes"], report["notes"]) == (5, None, [], [])
    assert list(Path.cwd().glob("checkpoints")) == []


@pytest.mark.parametrize(
    ("lost", "kind", "named"),
    [
        ("scheduler", "scheduler", "HalvingScheduler"),
        ("optimizer", "object", "Momentum"),
        ("variable", "variable", "Noisy.stage (5 uninterrupted, 1 resumed)"),
    ],
)
def test_what_was_lost_is_named(tried, lost, kind, named):
    """The first checkpoint after the kill differs; the cause is the one thing that no checkpoint holds."""
    code, report = tried(lost, "--kill-after", "4")
    assert (code, report["outcome"]) == (11, "different")
    assert report["deviation"]["epoch"] == 4
    assert "model.weights" in [each["path"] for each in report["deviation"]["differences"]]
    kinds, told = causes(report)
    assert kinds == [kind]
    assert named in told


def test_an_average_that_nothing_depends_on_is_found_too(tried):
    """All checkpoints are equal, and yet a part of the training is lost: that is no success."""
    code, report = tried("ema", "--kill-after", "2")
    assert (code, report["outcome"], report["deviation"]) == (11, "left out", None)
    assert causes(report)[0] == ["average"]
    assert "EMA `" in causes(report)[1]


@pytest.mark.parametrize(
    ("wrong", "kind", "named"),
    [("unseeded", "generator", "`Noisy.rng`"), ("set", "environment", "PYTHONHASHSEED")],
)
def test_trainings_that_differ_without_a_kill_are_told_apart(tried, wrong, kind, named):
    """Nothing is killed then: the cause is in the script."""
    code, report = tried(wrong)
    assert (code, report["outcome"], report["kills"]) == (12, "not deterministic", [])
    assert report["deviation"]["epoch"] == 0
    assert causes(report)[0] == [kind]
    assert named in causes(report)[1]


def test_times_among_what_callbacks_keep_are_left_out(tried):
    """They differ in uninterrupted trainings too, and nothing that is trained does; that is said."""
    code, report = tried("time", "--kill-after", "3")
    assert (code, report["outcome"]) == (0, "equal")
    assert any("callbacks.seconds" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("fails", "failed with exit code 1"),
        ("silent", "no checkpoint"),
        ("once", "saves only once"),
        ("renamed", "another name at each start"),
        ("never", "began anew"),
    ],
)
def test_what_cannot_be_tried_is_said_with_the_way_out(tried, wrong, said):
    """It is no verdict on the resuming, and has an exit code of its own."""
    code, report = tried(wrong, "--kill-after", "2") if wrong == "never" else tried(wrong)
    assert (code, report["outcome"], report["equal"]) == (13, "not tried", False)
    assert said in report["headline"]
    assert report["remedy"]


def test_the_last_lines_of_a_script_that_fails_are_shown(ckpt):
    """Also where it fails only when it is started again, which is a difference."""
    first = ckpt("verify-resume", "--", sys.executable, SCRIPT, "fails")
    again = ckpt("verify-resume", "--kill-after", "1", "--", sys.executable, SCRIPT, "fails when resumed")
    assert (first.exit_code, again.exit_code) == (13, 11)
    assert "it printed  no GPU here" in first.stdout
    assert "shapes differ" in again.stdout


@pytest.mark.parametrize("wrong", ["early", "late"])
def test_a_training_that_ends_before_the_kill_is_counted(tried, wrong):
    """Where none could be killed before its last checkpoint, nothing was tried."""
    code, report = tried(wrong, "--kill-after", "2")
    assert (code, report["outcome"], report["ended_early"]) == (13, "not tried", 1)


def test_a_training_without_a_name_is_told_to_have_one(tried):
    """In a trial it has one; anywhere else a restart would not find it."""
    code, report = tried("unnamed", "--kill-after", "3")
    assert code == 0
    assert any("no name" in note for note in report["notes"])


def test_a_script_that_hangs_is_ended(tried):
    """After --timeout seconds."""
    code, report = tried("hangs", "--timeout", "1")
    assert (code, report["outcome"]) == (13, "not tried")
    assert "not done after 1 s" in report["headline"]


def test_what_the_script_started_dies_with_it(tried):
    """Also in a session of its own, as launchers start their ranks."""
    code, _ = tried("child", "--kill-after", "4")
    found = subprocess.run(
        ["ps", "-o", "stat=", "-p", Path("child").read_text()], capture_output=True, text=True, check=False
    )
    assert code == 0
    # dead; whether somebody has asked for its status is not ours to say
    assert found.stdout.strip()[:1] in ("", "Z")


SIGNALLING = """
import os, pathlib, signal, sys
pathlib.Path("child").write_text(str(os.getpid()))
os.kill(os.getppid(), getattr(signal, sys.argv[1]))
while True:
    signal.pause()
"""


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_trial_that_is_ended_leaves_nothing_behind(name, status, tmp_path):
    """The script dies with it, and the temporary stores are gone."""
    command = [sys.executable, "-m", "ckpt_tracker", "verify-resume", "--", sys.executable, "-c", SIGNALLING, name]
    done = subprocess.run(
        # a shell that starts it in the background would have it ignore Ctrl-C, and nohup SIGHUP
        [sys.executable, "-c", AS_IN_A_TERMINAL, *command],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    child = subprocess.run(
        ["ps", "-o", "stat=", "-p", Path("child").read_text()], capture_output=True, text=True, check=False
    )
    assert done.returncode == status
    assert child.stdout.strip()[:1] in ("", "Z")
    assert [*tmp_path.glob("ckpt-trial-*")] == []


def test_a_table_shows_where_and_by_how_much(ckpt):
    """Without --json: the checkpoint, its leaves, the cause and what to do."""
    result = ckpt("verify-resume", "--kill-after", "4", "--", sys.executable, SCRIPT, "generator")
    lines = result.stdout.splitlines()
    assert lines[0].startswith(
        "different        killed when 4 checkpoints were durable, the training went on from toy@v4"
    )
    assert lines[1] == "first differing  run toy, epoch 4, step 20: 3 leaves of it"
    assert lines[2].split()[:7] == ["model.weights", "float64", "[8]:", "8", "of", "8", "elements,"]
    assert lines[-2].startswith("likely cause")
    assert "numpy Generator (PCG64) `Noisy.rng`: after the restart it began anew" in lines[-2]
    assert lines[-1].startswith("what to do")
    assert '"extra": {"rng": ...}' in lines[-1]
    assert result.stderr == ""


def test_the_stores_can_be_kept(tried, ckpt, tmp_path):
    """With what the script printed, in a folder that was empty."""
    kept = tmp_path / "kept"
    assert tried("", "--kill-after", "2", "--keep", kept)[0] == 0
    names = {each.name for each in kept.iterdir()}
    assert {"whole-1", "whole-2", "kill-1", "whole-1.log"} <= names
    assert ckpt("ls", "toy", "--store", kept / "kill-1").exit_code == 0
    assert ckpt("verify-resume", "--keep", kept, "--", "true").exit_code == 2


def test_the_output_of_the_script_is_shown_when_asked_for(ckpt_process):
    """On stderr, with a heading for each start; stdout holds the result alone."""
    result = ckpt_process("verify-resume", "-v", "--", sys.executable, SCRIPT, "fails")
    assert result.stderr.splitlines() == ["--- training 1 of 4: uninterrupted", "no GPU here"]
    assert result.stdout.splitlines()[0].startswith("not tried")


@pytest.mark.parametrize(
    "options",
    [
        ["--kill-after", "0"],
        ["--runs", "0"],
        ["--timeout", "-1"],
        ["--kill", "random", "--kill-after", "1"],
        ["--kill", "x"],
    ],
)
def test_an_option_that_means_nothing_is_refused(ckpt, options):
    """Before anything is started."""
    assert ckpt("verify-resume", *options, "--", sys.executable, "-c", "open('started', 'w')").exit_code == 2
    assert not Path("started").exists()


def test_a_command_that_is_none_is_refused(ckpt):
    """By its name."""
    result = ckpt("verify-resume", "--", "no-such-program", "--lr", "3")
    assert result.exit_code == 2
    assert "'no-such-program' can't be started" in result.stderr


def test_a_kill_after_more_checkpoints_than_there_are_is_told(tried):
    """With the numbers that it can be."""
    code, report = tried("", "--kill-after", "5")
    assert code == 13
    assert "1 to 4" in report["remedy"]
