"""In a trial: where a tracker's checkpoints go, and the evidence beside them."""

from __future__ import annotations

import importlib
import json
import random
import sys
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckpt_tracker import Store, trial
from ckpt_tracker.errors import InvalidOption
from ckpt_tracker.testing import assert_exact_resume
from ckpt_tracker.tracker import Tracker

SCRIPT = Path(__file__).parents[1] / "scripts" / "resuming_numpy.py"


class Dice:
    """What a script may have: a generator, and a number."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(3)
        self.throws = 7
        self.thrown = deque([3, 1, 6])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store of a trial that this process is part of."""
    folder = tmp_path / "trial"
    for name, value in trial.environment(folder).items():
        monkeypatch.setenv(name, value)
    return folder


def _train(tracker: Tracker, *states: dict[str, Any]) -> None:
    tracker.begin()
    for epoch, state in enumerate(states):
        tracker.save(state, epoch=epoch, step=epoch + 1, metrics={})
    tracker.close(finished=True)


def _evidence(folder: Path, run: str) -> dict[str, Any]:
    file = trial.evidence_file(folder, run, epoch=0, step=1)
    found: dict[str, Any] = json.loads(file.read_text())
    assert "failed" not in found
    return found


def test_there_is_no_trial_unless_the_environment_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written beside a store."""
    monkeypatch.delenv(trial.VARIABLE, raising=False)
    _train(Tracker(path, "r"), {"model": {}})
    assert trial.folder() is None
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("given", ["a path", "a store"])
def test_checkpoints_go_to_the_trial_s_store(folder: Path, path: Path, given: str) -> None:
    """Whatever store the script names; every one is kept, whatever it wants to keep."""
    with Store(path) as store:
        _train(Tracker(store if given == "a store" else path, "r", keep="last:1"), *[{"model": {}}] * 4)
        assert store.runs() == []
    with Store(folder) as own:
        assert [each.version for each in own.run("r").checkpoints()] == [1, 2, 3, 4]


def test_a_run_without_a_name_has_one_in_a_trial(folder: Path) -> None:
    """So that the restart finds it."""
    _train(Tracker(), {"model": {}})
    assert Tracker().begin() is not None
    with Store(folder) as store:
        assert [(run.name, run.record.unnamed) for run in store.runs()] == [(trial.RUN, True)]


def test_the_evidence_names_a_generator_that_is_not_saved(folder: Path) -> None:
    """And the script's own numbers, but no text, which might be a secret."""
    dice = Dice()
    secret = "token"
    _train(Tracker(run="r"), {"model": {"w": np.ones(3)}})
    found = _evidence(folder, "r")
    (generator,) = [each for each in found["objects"] if each["holder"] == "Dice.generator"]
    assert (generator["kind"], generator["type"]) == ("generator", "numpy Generator (PCG64)")
    assert generator["captured"] is False
    assert found["variables"]["Dice.throws"] == dice.throws
    assert found["variables"]["len(Dice.thrown)"] == len(dice.thrown)
    assert not [name for name in found["variables"] if name.endswith((" in submit()", " in save()"))]
    assert secret not in json.dumps(found)


@pytest.mark.parametrize("form", ["numpy", "python"])
def test_the_evidence_tells_what_is_saved(folder: Path, form: str) -> None:
    """By its content: the tracker is handed states, not objects."""
    generator: Any = np.random.default_rng(3) if form == "numpy" else random.Random(3)
    states = {
        "numpy": lambda: generator.bit_generator.state,
        "python": lambda: np.array(generator.getstate()[1], dtype=np.uint32),
    }
    _train(Tracker(run="r"), {"extra": {"generator": states[form]()}})
    (found,) = [each for each in _evidence(folder, "r")["objects"] if each["holder"].startswith("generator in ")]
    assert found["captured"] is True


def test_looking_for_evidence_draws_nothing(folder: Path) -> None:
    """The training goes on as without it."""
    dice = Dice()
    before = (dice.generator.bit_generator.state, random.getstate(), repr(np.random.get_state()))
    _train(Tracker(run="r"), {"model": {}})
    assert (dice.generator.bit_generator.state, random.getstate(), repr(np.random.get_state())) == before


def test_an_object_that_breaks_when_looked_at_breaks_nothing(folder: Path) -> None:
    """It is left out of the evidence."""

    class Broken:
        def state_dict(self) -> dict[str, Any]:
            raise RuntimeError("closed")

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    broken = Broken()
    _train(Tracker(run="r"), {"model": {}})
    assert type(broken).__qualname__ not in json.dumps(_evidence(folder, "r"))


def test_an_object_that_stands_for_another_is_not_asked_for_its_class(folder: Path) -> None:
    """What a proxy does then, such as loading a module or warning, is no business of a look."""

    class Proxy:
        asked = False

        @property  # type: ignore[misc]
        def __class__(self) -> Any:
            Proxy.asked = True
            raise RuntimeError("not now")

    swa_weights = Proxy()
    _train(Tracker(run="r"), {"model": {}})
    _evidence(folder, "r")
    assert (Proxy.asked, type(swa_weights)) == (False, Proxy)


@pytest.mark.parametrize("package", ["site-packages", "dist-packages"])
def test_packages_are_not_the_script_s_own_wherever_they_are(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    """An environment may see the packages of the system, or of the user."""
    name = f"installed_{package.partition('-')[0]}"
    place = tmp_path / "lib" / package
    place.mkdir(parents=True)
    (place / f"{name}.py").write_text("class Count:\n    number = 0\n\nheld = 7\n")
    monkeypatch.syspath_prepend(str(place))
    held = importlib.import_module(name)
    _train(Tracker(run="r"), {"model": {}})
    assert f"held in {held.__name__}.py" not in _evidence(folder, "r")["variables"]


def test_a_pytest_asserts_exact_resume(tmp_path: Path) -> None:
    """It passes with the report, and fails with its text."""
    report = assert_exact_resume([sys.executable, SCRIPT], kill_after=2, timeout=300)
    assert (report.outcome, len(report.kills)) == ("equal", 1)
    with pytest.raises(AssertionError, match=r"not tried .*\n.*\nit printed +no GPU here"):
        assert_exact_resume([sys.executable, SCRIPT, "fails"], seed=1)
    with pytest.raises(InvalidOption):
        assert_exact_resume([sys.executable, SCRIPT], runs=0)
