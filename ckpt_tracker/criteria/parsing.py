"""Text → criterion. What is not a number, a name or a sign of the grammar does not get past the first step.

Names become placeholders, so that Python's own parser, which knows precedence and parentheses, never sees one; from its
tree only what stands in the tables here is taken over. Nothing is ever compiled or run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from functools import lru_cache

from ckpt_tracker.criteria.expression import (
    FUNCTIONS,
    Arithmetic,
    Call,
    Comparison,
    Condition,
    Criterion,
    Expression,
    Name,
    Negated,
    Not,
    Number,
    Several,
)
from ckpt_tracker.errors import InvalidOption
from ckpt_tracker.selection import nearest

MOST_LETTERS = 1000
_MOST_NESTED = 200
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.])|`(?P<quoted>(?:[^`]|``)+)`"
    r"|(?P<name>[^\W\d][\w.]*)|(?P<sign>\*\*|[<>=!]=|[-+*/()<>,]))"
)
# A name as trackers write them: `val/loss`, `top-5 acc`, `acc@1`. Alone it may be a metric, even where it parses.
PLAIN_NAME = re.compile(r"(?=.*[^\W\d_])\w[\w ./:@#%-]*")
_WORDS = ("and", "or", "not")
_ARITHMETIC = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**"}
_ORDER = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}


# What may stand inside an expression without backquotes, where there is a metric of that name.
_PATH_NAME = re.compile(r"[^\W\d][\w./:@#%-]*")


@lru_cache(maxsize=256)
def parse(text: str, known: frozenset[str] = frozenset()) -> Criterion:
    """Takes a criterion apart; a known name such as `val/loss` is one also inside an expression.

    Raises InvalidOption for what is neither an expression nor a metric's name.
    """
    if len(text) > MOST_LETTERS:
        raise InvalidOption(f"a criterion of {len(text)} letters: expected {MOST_LETTERS} at most")
    try:
        return _Parser(text, known).criterion()
    except InvalidOption:
        if PLAIN_NAME.fullmatch(text) and " where " not in f" {text} ":
            return Criterion(text, Name(text))
        raise


def quoted(name: str) -> str:
    """The criterion that means the metric of that name, and nothing else."""
    return name if PLAIN_NAME.fullmatch(name) else "`" + name.replace("`", "``") + "`"


class _Parser:
    def __init__(self, text: str, known: Iterable[str]) -> None:
        self._text = text
        self._names: list[str] = []
        paths = sorted(filter(_PATH_NAME.fullmatch, known), key=len, reverse=True)
        self._known = re.compile(rf"\s*(?P<name>{'|'.join(map(re.escape, paths)) or '(?!)'})(?!\w)")

    def criterion(self) -> Criterion:
        """Both halves."""
        halves: list[list[str]] = [[]]
        for word in self._words():
            if word == "where":
                halves.append([])
            else:
                halves[-1].append(word)
        if len(halves) > 2:
            raise self._error("it has more than one `where`")
        expression = self._expression(self._parsed(halves[0]), 0)
        where = self._condition(self._parsed(halves[1]), 0) if len(halves) == 2 else None
        if not self._names:
            raise self._error("it names no metric")
        return Criterion(self._text, expression, where)

    def _words(self) -> Iterable[str]:
        """The text as words that Python's parser may see: each name as its number in the list of them."""
        position, end = 0, len(self._text.rstrip())
        while position < end:
            path = self._known.match(self._text, position)
            token = path or _TOKEN.match(self._text, position)
            if token is None:
                raise self._error(f"{self._text[position:].strip()[:20]!r} is no part of one")
            position = token.end()
            if path:
                yield self._placeholder(path["name"])
                continue
            number, quoted_name, name, sign = token.group("number", "quoted", "name", "sign")
            if number or sign:
                yield number or sign
            elif name in (*_WORDS, "where"):
                yield name
            else:
                yield self._placeholder(name or quoted_name.replace("``", "`"))

    def _placeholder(self, name: str) -> str:
        self._names.append(name)
        return f"n{len(self._names) - 1}"

    def _parsed(self, words: list[str]) -> ast.expr:
        # leading zeros are no number to Python
        text = " ".join(repr(float(word)) if word[0] in ".0123456789" else word for word in words)
        if not words:
            raise self._error(
                "there is nothing to judge by" if "where" not in self._text else "a half of it is missing"
            )
        try:
            return ast.parse(text.replace("inf", "1e999"), mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise self._error("a name, a number, a sign or a parenthesis is missing, or too much") from error

    def _expression(self, node: ast.expr, depth: int) -> Expression:
        if depth > _MOST_NESTED:
            raise self._error(f"it is nested more than {_MOST_NESTED} deep")
        match node:
            case ast.Constant(value=float(value)):
                return Number(value)
            case ast.Name(id=placeholder):
                return Name(self._names[int(placeholder[1:])])
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return Negated(self._expression(operand, depth + 1))
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self._expression(operand, depth + 1)
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _ARITHMETIC:
                return Arithmetic(
                    _ARITHMETIC[type(sign)], self._expression(left, depth + 1), self._expression(right, depth + 1)
                )
            case ast.Call(func=ast.Name(id=placeholder), args=arguments, keywords=[]):
                return self._call(self._names[int(placeholder[1:])], arguments, depth)
            case ast.Compare() | ast.BoolOp() | ast.UnaryOp():
                raise self._error("a condition has no value to judge by: write it behind `where`")
        raise self._error("it holds something else than names, numbers, + - * / ** and functions")

    def _call(self, name: str, arguments: list[ast.expr], depth: int) -> Call:
        if name not in FUNCTIONS:
            raise self._error(f"there is no function {name!r}{nearest(name, FUNCTIONS)}")
        _, expected = FUNCTIONS[name]
        if (expected is None and len(arguments) < 2) or (expected is not None and len(arguments) != expected):
            raise self._error(f"{name}() takes {expected or '2 or more'} arguments, found {len(arguments)}")
        return Call(name, tuple(self._expression(each, depth + 1) for each in arguments))

    def _condition(self, node: ast.expr, depth: int) -> Condition:
        if depth > _MOST_NESTED:
            raise self._error(f"it is nested more than {_MOST_NESTED} deep")
        match node:
            case ast.Compare(left=left, ops=signs, comparators=others) if all(type(each) in _ORDER for each in signs):
                compared = (self._expression(each, depth + 1) for each in others)
                pairs = zip((_ORDER[type(each)] for each in signs), compared, strict=True)
                return Comparison(self._expression(left, depth + 1), tuple(pairs))
            case ast.BoolOp(op=joined, values=values):
                return Several(isinstance(joined, ast.And), tuple(self._condition(each, depth + 1) for each in values))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return Not(self._condition(operand, depth + 1))
        raise self._error("behind `where` stands a condition, such as val_loss < 0.4")

    def _error(self, problem: str) -> InvalidOption:
        return InvalidOption(
            f"{self._text!r} is no criterion: {problem}; expected a metric, or an expression such as "
            "'0.7*val_acc - 0.3*log(size_mb)' or 'val_f1 where val_loss < 0.4' (other names stand in `backquotes`)"
        )
