"""Errors of the command line: one line on stderr, an exit code of their kind, and nothing made or changed."""

from __future__ import annotations

import importlib.util
import json
import shutil

import pytest

from ckpt_tracker import Store


def test_a_missing_store_names_the_nearest(ckpt, mnist):
    """A store that is not there is exit code 3, with the store that was probably meant."""
    result = ckpt("ls", "--store", "stor")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == (
        "ckpt: there is no store at stor: name one with --store or $CKPT_TRACKER_STORE; did you mean 'store'?\n"
    )


def test_inside_a_store_that_store_is_meant(ckpt, mnist, monkeypatch):
    """Somebody went there to look at its files."""
    monkeypatch.chdir(mnist / "runs")
    result = ckpt("ls")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.endswith("; the current folder is in one: --store ..\n")


def test_a_missing_run_names_the_nearest(ckpt, mnist):
    """A run that is not there is exit code 3."""
    result = ckpt("ls", "mnits", "--store", mnist)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == "ckpt: there is no run 'mnits' in store; did you mean 'mnist'?\n"


def test_a_missing_checkpoint_names_the_nearest(ckpt, mnist):
    """A reference that matches nothing is exit code 3."""
    result = ckpt("show", "mnist@papr", "--store", mnist)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "did you mean 'paper'?" in result.stderr


def test_a_reference_that_is_none_is_a_wrong_argument(ckpt, mnist):
    """What can't be a reference is exit code 2, with the forms that can."""
    result = ckpt("show", "mnist@a:b", "--store", mnist)
    assert result.exit_code == 2
    assert "expected RUN, RUN@last" in result.stderr


def test_a_folder_of_something_else_is_no_store(ckpt, tmp_path):
    """A folder with other files is exit code 4, and stays as it is."""
    (tmp_path / "notes.txt").touch()
    result = ckpt("runs", "--store", tmp_path)
    assert result.exit_code == 4
    assert "notes.txt" in result.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]


def test_a_store_of_a_later_format_is_refused(ckpt, mnist, contents):
    """A store that a later version wrote is exit code 4, and is not touched."""
    (mnist / "store.json").write_text('{"format": 99}')
    before = contents(mnist)
    result = ckpt("runs", "--store", mnist)
    assert (result.exit_code, result.stdout) == (4, "")
    assert "format 99" in result.stderr
    assert contents(mnist) == before


def test_a_damaged_store_file_is_damage(ckpt, mnist):
    """A store.json with other bytes than were written is exit code 5."""
    (mnist / "store.json").write_text("{}")
    result = ckpt("runs", "--store", mnist)
    assert result.exit_code == 5
    assert "store.json" in result.stderr


def test_a_damaged_index_is_rebuilt_and_said(ckpt, mnist):
    """A damaged index costs nothing but a line on stderr."""
    for each in mnist.glob("index.sqlite*"):
        each.unlink()
    (mnist / "index.sqlite").write_bytes(b"no database at all" * 100)
    result = ckpt("ls", "mnist", "--store", mnist, "--json")
    assert result.exit_code == 0
    assert [each["version"] for each in json.loads(result.stdout)] == [1, 2, 3]


def test_an_unknown_command_names_the_nearest(ckpt):
    """A command that is not there is exit code 2."""
    result = ckpt("exprot")
    assert result.exit_code == 2
    assert "did you mean 'export'?" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["runs"], ["ls"], ["show", "r"], ["best", "r"], ["verify"], ["export", "r", "f.npz"]]
)
def test_looking_never_makes_a_store(ckpt, tmp_path, arguments):
    """Where there is no store, no command leaves anything behind."""
    result = ckpt(*arguments)
    assert (result.exit_code, result.stdout) == (3, "")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_other_peoples_runs_is_no_store(ckpt, tmp_path):
    """TensorBoard keeps its logs in a folder `runs` too: looking makes no store of it."""
    (tmp_path / "logs" / "runs" / "exp1").mkdir(parents=True)
    result = ckpt("ls", "--store", tmp_path / "logs")
    assert result.exit_code == 3
    assert [each.name for each in (tmp_path / "logs").iterdir()] == ["runs"]


def test_the_store_comes_from_before_or_after_the_command(ckpt, mnist):
    """`ckpt --store DIR runs` and `ckpt runs --store DIR` are the same, and the latter wins over the former."""
    after = ckpt("runs", "--store", mnist, "--json")
    assert ckpt("--store", mnist, "runs", "--json").stdout == after.stdout
    assert ckpt("--store", "elsewhere", "runs", "--store", mnist, "--json").stdout == after.stdout


def test_the_store_comes_from_the_environment(ckpt, mnist):
    """`$CKPT_TRACKER_STORE` is the store where no `--store` is given."""
    result = ckpt("runs", "--json", env={"CKPT_TRACKER_STORE": str(mnist)})
    assert [each["name"] for each in json.loads(result.stdout)] == ["mnist", "gan"]


def test_the_default_store_is_the_folder_checkpoints(ckpt, mnist, tmp_path):
    """Without any other word it is `./checkpoints`."""
    shutil.move(mnist, tmp_path / "checkpoints")
    assert ckpt("runs").exit_code == 0


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed here")
def test_a_missing_package_names_the_command_that_installs_it(ckpt, mnist, tmp_path):
    """What needs torch, scikit-learn or Keras is exit code 10 without it, and makes nothing."""
    wanted = {("export", "mnist", "m.pt"): "[torch]", ("export", "mnist", "m.keras"): "[keras]", ("demo",): "[demo]"}
    for arguments, extra in wanted.items():
        result = ckpt(*arguments, "--store", mnist)
        assert (result.exit_code, result.stdout) == (10, "")
        assert f'pip install "ckpt-tracker{extra}"' in result.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["store"]


def test_as_a_module_it_is_the_same(ckpt, ckpt_process, mnist):
    """`python -m ckpt_tracker` prints what `ckpt` does, and ends with the same exit code."""
    arguments = ["ls", "mnist", "--store", mnist, "--json"]
    assert ckpt_process(*arguments).stdout == ckpt(*arguments).stdout
    missing = ckpt_process("ls", "nobody", "--store", mnist)
    assert (missing.returncode, missing.stdout) == (3, "")
    assert missing.stderr == "ckpt: there is no run 'nobody' in store; there are: mnist, gan\n"


def test_paths_elsewhere_stay_absolute(ckpt, mnist, tmp_path, monkeypatch):
    """A path below the current folder is printed relative to it; any other is not."""
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    assert f"in {mnist};" in ckpt("ls", "nobody", "--store", mnist).stderr


def test_an_empty_store_says_so_and_prints_nothing(ckpt, path):
    """Nothing to list is no error; the words go to stderr, so that a program reads an empty list."""
    Store(path).close()
    for name in ("runs", "ls"):
        result = ckpt(name, "--store", path)
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr.startswith("the store store has no ")
        assert json.loads(ckpt(name, "--store", path, "--json").stdout) == []
