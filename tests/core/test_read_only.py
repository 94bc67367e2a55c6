"""A store that can't be written opens all the same, with its index in the user's cache folder, and refuses to save."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ckpt_tracker import Store

pytestmark = pytest.mark.skipif(not hasattr(os, "getuid"), reason="permissions are POSIX's here")

# The superuser may write everywhere: the question is asked as nobody, once everything is imported.
AS_NOBODY = """
import os, sys
import numpy, orjson, sqlite_utils
import ckpt_tracker.cli, ckpt_tracker.index.migrations, ckpt_tracker.tracker
from ckpt_tracker import Store
from ckpt_tracker.errors import CkptTrackerError
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
os.environ["XDG_CACHE_HOME"] = sys.argv[2]
"""


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that any user may reach; pytest's own are private."""
    folder = Path(tempfile.mkdtemp()).resolve()
    folder.chmod(0o755)
    if not all(each.stat().st_mode & 0o001 for each in (folder, *folder.parents)):
        pytest.skip(f"another user can't reach {folder}")
    yield folder
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def locked(shared: Path) -> Path:
    """A store that nobody may write, with two checkpoints."""
    with Store(shared / "store") as store:
        for epoch in range(2):
            state = {"model": {"w": np.full(20_000, epoch)}}
            store.run("r").save(state, epoch=epoch, metrics={"loss": 1.0 - epoch}).wait()
    for path in (shared / "store").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (shared / "store").chmod(0o555)
    (shared / "cache").mkdir()
    (shared / "cache").chmod(0o777)
    return shared / "store"


@pytest.fixture
def ask(locked: Path, python: Callable[..., str]) -> Callable[[str], str]:
    """Runs code as nobody, with `store` open."""

    def run(code: str) -> str:
        lines = "\n".join(f"    {line}" for line in code.strip().splitlines())
        return python(f"{AS_NOBODY}\nwith Store(sys.argv[1]) as store:\n{lines}\n", locked, locked.parent / "cache")

    return run


def test_everything_can_be_read(ask: Callable[[str], str]) -> None:
    """References, metrics, states, plans and verification."""
    output = ask(
        """
print(store.read_only, store["r@best:loss:min"].ref, store["r@last"].load("model")["w"].sum())
print(store.verify(deep=True).ok, [each.keep for each in store.run("r").plan("last:1").decisions])
"""
    )
    assert output == "True r@v2 20000\nTrue [False, True]"


def test_nothing_in_the_store_changes(
    locked: Path, ask: Callable[[str], str], contents: Callable[[Path], dict[str, bytes]]
) -> None:
    """The index is in the cache folder."""
    before = contents(locked)
    ask('print(store["r@last"].ref)')
    assert contents(locked) == before
    assert [file.suffix for file in (locked.parent / "cache" / "ckpt_tracker").glob("*.sqlite")] == [".sqlite"]


WRITES = {
    "save": 'store.run("r").save({"loop": {}})',
    "start a run": 'store.run("new")',
    "tag": 'store.run("r").tag("x")',
    "apply": 'store.apply(store.plan("last:1"))',
    "gc": "store.gc()",
    "tracker": 'ckpt_tracker.tracker.Tracker(store, "r").begin()',
}


@pytest.mark.parametrize("call", WRITES.values(), ids=WRITES.keys())
def test_whatever_would_write_is_refused(ask: Callable[[str], str], call: str) -> None:
    """With our own error, which is a PermissionError, and names the store."""
    output = ask(
        f"""
try:
    {call}
except CkptTrackerError as error:
    print(type(error).__name__, isinstance(error, PermissionError), str(store.path) in str(error))
"""
    )
    assert output == "StoreReadOnly True True"


def test_a_cached_index_follows_the_store(
    shared: Path, locked: Path, ask: Callable[[str], str], python: Callable[..., str]
) -> None:
    """What its owner adds later is seen at the next opening."""
    assert ask('print(store["r@last"].ref)') == "r@v2"
    for path in [locked, *locked.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    with Store(locked) as store:
        store.run("r").save({"loop": {}}).wait()
    for path in [locked, *locked.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert ask('print(store["r@last"].ref)') == "r@v3"
