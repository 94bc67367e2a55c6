"""Every command on every kind of bad store: a documented exit code and words on stderr, and nothing made or lost."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest

from ckpt_tracker import Store
from ckpt_tracker.cli.app import COMMANDS
from ckpt_tracker.cli.command import EXIT_STATUS

ONE = ["mnist@v1"]
ARGUMENTS = {
    **dict.fromkeys(("show", "why", "metrics", "pin", "unpin", "rm"), ONE),
    **{name: ["mnist"] for name in ("best", "watch")},
    "diff": ["mnist@v1", "mnist@v2"],
    "rm": ["mnist@v2"],
    "tag": ["mnist@v1", "x"],
    "prune": ["--keep", "last:1"],
    "export": ["mnist@v1", "out.npz"],
}
# these begin stores of their own, or make the run that they name
OWN = ("demo", "verify-resume", "import", "compact")
TRIED = [name for name in COMMANDS if name not in OWN]
NAMES_ONE = [name for name in ARGUMENTS if name != "prune"]


def told(ckpt, name, store, *arguments):
    """Exit code and message of a command; what it says is a message, and no traceback."""
    result = ckpt(name, *(arguments or ARGUMENTS.get(name, [])), "--store", store)
    assert result.exit_code in EXIT_STATUS
    if result.exit_code not in (0, 5):
        assert result.stdout == ""
        assert result.stderr.startswith("ckpt: ")
    return result.exit_code, result.stderr


@pytest.mark.parametrize("name", TRIED)
def test_a_missing_store_is_named_with_the_nearest(ckpt, mnist, tmp_path, name):
    """Exit code 3, and no folder is made."""
    code, said = told(ckpt, name, "stroe")
    assert code == 3
    assert "there is no store at stroe" in said
    assert "did you mean 'store'?" in said
    assert [each.name for each in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("name", TRIED)
def test_a_folder_of_something_else_is_left_alone(ckpt, tmp_path, name):
    """Exit code 4, and what is in it stays."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    code, said = told(ckpt, name, "photos")
    assert (code, "photos is not a store" in said) == (4, True)
    assert [each.name for each in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


@pytest.mark.parametrize("name", TRIED)
def test_an_empty_store_has_nothing(ckpt, path, name):
    """What lists is done; what needs a checkpoint is told that there is none."""
    Store(path).close()
    code, said = told(ckpt, name, path)
    assert code == (3 if name in NAMES_ONE or name == "undo" else 0)
    if name in NAMES_ONE:
        assert "there is no run 'mnist' in store" in said


@pytest.mark.parametrize("name", NAMES_ONE)
def test_an_unknown_run_is_named_with_the_nearest(ckpt, mnist, name):
    """Exit code 3 with the run that may be meant."""
    arguments = [each.replace("mnist", "mnits") for each in ARGUMENTS[name]]
    code, said = told(ckpt, name, mnist, *arguments)
    assert code == 3
    assert "there is no run 'mnits' in store; did you mean 'mnist'?" in said


@pytest.mark.parametrize("name", ["show", "why", "metrics", "pin", "unpin", "rm", "export", "tag"])
def test_an_unknown_checkpoint_is_named_with_the_nearest(ckpt, mnist, name):
    """Exit code 3 with the references that may be meant."""
    _, *rest = ARGUMENTS[name]
    code, said = told(ckpt, name, mnist, "mnist@pper", *rest)
    assert code == 3
    assert "did you mean 'paper'?" in said


@pytest.mark.parametrize("name", TRIED)
def test_a_damaged_index_is_made_anew(ckpt, mnist, name):
    """It is a cache: the command does what it would have done."""
    (mnist / "index.sqlite").write_bytes(b"SQLite format 3\0" + bytes(5000))
    code, _ = told(ckpt, name, mnist)
    assert code == (3 if name == "undo" else 0)
    with sqlite3.connect(mnist / "index.sqlite") as index:
        assert index.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    index.close()


@pytest.mark.parametrize("name", TRIED)
def test_a_damaged_manifest_costs_its_own_checkpoint_only(ckpt, mnist, name):
    """What needs it says that it is damaged, exit code 5; the rest goes on, and nothing is lost."""
    (mnist / "index.sqlite").unlink()
    manifest = mnist / "runs/mnist/manifests/000001.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"epoch":0', b'"epoch":7'))
    code, _ = told(ckpt, name, mnist)
    needed = name in NAMES_ONE and name not in ("best", "rm", "watch")
    checks = name in ("verify", "repair", "gc", "trash")
    assert code in ((5,) if needed or checks else (0, 3, 5)), code
    assert manifest.exists()
    assert told(ckpt, "show", mnist, "mnist@v3")[0] == 0


AS_NOBODY = """
import json, os, sys
import ckpt_tracker.index.migrations  # what makes an index is not imported for one that is there
from click.testing import CliRunner
from ckpt_tracker.cli.app import ckpt

def run(store):
    for name, arguments in json.loads(sys.argv[2]).items():
        yield name, CliRunner().invoke(ckpt, [name, *arguments, "--store", store])

list(run(sys.argv[1] + "/writable"))  # imports what nobody may not
os.chdir(sys.argv[1] + "/open")
os.environ["XDG_CACHE_HOME"] = sys.argv[1] + "/open"
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
print(json.dumps({name: [done.exit_code, done.stderr] for name, done in run(sys.argv[1] + "/locked")}))
"""


@pytest.fixture
def shared(mnist):
    """A folder that any user may reach, with the store twice: one that nobody may write, and one that root may."""
    folder = Path(tempfile.mkdtemp()).resolve()
    folder.chmod(0o755)
    if not all(each.stat().st_mode & 0o001 for each in (folder, *folder.parents)):
        pytest.skip(f"another user can't reach {folder}")
    for name in ("locked", "writable"):
        shutil.copytree(mnist, folder / name)
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    for path in (folder / "locked", *(folder / "locked").rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield folder
    for path in (folder / "locked", *(folder / "locked").rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(folder)


def test_a_read_only_store_can_be_looked_at(shared, python):
    """What changes something is refused with exit code 4 and the reason; whatever looks does as ever."""
    calls = {name: ARGUMENTS.get(name, []) for name in TRIED} | {"prune": ["--keep", "last:1", "--yes"]}
    done = json.loads(python(AS_NOBODY, shared, json.dumps(calls)).splitlines()[-1])
    changes = ("tag", "pin", "unpin", "prune", "rm", "undo", "gc")
    assert {name: code for name, (code, _) in done.items()} == {name: 4 * (name in changes) for name in TRIED}
    assert all("can't be written" in done[name][1] for name in changes)
