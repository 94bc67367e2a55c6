"""References find the checkpoint that is meant, and name the nearest where there is none."""

from __future__ import annotations

import pytest

from ckpt_tracker import Store
from ckpt_tracker.errors import CheckpointNotFound, InvalidOption
from ckpt_tracker.records import Monitor
from ckpt_tracker.selection import Reference, nearest, parse

PARSED = {
    "r": Reference("r", "last"),
    "r@last": Reference("r", "last"),
    "r@best": Reference("r", "best"),
    "r@best:val_loss:min": Reference("r", "best", monitor=Monitor("val_loss", "min")),
    "r@best:a/b:c:max": Reference("r", "best", monitor=Monitor("a/b:c", "max")),
    "r@v12": Reference("r", "version", number=12),
    "r@epoch:3": Reference("r", "epoch", number=3),
    "r@step:1200": Reference("r", "step", number=1200),
    "r@paper": Reference("r", "tag", tag="paper"),
    "r@v1.2": Reference("r", "tag", tag="v1.2"),
    "a.b-c_D@v1": Reference("a.b-c_D", "version", number=1),
    "last@last": Reference("last", "last"),
}


@pytest.mark.parametrize(("text", "expected"), PARSED.items(), ids=PARSED.keys())
def test_a_reference_is_taken_apart(text: str, expected: Reference) -> None:
    """Every form that the design names."""
    assert parse(text) == expected


NO_REFERENCES = ["", "@last", "a b", "r@", "r@a b", "r@epoch:x", "r@epoch:-1", "r@best:loss", "r@best:loss:low"]
NO_REFERENCES += ["r@best::min", "r@best:", "r@step:", "r@v1@v2", "../r@v1", "r@epoch:1.5", "r@epoch:" + "9" * 30]


@pytest.mark.parametrize("text", NO_REFERENCES)
def test_text_that_is_no_reference_is_refused(store: Store, text: str) -> None:
    """The message shows the forms that there are."""
    store.run("r").save({"loop": {}}).wait()
    with pytest.raises(InvalidOption, match=r"expected (RUN|1 to 100 letters)"):
        store[text]


@pytest.fixture
def trained(store: Store) -> Store:
    """A store with a run of three epochs whose monitor is val_loss."""
    run = store.run("mnist")
    for epoch, loss in enumerate([0.5, 0.2, 0.3]):
        run.save({"loop": {}}, epoch=epoch, step=100 * (epoch + 1), metrics={"val_loss": loss})
    run.tag("paper", run.checkpoints()[0])
    store.record_event("mnist", "start", monitor="val_loss", mode="min")
    return store


FOUND = {
    "mnist": 3,
    "mnist@last": 3,
    "mnist@best": 2,
    "mnist@best:val_loss:max": 1,
    "mnist@v2": 2,
    "mnist@v0002": 2,
    "mnist@epoch:0": 1,
    "mnist@step:300": 3,
    "mnist@paper": 1,
}


@pytest.mark.parametrize(("reference", "version"), FOUND.items(), ids=FOUND.keys())
def test_a_reference_finds_its_checkpoint(trained: Store, reference: str, version: int) -> None:
    """Every form."""
    assert trained[reference].ref == f"mnist@v{version}"


UNKNOWN = {
    "mnits@last": r"there is no run 'mnits' in .*; did you mean 'mnist'\?",
    "other@last": r"there is no run 'other' in .*; there are: mnist",
    "mnist@v33": r"'mnist@v33' matches no checkpoint; did you mean 'v3'",
    "mnist@epoch:9": r"matches no checkpoint; did you mean .*'epoch:2'",
    "mnist@step:30": r"matches no checkpoint; did you mean 'step:300'",
    "mnist@papre": r"matches no checkpoint; did you mean 'paper'\?",
    "mnist@v" + "9" * 30: r"matches no checkpoint",
    "mnist@v0": r"matches no checkpoint",
    "mnist@best:val_los:min": r"no metric 'val_los'; did you mean 'val_loss'\? \(in run 'mnist'\)",
}


@pytest.mark.parametrize(("reference", "message"), UNKNOWN.items(), ids=UNKNOWN.keys())
def test_an_unknown_reference_names_the_nearest(trained: Store, reference: str, message: str) -> None:
    """A slip of the finger is answered with what was meant."""
    with pytest.raises(CheckpointNotFound, match=message):
        trained[reference]


def test_a_run_without_checkpoints_says_so(store: Store) -> None:
    """That is another answer than an unknown run."""
    store.run("fresh")
    with pytest.raises(CheckpointNotFound, match="'fresh@last' matches nothing: run 'fresh' has no checkpoints yet"):
        store["fresh@last"]
    with pytest.raises(CheckpointNotFound):
        store.run("fresh").last()


def test_best_is_by_the_metric_that_was_named_last(store: Store) -> None:
    """A run without a monitor of its own remembers what it was asked."""
    run = store.run("r")
    for loss in (0.5, 0.2):
        run.save({"loop": {}}, metrics={"loss": loss})
    assert run.best("loss", mode="max").version == 1

    assert store["r@best"].version == 1


def test_best_needs_a_metric_or_a_monitor(store: Store) -> None:
    """Without either, what best means can't be known."""
    store.run("r").save({"loop": {}}, metrics={"loss": 1.0}).wait()
    with pytest.raises(InvalidOption, match="run 'r' monitors no metric: name one"):
        store["r@best"]


@pytest.mark.parametrize(("metric", "mode"), [("loss", None), (None, "min"), ("loss", "auto"), ("loss", "")])
def test_a_metric_and_its_mode_belong_together(store: Store, metric: str | None, mode: str | None) -> None:
    """No direction is guessed from a name."""
    with pytest.raises(InvalidOption, match=r"needs (mode='min'|monitor)"):
        store.run("r").best(metric, mode)  # type: ignore[arg-type]


def test_a_reference_waits_for_what_this_store_is_writing(store: Store) -> None:
    """What was saved before is found, without waiting by hand."""
    run = store.run("r")
    for epoch in range(5):
        run.save({"loop": {}}, epoch=epoch, metrics={"loss": -epoch})
        assert store["r@last"].epoch == store["r@best:loss:min"].epoch == epoch


# -- tags ----------------------------------------------------------------------------------------------------


def test_a_tag_names_the_newest_where_no_checkpoint_is_given(trained: Store) -> None:
    """And is seen on the checkpoint."""
    trained.run("mnist").tag("final")
    assert trained["mnist@final"].version == 3
    assert trained["mnist@v3"].tags == ("final",)


def test_a_tag_moves(trained: Store) -> None:
    """The newest word about it counts."""
    run = trained.run("mnist")
    run.tag("paper", trained["mnist@v2"])
    assert trained["mnist@paper"].version == 2
    assert [each.tags for each in run.checkpoints()] == [(), ("paper",), ()]


def test_a_checkpoint_may_have_several_tags(trained: Store) -> None:
    """They are sorted."""
    trained.run("mnist").tag("a", trained["mnist@v1"])
    assert trained["mnist@v1"].tags == ("a", "paper")


@pytest.mark.parametrize("tag", ["last", "best", "v12", "", "a b", "a:b", "a@b", "x" * 101, "ä"])
def test_a_tag_that_a_reference_would_take_for_something_else_is_refused(trained: Store, tag: str) -> None:
    """Words and versions are taken."""
    with pytest.raises(InvalidOption, match="is not a tag: expected"):
        trained.run("mnist").tag(tag)


def test_a_tag_is_for_a_checkpoint_of_its_own_run(trained: Store) -> None:
    """Another run's checkpoint has another run's tags."""
    other = trained.run("other").save({"loop": {}}).wait()
    with pytest.raises(InvalidOption, match="other@v1 is not of run 'mnist'"):
        trained.run("mnist").tag("x", other)


def test_nearest_says_nothing_where_there_is_nothing() -> None:
    """Close names first, then all there are, at most ten of them."""
    assert nearest("x", []) == ""
    assert nearest("los", ["loss", "acc"]) == "; did you mean 'loss'?"
    assert nearest("zzz", map(str, range(20))) == "; there are: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
