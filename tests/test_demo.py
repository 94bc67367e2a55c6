"""`ckpt demo`: a real kill, and an end that is equal to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner
from json_shapes import faults

from ckpt_tracker import Store
from ckpt_tracker.cli.app import ckpt as group
from ckpt_tracker.cli.demo_story import Story
from ckpt_tracker.cli.schemas import SCHEMAS

pytest.importorskip("torch")
pytest.importorskip("sklearn")

COMMAND = [sys.executable, "-m", "ckpt_tracker", "demo"]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The demo, run once, with what it printed and the store that it kept."""
    folder = tmp_path_factory.mktemp("demo")
    environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
    (folder / "tmp").mkdir()
    ended = subprocess.run(
        [*COMMAND, "--keep", "kept"],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder, ended.stdout


@pytest.mark.slow
def test_the_restarted_training_ends_as_the_uninterrupted_one(told):
    """The digest that is printed is that of the last checkpoint, and equal to the one of the other training."""
    folder, printed = told
    lines = dict(line.split(maxsplit=1) for line in printed.splitlines() if line.startswith(("digest", "best ")))
    with Store(folder / "kept", create=False) as store:
        run = store.find_run("digits")
        assert lines["digest"] == run.last().digest
        assert lines["best"].startswith(run.best().ref)
    assert printed.count(lines["digest"]) == 2
    assert "equal: every tensor" in printed


@pytest.mark.slow
def test_it_was_killed_inside_an_epoch_and_went_on(told):
    """Every epoch has one checkpoint, and the ones after the kill come from a process that continued."""
    folder, printed = told
    assert "killed with SIGKILL in epoch 4, after batch 11" in printed
    assert "continues from digits@v" in printed
    with Store(folder / "kept", create=False) as store:
        checkpoints = store.find_run("digits").checkpoints()
    assert [each.epoch for each in checkpoints] == list(range(8))
    assert [each.parents[0].ref for each in checkpoints[1:]] == [each.ref for each in checkpoints[:-1]]


@pytest.mark.slow
def test_it_leaves_nothing_in_the_temporary_folder(told):
    """What it does not keep is gone."""
    folder, _ = told
    assert list((folder / "tmp").glob("ckpt-demo-*")) == []


@pytest.mark.slow
def test_a_second_demo_in_the_same_store_is_a_run_of_its_own(told):
    """`--json` prints one document of measured values; the name `digits` is taken, so it is the next."""
    folder, _ = told
    ended = subprocess.run(
        [*COMMAND, "--json", "--store", "kept"], capture_output=True, text=True, cwd=folder, timeout=300, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    found = json.loads(ended.stdout)
    assert [*faults(found, SCHEMAS["demo"])] == []
    assert (found["run"], found["equal"]) == ("digits-2", True)
    assert found["digest"] == found["uninterrupted_digest"] == found["checkpoints"][-1]["digest"]
    assert found["stall_seconds"] == sum(each["stall_seconds"] for each in found["checkpoints"])
    assert found["store"] == str(folder / "kept")


def test_the_verdict_comes_from_the_digests(tmp_path):
    """A story whose two ends differ is not equal, whatever else it measured."""
    with Store(tmp_path / "store") as store:
        record = store.run("digits").save({"model": {}}).record
    story = Story(tmp_path, "digits", [record], record, None, None, 1.0, "0" * 64)
    assert not story.equal
    assert Story(tmp_path, "digits", [record], record, None, None, 1.0, record.digest).equal


@pytest.mark.slow
def test_ctrl_c_stops_the_training_too(tmp_path):
    """Interrupted in the middle: exit code 130, no process and no temporary folder left."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    with process:
        assert process.stdout is not None
        next(line for line in process.stdout if "epoch 0" in line)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "ckpt: interrupted\n")
    assert list(tmp_path.glob("ckpt-demo-*")) == []


def test_a_training_that_fails_is_reported_with_its_last_lines(tmp_path):
    """When the training itself can't run, its own words are shown."""
    (tmp_path / "sklearn.py").write_text("raise ImportError('this scikit-learn is broken')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "TMPDIR": str(tmp_path)}
    ended = subprocess.run(COMMAND, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert ended.returncode == 1
    assert "ckpt: the training ended with exit code 1:" in ended.stderr
    assert "this scikit-learn is broken" in ended.stderr


def test_a_folder_of_something_else_is_not_trained_into(tmp_path):
    """The place for the demo's store is looked at before anything is trained: exit code 4."""
    (tmp_path / "notes.txt").touch()
    result = CliRunner().invoke(group, ["demo", "--store", str(tmp_path)])
    assert result.exit_code == 4
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]
