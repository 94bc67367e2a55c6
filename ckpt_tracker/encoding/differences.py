"""Differences: what a tensor's elements changed by since a base, small numbers near zero where that was little.

The bits of floating-point numbers of one sign are in the order of the numbers, so integers are subtracted, modulo 2^n:
exact for every bit pattern, NaN payloads too. Zigzag (0, −1, 1, −2 → 0, 1, 2, 3) then keeps the high planes of both
signs at zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ckpt_tracker.encoding.planes import Elements


def difference(values: Elements, base: Elements) -> Elements:
    """Zigzag of `values - base`, element by element."""
    apart = np.subtract(values, base)
    signs = apart.view(f"<i{apart.itemsize}") >> (8 * apart.itemsize - 1)
    np.left_shift(apart, 1, out=apart)
    return np.bitwise_xor(apart, signs.view(apart.dtype), out=apart)


def undo(apart: Elements, base: Elements) -> None:
    """Turns the zigzag of a difference into the values that it was made of, in place."""
    signs = np.bitwise_and(apart, 1)
    np.negative(signs, out=signs)
    np.right_shift(apart, 1, out=apart)
    np.bitwise_xor(apart, signs, out=apart)
    np.add(apart, base, out=apart)
