"""`ckpt verify`: sizes, or every byte; what is damaged is named, and is exit code 5."""

from __future__ import annotations

import json

import pytest

from ckpt_tracker import Store


@pytest.fixture
def largest(mnist):
    """The file of the encoder, which all checkpoints of `mnist` share."""
    return max(
        (each for each in (mnist / "objects").rglob("*") if each.is_file()), key=lambda each: each.stat().st_size
    )


def flip_a_bit(file):
    """Damages a file without changing its size."""
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)


def test_a_whole_store_passes(ckpt, mnist):
    """`ckpt verify` says what it looked at, and ends with 0."""
    result = ckpt("verify", "--store", mnist)
    assert result.exit_code == 0
    assert result.stdout.startswith(
        "4 checkpoints, 5 objects (sizes only, --deep reads every byte): nothing is damaged"
    )


def test_deep_reads_every_byte(ckpt, mnist):
    """`--deep` reads each object once."""
    found = json.loads(ckpt("verify", "--deep", "--store", mnist, "--json").stdout)
    sizes = [each.stat().st_size for each in (mnist / "objects").rglob("*") if each.is_file()]
    assert found == {
        "ok": True,
        "deep": True,
        "checkpoints": 4,
        "objects": len(sizes),
        "bytes_read": sum(sizes),
        "findings": [],
        "lost": [],
    }


def test_a_missing_object_is_found_by_size(ckpt, mnist, largest):
    """Without `--deep` a missing file is found, and named with each checkpoint that needs it."""
    largest.unlink()
    result = ckpt("verify", "--store", mnist)
    assert result.exit_code == 5
    *findings, summary = result.stdout.splitlines()
    assert [line.partition(":")[0] for line in findings] == ["mnist@v1", "mnist@v2", "mnist@v3"]
    assert all(f"store/objects/{largest.parent.name}/{largest.name}" in line for line in findings)
    assert summary.endswith("3 checkpoints damaged")


def test_a_flipped_bit_is_found_by_deep(ckpt, mnist, largest):
    """A changed byte keeps its size: only `--deep` finds it."""
    flip_a_bit(largest)
    assert ckpt("verify", "--store", mnist).exit_code == 0
    result = ckpt("verify", "--deep", "--store", mnist, "--json")
    assert result.exit_code == 5
    found = json.loads(result.stdout)
    assert found["ok"] is False
    assert {(each["ref"], each["path"]) for each in found["findings"]} == {
        (f"mnist@v{version}", str(largest)) for version in (1, 2, 3)
    }


def test_one_run_alone(ckpt, mnist, largest):
    """`ckpt verify RUN` looks at that run, and does not mind the damage of another."""
    largest.unlink()
    assert ckpt("verify", "gan", "--store", mnist).exit_code == 0
    assert ckpt("verify", "mnist", "--store", mnist).exit_code == 5


def test_a_damaged_manifest_is_named(ckpt, mnist):
    """A manifest with other bytes than were written is a finding, with its file."""
    manifest = mnist / "runs/mnist/manifests/000002.json"
    flip_a_bit(manifest)
    result = ckpt("verify", "--store", mnist)
    assert result.exit_code == 5
    assert "mnist@v2: " in result.stdout
    assert "store/runs/mnist/manifests/000002.json" in result.stdout


def test_a_run_without_checkpoints_passes(ckpt, path):
    """Nothing to check is nothing damaged."""
    with Store(path) as store:
        store.run("new")
    assert ckpt("verify", "--store", path).stdout.startswith("0 checkpoints, 0 objects")
