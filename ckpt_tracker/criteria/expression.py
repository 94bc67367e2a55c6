"""Expressions over the metrics of a checkpoint: a small tree of values, which can do nothing but arithmetic."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

Values = Mapping[str, float]
Function = Callable[..., float]

FUNCTIONS: dict[str, tuple[Function, int | None]] = {
    "abs": (abs, 1),
    "exp": (math.exp, 1),
    "log": (math.log, 1),
    "log10": (math.log10, 1),
    "log2": (math.log2, 1),
    "max": (max, None),
    "min": (min, None),
    "sqrt": (math.sqrt, 1),
}
"""Name → what it does, and how many arguments it takes; None: two or more."""
ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "**": math.pow,  # of a negative base `**` itself would be complex
}
ORDER: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True)
class Number:
    """A number as it is written."""

    value: float

    def evaluate(self, values: Values) -> float:
        """The number."""
        return self.value


@dataclass(frozen=True)
class Name:
    """A metric, or what is known of the checkpoint itself."""

    name: str

    def evaluate(self, values: Values) -> float:
        """Its value; KeyError where there is none."""
        return values[self.name]


@dataclass(frozen=True)
class Negated:
    """`-x`."""

    operand: Expression

    def evaluate(self, values: Values) -> float:
        """As IEEE 754 has it."""
        return -self.operand.evaluate(values)


@dataclass(frozen=True)
class Arithmetic:
    """`x + y` and the like."""

    operator: str
    left: Expression
    right: Expression

    def evaluate(self, values: Values) -> float:
        """Raises ArithmeticError or ValueError where it has no value: a division by zero."""
        return ARITHMETIC[self.operator](self.left.evaluate(values), self.right.evaluate(values))


@dataclass(frozen=True)
class Call:
    """`log(x)` and the like."""

    function: str
    arguments: tuple[Expression, ...]

    def evaluate(self, values: Values) -> float:
        """Raises ArithmeticError or ValueError where it has no value: the logarithm of a negative number."""
        numbers = [each.evaluate(values) for each in self.arguments]
        if any(map(math.isnan, numbers)):
            return math.nan  # `min` and `max` would take whichever comes first
        return FUNCTIONS[self.function][0](*numbers)


Expression: TypeAlias = "Number | Name | Negated | Arithmetic | Call"


@dataclass(frozen=True)
class Comparison:
    """`x < y`, `x < y <= z`."""

    first: Expression
    others: tuple[tuple[str, Expression], ...]

    def holds(self, values: Values) -> bool:
        """False where NaN is compared, except by `!=`."""
        left = self.first.evaluate(values)
        for sign, expression in self.others:
            right = expression.evaluate(values)
            if not ORDER[sign](left, right):
                return False
            left = right
        return True


@dataclass(frozen=True)
class Not:
    """`not x < y`."""

    condition: Condition

    def holds(self, values: Values) -> bool:
        """The opposite."""
        return not self.condition.holds(values)


@dataclass(frozen=True)
class Several:
    """`x < y and y < z`, `x < y or y < z`."""

    every: bool
    """All have to hold; else one of them."""
    conditions: tuple[Condition, ...]

    def holds(self, values: Values) -> bool:
        """Each is evaluated, also where an earlier one decides: one without a value is found always or never."""
        return (all if self.every else any)([each.holds(values) for each in self.conditions])


Condition: TypeAlias = "Comparison | Not | Several"


@dataclass(frozen=True)
class Criterion:
    """What a checkpoint is judged by: the higher or the lower the better, that is said elsewhere."""

    text: str
    expression: Expression
    where: Condition | None = None

    @property
    def label(self) -> str:
        """The metric, where it is nothing else; else the text."""
        return self.expression.name if isinstance(self.expression, Name) and self.where is None else self.text

    @property
    def condition(self) -> str:
        """What stands behind `where`."""
        return re.split(r"\bwhere\b", self.text)[-1].strip()

    @property
    def names(self) -> tuple[str, ...]:
        """Every name in it, once, in order."""
        parts = [self.expression] if self.where is None else [self.expression, self.where]
        return tuple(dict.fromkeys(name for part in parts for name in _names(part)))


def _names(part: object) -> Iterator[str]:
    if isinstance(part, Name):
        yield part.name
    elif isinstance(part, tuple):
        for each in part:
            yield from _names(each)
    elif hasattr(part, "__dataclass_fields__"):
        yield from _names(tuple(vars(part).values()))
