"""Numbers as texts, rounded as people round them: a half goes up.

Python's formats round the binary fraction behind a float, so a half goes up or down by chance.
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal

_EXACT = 1e15
"""Numbers from here on have no digits after the point that a float could hold."""


def fixed(value: float, digits: int = 0, form: str = "") -> str:
    """Return a number with so many digits after the point.

    Example:
        >>> fixed(0.98125, 4), fixed(2.5), fixed(0.25, 1, "+")
        ('0.9813', '3', '+0.3')

    Args:
        value: the number.
        digits: after the point.
        form: what stands before the point in a format: `+` for a sign, `,` for groups of thousands.
    """
    if not _is_rounded(value):
        return f"{value:{form}.{digits}f}"
    return f"{_rounded(_decimal(value), digits):{form}.{digits}f}"


def percent(share: float, digits: int = 0) -> str:
    """Return a share in percent, with so many digits after the point: `0.9875` -> `98.8%` with one digit."""
    if not _is_rounded(share):
        return f"{share:.{digits}%}"
    return f"{_rounded(100 * _decimal(share), digits):.{digits}f}%"


def significant(value: float, digits: int) -> str:
    """Return a number with at most so many digits, as the format `g` does: `0.98125` -> `0.9813` with four digits."""
    if not _is_rounded(value) or not value:
        return f"{value:.{digits}g}"
    exact = _decimal(value)
    return f"{float(_rounded(exact, digits - 1 - exact.adjusted())):.{digits}g}"


def _is_rounded(value: float) -> bool:
    return math.isfinite(value) and abs(value) < _EXACT


def _decimal(value: float) -> Decimal:
    """Return a number without the last digit of its float, which is an error of computation in a mean of a half."""
    return Decimal(f"{float(value):.15g}")


def _rounded(exact: Decimal, digits: int) -> Decimal:
    return exact.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
