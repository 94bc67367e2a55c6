"""`ckpt du`: what takes the space, and what would free it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ckpt_tracker import Store

KB = 100_000


def tensor(value):
    """100 kB of one value."""
    return np.full(KB // 8, float(value))


@pytest.fixture
def shared(path):
    """Two runs that share an encoder; of the first each epoch's head is its own."""
    with Store(path) as store:
        for epoch in range(3):
            state = {"model": {"encoder": tensor(0), "head": tensor(epoch + 1)}, "optimizer": {"m": tensor(epoch + 11)}}
            store.run("a").save(state, epoch=epoch, metrics={"loss": epoch}).wait()
        store.run("b").save({"model": {"encoder": tensor(0)}}).wait()
    return path


def document(result):
    """The JSON that a call printed."""
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_what_is_shared_counts_once(ckpt, shared):
    """By run: what stands alone, what it needs, what nothing else needs; by section each tensor once."""
    found = document(ckpt("du", "--store", shared, "--json"))
    runs = {each["run"]: (each["nbytes"], each["needed_bytes"], each["own_bytes"]) for each in found["runs"]}
    assert runs == {"a": (9 * KB, 7 * KB, 6 * KB), "b": (KB, KB, 0)}
    sections = {each["section"]: (each["nbytes"], each["needed_bytes"]) for each in found["sections"]}
    assert sections == {"model": (7 * KB, 4 * KB), "optimizer": (3 * KB, 3 * KB)}
    assert (found["object_bytes"], found["trash_bytes"], found["unneeded_bytes"]) == (7 * KB, 0, 0)


def test_it_tells_what_a_prune_would_free(ckpt, shared):
    """By `--keep`, of each run and of all; that is what the prune frees then, and nothing has changed before."""
    found = document(ckpt("du", "--keep", "last:1", "--store", shared, "--json"))
    assert [each["prunable_bytes"] for each in found["runs"]] == [4 * KB, 0]
    assert found["prunable_bytes"] == 4 * KB
    assert document(ckpt("prune", "--keep", "last:1", "--yes", "--store", shared, "--json"))["freed_bytes"] == 4 * KB
    after = document(ckpt("du", "--store", shared, "--json"))
    assert (after["object_bytes"], after["trash_bytes"]) == (7 * KB, 4 * KB)
    ckpt("trash", "--empty", "--store", shared)
    assert document(ckpt("du", "--store", shared, "--json"))["object_bytes"] == 3 * KB


def test_people_are_told_what_to_do(ckpt, shared):
    """The largest run first, then the sections, then the sum with the command that frees something."""
    lines = ckpt("du", "--keep", "last:1", "--store", shared).stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["run", "a", "b"]
    assert lines[1].split() == ["a", "3", "900", "kB", "700", "kB", "600", "kB", "400", "kB"]
    assert [line.split()[0] for line in lines[4:7]] == ["section", "model", "optimizer"]
    assert lines[8] == "on disk  700 kB in all, 1.4 times that without sharing"
    assert lines[9] == "prune    400 kB would be freed: ckpt prune --keep last:1 shows how"


def test_what_lies_in_the_trash_is_no_loss_of_sharing(ckpt, shared):
    """Its bytes are on the disk, and no checkpoint needs them."""
    ckpt("prune", "--keep", "last:1", "--yes", "--store", shared)
    lines = ckpt("du", "--store", shared).stdout.splitlines()
    assert "on disk  700 kB in all, the 300 kB that checkpoints need would be 1.3 times that without sharing" in lines


def test_the_retention_that_all_runs_have_is_named(ckpt, shared):
    """So that the command that is shown can be run as it is."""
    with Store(shared) as store:
        for run in ("a", "b"):
            store.record_event(run, "start", keep="last:1")
    lines = ckpt("du", "--store", shared).stdout.splitlines()
    assert lines[9] == "prune    400 kB would be freed: ckpt prune --keep last:1 shows how"


def test_a_manifest_that_cannot_be_read_is_named(ckpt, shared, caplog):
    """The rest is counted."""
    manifest = shared / "runs/a/manifests/000001.json"
    manifest.write_bytes(manifest.read_bytes()[:-9])
    found = document(ckpt("du", "--store", shared, "--json"))
    assert found["runs"][0]["checkpoints"] == 2
    assert "a@v1 is not counted" in caplog.text
