"""Values as people read them."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from ckpt_tracker.cli import human

NOW = datetime(2026, 5, 1, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        *((0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_500_000, "1.5 MB"), (99_949, "99.9 kB")),
        *(
            (99_951, "100 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (1_490_000_000, "1.5 GB"),
            (2 * 10**18, "2000 PB"),
        ),
    ],
)
def test_sizes_have_decimal_units(nbytes, text):
    """Two or three digits, and never 1000 of a unit that has a larger one."""
    assert human.size(nbytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0.0 ms"), (0.0012, "1.2 ms"), (0.25, "250 ms"), (3.44, "3.4 s"), (59.9, "59.9 s")),
        *((125, "2 min 5 s"), (4800, "1 h 20 min")),
    ],
)
def test_durations_have_the_unit_that_fits(seconds, text):
    """From milliseconds to hours."""
    assert human.duration(seconds) == text


@pytest.mark.parametrize(
    ("past", "text"),
    [
        (timedelta(milliseconds=300), "just now"),
        (timedelta(seconds=-5), "just now"),
        (timedelta(seconds=59), "59 s ago"),
        (timedelta(minutes=3), "3 min ago"),
        (timedelta(hours=30), "30 h ago"),
        (timedelta(days=3), "3 days ago"),
        (timedelta(days=100), "2026-01-21"),
    ],
)
def test_ages_are_relative_for_two_months(past, text):
    """After that the day says more."""
    assert human.age(NOW - past, now=NOW) == text


@pytest.mark.parametrize(
    "values",
    [[], [0.5, -1.23456e-7, 1e300, 12345.678], [math.nan, math.inf, -math.inf, 0.0], [3, 0.25], [0.1, None, 0.3]],
    ids=["none", "finite", "not finite", "whole", "with one missing"],
)
def test_many_numbers_read_as_each_of_them(values):
    """They are made together, which nobody must see."""
    assert human.numbers(values) == [human.number(each) for each in values]


def test_only_paths_below_the_current_folder_become_relative(tmp_path, monkeypatch):
    """The current folder's name inside another path is left alone."""
    monkeypatch.chdir(tmp_path)
    text = f"object {tmp_path}/store/ab is missing, /data{tmp_path}/store too"
    assert human.relative(text) == f"object store/ab is missing, /data{tmp_path}/store too"
    assert human.path(tmp_path / "store") == "store"
    assert human.path("/elsewhere") == "/elsewhere"


def test_in_the_root_folder_paths_stay_absolute(monkeypatch):
    """Everything is below `/`."""
    monkeypatch.chdir(Path("/"))
    assert human.path("/data/store") == "/data/store"
