"""`ckpt compact`: fewer bytes, and how many; the same checkpoints."""

from __future__ import annotations

import json
import sys

import pytest

from ckpt_tracker.errors import MissingExtra

pytest.importorskip("zstandard", reason="the extra [compact] is not installed")


def objects(store):
    """Bytes of all objects."""
    return sum(each.stat().st_size for name in ("objects", "encoded") for each in (store / name).rglob("?" * 64))


def test_a_dry_run_says_about_how_much_and_changes_nothing(ckpt, mnist, contents):
    """The frozen encoder of 80 kB is what there is to encode."""
    before = contents(mnist / "objects")
    result = ckpt("compact", "--dry-run", "--store", mnist)
    assert result.stdout.startswith("1 object would be encoded, 80.0 kB to about ")
    assert result.stdout.endswith(" would be freed\n")
    assert contents(mnist / "objects") == before
    assert not (mnist / "encoded").exists()


def test_it_says_what_it_has_freed(ckpt, mnist):
    """As much as is gone from the disk; the checkpoints verify."""
    before = objects(mnist)
    told = json.loads(ckpt("compact", "--json", "--store", mnist).stdout)
    assert told.pop("freed_bytes") == told["before_bytes"] - told["after_bytes"] == before - objects(mnist) > 0
    assert (told["dry_run"], told["objects"]) == (False, 1)
    assert ckpt("verify", "--deep", "--store", mnist).exit_code == 0
    assert ckpt("compact", "--store", mnist).stdout == "0 objects encoded, 0 B to 0 B; 0 B freed\n"


def test_one_run(ckpt, mnist):
    """The other one is left as it is; one that is not there is exit code 3."""
    assert json.loads(ckpt("compact", "gan", "--json", "--store", mnist).stdout)["objects"] == 0
    assert ckpt("compact", "gam", "--store", mnist).exit_code == 3


def test_without_zstandard_the_way_out_is_said(ckpt, mnist, monkeypatch):
    """Exit code 10, in every command that needs the bytes; listing does not."""
    from ckpt_tracker.encoding import frames

    ckpt("compact", "--store", mnist)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setattr(frames, "_coders", None)
    for call in (["compact"], ["verify", "--deep"], ["repair"], ["export", "mnist@best", "weights.npz"]):
        result = ckpt(*call, "--store", mnist)
        assert (result.exit_code, "ckpt-tracker[compact]" in result.stderr) == (MissingExtra.exit_code, True), call
    for call in (["ls", "mnist"], ["verify"], ["gc"], ["prune", "--keep", "last:1"]):
        assert ckpt(*call, "--store", mnist).exit_code == 0, call


def test_it_loads_no_framework(mnist, python):
    """Encoding needs none."""
    loaded = python(
        """
        import sys
        from ckpt_tracker.cli.app import ckpt
        ckpt(["compact", "--store", sys.argv[1]], standalone_mode=False)
        print("loaded:", *sorted({"keras", "lightning", "tensorflow", "torch"} & set(sys.modules)))
        """,
        mnist,
    )
    assert loaded.splitlines()[-1] == "loaded:"
