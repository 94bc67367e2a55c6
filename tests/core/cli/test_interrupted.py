"""Ctrl-C at any moment of a command that changes the store: exit code 130, and nothing is half done."""

from __future__ import annotations

import json
import os

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="each try is a process of its own")

# Each try is a fork that gets its SIGINT at the n-th thing it does to a file, until one comes to its end.
TRIES = """
import json, os, shutil, signal, sys
from ckpt_tracker import Store
from ckpt_tracker.cli.app import ckpt

store, arguments = sys.argv[1], json.loads(sys.argv[2])
CALLS = {"open", "os.rename", "os.remove", "os.utime", "os.mkdir", "fcntl.flock", "sqlite3.connect"}
left = 0

def count(event, _):
    global left
    if left and event in CALLS:
        left -= 1
        if not left:
            signal.raise_signal(signal.SIGINT)

def attempt(number):
    global left
    shutil.rmtree("copy", ignore_errors=True)
    shutil.copytree(store, "copy")
    child = os.fork()
    if not child:
        sys.stderr = open(os.devnull, "w")
        left = number
        try:
            ckpt([*arguments, "--store", "copy"], prog_name="ckpt")
        except SystemExit as ended:
            os._exit(ended.code or 0)
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def found():
    with Store("copy") as opened:
        report = opened.verify(deep=True)
        kept = [each.ref for run in opened.runs() for each in run.checkpoints()]
        trashed = [each.checkpoint.ref for each in opened.trash() if not each.stripped]
        return report.ok, sorted({*kept, *trashed}), sorted({*kept} & {*trashed}), sorted(kept)

import ckpt_tracker.cli.prune, ckpt_tracker.cli.undo, ckpt_tracker.cli.tag, ckpt_tracker.retention.trash
import ckpt_tracker.inspection.verification, ckpt_tracker.index.migrations, numpy, orjson, sqlite_utils
sys.addaudithook(count)
codes, states = [], []
while not codes or codes[-1] == 130:
    codes.append(attempt(len(codes) + 1))
    states.append(found())
print(json.dumps([codes, states]))
"""


@pytest.mark.parametrize(
    "arguments", [["prune", "mnist", "--keep", "last:1", "--yes"], ["tag", "mnist@v2", "x"]], ids=lambda each: each[0]
)
def test_ctrl_c_leaves_nothing_half_done(mnist, python, arguments):
    """Whatever it hits, every checkpoint is in its run or in the trash, whole, and the store verifies."""
    codes, states = json.loads(python(TRIES, mnist, json.dumps(arguments)).splitlines()[-1])
    assert len(codes) > 10
    assert {*codes[:-1]} == {130}
    assert codes[-1] == 0
    for ok, everywhere, twice, _ in states:
        assert ok
        assert everywhere == ["gan@v1", "mnist@v1", "mnist@v2", "mnist@v3"]
        assert twice == []


def test_ctrl_c_in_an_undo_is_made_good_by_another_one(ckpt, mnist, python):
    """What was in the trash is there still, or back in its run."""
    assert ckpt("prune", "mnist", "--keep", "last:1", "--yes", "--store", mnist).exit_code == 0
    codes, states = json.loads(python(TRIES, mnist, json.dumps(["undo"])).splitlines()[-1])
    assert {*codes[:-1]} == {130}
    assert codes[-1] == 0
    assert all(ok for ok, *_ in states)
    assert {tuple(everywhere) for _, everywhere, *_ in states} == {("gan@v1", "mnist@v1", "mnist@v2", "mnist@v3")}
    assert states[-1][-1] == ["gan@v1", "mnist@v1", "mnist@v2", "mnist@v3"]
