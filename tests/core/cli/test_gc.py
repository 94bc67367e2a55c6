"""`ckpt gc`: what no checkpoint needs is deleted, or only counted."""

from __future__ import annotations

import json

import pytest

from ckpt_tracker import Store


@pytest.fixture
def littered(mnist):
    """The store with what a killed save left: an object that no manifest names, and a file in tmp. 30 kB in all."""
    with Store(mnist) as store:
        name = "ab" * 32
        store.objects.path(name).parent.mkdir(exist_ok=True)
        store.objects.path(name).write_bytes(b"x" * 20_000)
        (store.layout.tmp / "left").write_bytes(b"x" * 10_000)
    return mnist


def files(store):
    """Every file that is no index and no lock."""
    found = (each for each in store.rglob("*") if each.is_file())
    return {each: each.stat().st_size for each in found if "index" not in each.name and "lock" not in str(each)}


def test_a_dry_run_counts_and_deletes_nothing(ckpt, littered):
    """What it says would be freed is what is freed then."""
    before = files(littered)
    assert ckpt("gc", "--dry-run", "--store", littered).stdout == "30.0 kB would be freed\n"
    assert files(littered) == before
    assert json.loads(ckpt("gc", "--store", littered, "--json").stdout) == {"dry_run": False, "freed_bytes": 30_000}
    assert sum(before.values()) - sum(files(littered).values()) == 30_000
    assert ckpt("gc", "--store", littered).stdout == "0 B freed\n"
    assert ckpt("verify", "--deep", "--store", littered).exit_code == 0


def test_nothing_is_deleted_while_a_manifest_is_unreadable(ckpt, littered):
    """Exit code 5, and the manifest is named."""
    manifest = littered / "runs" / "gan" / "manifests" / "000001.json"
    manifest.write_bytes(manifest.read_bytes()[:-5])
    before = files(littered)
    result = ckpt("gc", "--store", littered)
    assert result.exit_code == 5
    assert "gan/manifests/000001.json" in result.stderr
    assert files(littered) == before
