"""Criteria are taken apart into values that can do nothing but arithmetic; what is no criterion is refused by name."""

from __future__ import annotations

import ast
import math
from datetime import datetime, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt_tracker.criteria import Criterion, Score, Scorer, parse, quoted, winner
from ckpt_tracker.criteria.expression import Arithmetic, Call, Comparison, Name, Negated, Not, Number, Several
from ckpt_tracker.errors import InvalidOption
from ckpt_tracker.records import CheckpointRecord, Monitor

NAN, INF = math.nan, math.inf
MIN, MAX = Monitor("x", "min"), Monitor("x", "max")


def _record(version: int = 1, *, bad: bool = False, **metrics: float) -> CheckpointRecord:
    """Epoch and step grow with the version; two million bytes, of which one was new."""
    return CheckpointRecord(
        run="r",
        version=version,
        epoch=version - 1,
        step=10 * version,
        metrics=metrics,
        created_at=datetime(2026, 11, 21, tzinfo=timezone.utc),
        digest="",
        nbytes=2_000_000,
        stored_bytes=1_000_000,
        sections=("model",),
        nonfinite={"model.w": "nan"} if bad else {},
    )


def _score(text: str, record: CheckpointRecord) -> Score:
    return Scorer(Monitor(text, "min"), [record]).scores()[0]


A, B = Name("a"), Name("b")
PARSED: dict[str, Criterion] = {
    "a": Criterion("a", A),
    "a - 2*b": Criterion("a - 2*b", Arithmetic("-", A, Arithmetic("*", Number(2.0), B))),
    "(a - 2)*b": Criterion("(a - 2)*b", Arithmetic("*", Arithmetic("-", A, Number(2.0)), B)),
    "-a**2": Criterion("-a**2", Negated(Arithmetic("**", A, Number(2.0)))),
    "+a/.5e-3": Criterion("+a/.5e-3", Arithmetic("/", A, Number(0.0005))),
    "log(a) + min(a, b)": Criterion("log(a) + min(a, b)", Arithmetic("+", Call("log", (A,)), Call("min", (A, B)))),
    "a where b < 0.4": Criterion("a where b < 0.4", A, Comparison(B, (("<", Number(0.4)),))),
    "a where 0 <= b < 1": Criterion("a where 0 <= b < 1", A, Comparison(Number(0.0), (("<=", B), ("<", Number(1.0))))),
    "a where not (a > b or b != 1) and a == b": Criterion(
        "a where not (a > b or b != 1) and a == b",
        A,
        Several(
            True,
            (
                Not(Several(False, (Comparison(A, ((">", B),)), Comparison(B, (("!=", Number(1.0)),))))),
                Comparison(A, (("==", B),)),
            ),
        ),
    ),
    "`val/f1` * 2": Criterion("`val/f1` * 2", Arithmetic("*", Name("val/f1"), Number(2.0))),
    "`a``b`": Criterion("`a``b`", Name("a`b")),
    "val.f1": Criterion("val.f1", Name("val.f1")),
    "top-5 acc": Criterion("top-5 acc", Name("top-5 acc")),
    "acc@1": Criterion("acc@1", Name("acc@1")),
    "Größe*1": Criterion("Größe*1", Arithmetic("*", Name("Größe"), Number(1.0))),
    "log": Criterion("log", Name("log")),
    "lambda*1": Criterion("lambda*1", Arithmetic("*", Name("lambda"), Number(1.0))),
}


@pytest.mark.parametrize(("text", "expected"), PARSED.items(), ids=PARSED.keys())
def test_a_criterion_is_taken_apart(text: str, expected: Criterion) -> None:
    """Precedence is arithmetic's; names are whatever trackers write."""
    assert parse(text) == expected


REFUSED = {
    "": "there is nothing to judge by",
    "  ": "there is nothing to judge by",
    "0.5": "it names no metric",
    "0.7*": "is missing, or too much",
    "(a": "is missing, or too much",
    "a)": "is missing, or too much",
    "a +* b": "is missing, or too much",
    "a where": "a half of it is missing",
    "where a < 1": "a half of it is missing",
    "a where b < 1 where a < 1": "more than one `where`",
    "a < 1": "write it behind `where`",
    "a + (b < 1)": "write it behind `where`",
    "a where b": "stands a condition, such as val_loss < 0.4",
    "a where b + 1": "stands a condition, such as val_loss < 0.4",
    "logg(a)": "no function 'logg'; did you mean 'log'",
    "log(a, b)": r"log\(\) takes 1 arguments, found 2",
    "max(a)": r"max\(\) takes 2 or more arguments, found 1",
    "log()": r"log\(\) takes 1 arguments, found 0",
    "log(*a)": "something else than names",
    "log(a)(b)": "something else than names",
    "a.__class__()": "no function 'a.__class__'",
    "__import__('os').system('true')": "is no part of one",
    "a[0]*1": "is no part of one",
    "[a for a in b]": "is no part of one",
    "{a}": "is no part of one",
    "a; b": "is no part of one",
    "a % 2 * 1": "is no part of one",
    "a // 2 * 1": "is missing, or too much",
    "f'{a}'": "is no part of one",
    "0x1f*a": "is no part of one",
    "a*1_000": "is no part of one",
    "a\0*2": "is no part of one",
    "'; DROP TABLE metrics; --": "is no part of one",
    "`a": "is no part of one",
    "``": "is no part of one",
    "a" * 1001: "1001 letters: expected 1000 at most",
    "(" * 400 + "a" + ")" * 400: "is no criterion",
    "-" * 900 + "a*1": "nested more than 200 deep|is missing",
    "+".join(["a"] * 400): "nested more than 200 deep",
    "a where " + "not " * 240 + "a<1": "nested more than 200 deep|is missing",
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items(), ids=[text[:30] for text in REFUSED])
def test_what_is_no_criterion_is_refused(text: str, message: str) -> None:
    """With what is wrong, and what would be right."""
    with pytest.raises(InvalidOption, match=message):
        parse(text)


@settings(deadline=None, max_examples=300, derandomize=True)
@given(text=st.one_of(st.text(), st.text(alphabet="ab.0123+-*/()<>=!,`e xwhernotd")))
def test_any_text_is_a_criterion_or_is_refused(text: str) -> None:
    """Nothing else is ever raised, and what is taken is judged without any error."""
    try:
        parsed = parse(text)
    except InvalidOption:
        return
    score = _score(text, _record(**dict.fromkeys(parsed.names, 0.0)))
    assert math.isfinite(score.value) != bool(score.unranked)


NUMBERS = st.floats(-3, 3).map(lambda value: round(value, 2))
LEAVES = st.one_of(st.sampled_from(["a", "b"]), NUMBERS.map(abs).map(str))
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(["+", "-", "*"]), inner),
        st.builds("{} {} {}".format, inner, st.sampled_from(["+", "-"]), inner),
        st.builds("-{}".format, inner),
        st.builds("abs({})".format, inner),
        st.builds("max({}, {})".format, inner, inner),
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(text=EXPRESSIONS, a=NUMBERS, b=NUMBERS)
def test_an_expression_has_the_value_that_python_gives_it(text: str, a: float, b: float) -> None:
    """Precedence and functions are those that people know."""
    names = {each.id for each in ast.walk(ast.parse(text)) if isinstance(each, ast.Name)} & {"a", "b"}
    if names:
        expected = eval(text, {"a": a, "b": b})
        assert parse(text).expression.evaluate({"a": a, "b": b}) == expected


@pytest.mark.parametrize(
    "name", ["loss", "val/loss", "a b", "mIoU (val)", "x*y", "a`b", "log(x)", "'", "a where b < 1"]
)
def test_every_metric_has_a_text_that_means_it(name: str) -> None:
    """Whatever is in its name."""
    record = _record(**{name: 0.5})
    assert _score(quoted(name), record).value == 0.5
    assert parse(quoted(name)).names == (name,) or quoted(name) == name


def test_the_name_of_a_metric_is_that_metric_also_where_it_could_be_an_expression() -> None:
    """Only where there is none of that name it is arithmetic."""
    assert _score("val/loss", _record(**{"val/loss": 0.5, "val": 8.0, "loss": 2.0})).value == 0.5
    assert _score("val/loss", _record(val=8.0, loss=2.0)).value == 4.0


PATHS = {
    "val/loss + 1": 1.5,
    "2*val/loss": 1.0,
    "val / loss": 4.0,
    "val/loss/loss": 0.25,
    "val/loss_ema + val/loss": 7.5,
    "train-loss*2 where val/loss < 1": 6.0,
    "log(acc@1)": 0.0,
    "(val/loss)": 0.5,
}


@pytest.mark.parametrize(("text", "value"), PATHS.items(), ids=PATHS.keys())
def test_inside_an_expression_a_known_name_is_a_metric_too(text: str, value: float) -> None:
    """As trackers write them; with spaces around the sign it is arithmetic."""
    metrics = {"val/loss": 0.5, "val": 8.0, "loss": 2.0, "val/loss_ema": 7.0, "train-loss": 3.0, "acc@1": 1.0}
    assert _score(text, _record(**metrics)).value == value


def test_what_is_known_of_a_checkpoint_itself_can_be_used() -> None:
    """Epoch, step, version and sizes in millions of bytes; a metric of that name goes first."""
    text = "epoch + 10*step + 1000*version + size_mb/10 + stored_mb/100"
    assert _score(text, _record(3)).value == pytest.approx(2 + 300 + 3000 + 0.2 + 0.01)
    assert _score("2*epoch", _record(3, epoch=7.0)).value == 14.0


UNRANKED = {
    "b": ({}, "no b", True),
    "a + b + c": ({}, "no b, c", True),
    "a where b < 1": ({}, "no b", True),
    "a": ({"a": NAN}, "a is NaN", False),
    "a*1": ({"a": -INF}, "a is -Inf", False),
    "1/(a*a)": ({"a": INF}, "a is Inf", False),
    "a where b < 2": ({"b": -INF}, "b is -Inf", False),
    "max(a, 1e308*10 - 1e308*10)": ({}, "max(a, 1e308*10 - 1e308*10) is NaN", False),
    "min(1e308*10 - 1e308*10, a)": ({}, "min(1e308*10 - 1e308*10, a) is NaN", False),
    "1/a": ({"a": 0.0}, "1/a has no value: a division by zero", False),
    "log(a)": ({"a": -1.0}, "log(a) has no value: a root, power or logarithm of what has none", False),
    "log(0*a)": ({}, "log(0*a) has no value: ", False),
    "sqrt(a)": ({"a": -1.0}, "sqrt(a) has no value: ", False),
    "a**0.5": ({"a": -8.0}, "a**0.5 has no value: ", False),
    "exp(1000*a)": ({}, "exp(1000*a) has no value: too large", False),
    "a**(-1)": ({"a": 0.0}, "a**(-1) has no value: ", False),
    "1e308*10*a": ({}, "1e308*10*a is Inf", False),
    "a where a > 1": ({}, "a > 1 does not hold", False),
    "whereabouts where(a > 1)": ({"whereabouts": 1.0}, "(a > 1) does not hold", False),
    "a where a > 0 and 1/(a-1) > 0": ({}, "a where a > 0 and 1/(a-1) > 0 has no value: ", False),
    "1*a where a < 2": ({"a": NAN}, "a is NaN", False),
}


@pytest.mark.parametrize(("text", "case"), UNRANKED.items(), ids=UNRANKED.keys())
def test_what_has_no_value_is_not_ranked_and_that_is_told(text: str, case: tuple[dict[str, float], str, bool]) -> None:
    """A division by zero ends nothing; only a checkpoint that lacks a metric might be the best."""
    metrics, reason, missing = case
    score = _score(text, _record(**{"a": 1.0, **metrics}))
    assert score.unranked.startswith(reason)
    assert (math.isnan(score.value), score.missing) == (True, missing)


def test_weights_that_are_no_numbers_are_not_ranked() -> None:
    """Whatever the metric says, also when it says nothing."""
    assert _score("a", _record(bad=True, a=1.0)).unranked == "NaN in model.w"
    assert not _score("a", _record(bad=True)).missing


def test_an_unknown_metric_is_told_with_the_nearest() -> None:
    """Also of a name that would be an expression."""
    records = [_record(**{"val_loss": 1.0, "val/acc": 0.5})]
    told = {text: Scorer(Monitor(text, "min"), records).unknown_text for text in ("2*val_los", "val/acv", "val_loss")}
    assert told == {
        "2*val_los": "no metric 'val_los'; did you mean 'val_loss'?",
        "val/acv": "no metric 'val/acv'; did you mean 'val/acc'?",
        "val_loss": "",
    }


def _winner(values: list[float], mode: Monitor, **terms: object) -> int | None:
    records = [_record(number, x=value) for number, value in enumerate(values, start=1)]
    found = winner(Scorer(mode, records).scores(), mode, **terms)  # type: ignore[arg-type]
    return found.record.version if found else None


WINNERS: dict[str, tuple[list[float], Monitor, dict[str, object], int | None]] = {
    "the earlier of equal ones": ([0.5, 0.1, 0.1], MIN, {}, 2),
    "the later of equal ones": ([0.5, 0.1, 0.1, 0.2], MIN, {"tie": "last"}, 3),
    "the highest": ([0.5, 0.9, 0.1], MAX, {}, 2),
    "nothing but nan": ([NAN, INF], MIN, {}, None),
    "nan first": ([NAN, 0.5], MIN, {}, 2),
    "better by less": ([0.50, 0.48, 0.46], MIN, {"min_delta": 0.05}, 1),
    "better by just as much": ([0.5, 0.25], MIN, {"min_delta": 0.25}, 1),
    "better by more": ([0.50, 0.44], MIN, {"min_delta": 0.05}, 2),
    "better by more than the first": ([0.50, 0.48, 0.44, 0.41], MIN, {"min_delta": 0.05}, 3),
    "better by less, upwards": ([0.5, 0.52, 0.6, 0.62], MAX, {"min_delta": 0.05}, 3),
    "from the last": ([0.40, 0.50, 0.44], MIN, {"min_delta": 0.05, "tie": "last"}, 3),
    "from the last, better by more": ([0.30, 0.50, 0.44], MIN, {"min_delta": 0.05, "tie": "last"}, 1),
}


@pytest.mark.parametrize(("values", "mode", "terms", "expected"), WINNERS.values(), ids=WINNERS.keys())
def test_the_winner_was_worked_out_by_hand(
    values: list[float], mode: Monitor, terms: dict[str, object], expected: int | None
) -> None:
    """Ties and the least improvement that counts."""
    assert _winner(values, mode, **terms) == expected
