"""Numbers as people round them."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random

import pytest

from nasforge.cli.output import metric_text as in_terminal
from nasforge.views.results import bars_of_test
from nasforge.views.rounding import fixed, percent, significant
from nasforge.views.texts import metric_text as on_page
from nasforge.views.texts import share_text

ROOMS = ("nasforge/views", "nasforge/cli", "nasforge/api", "dashboards")


@pytest.mark.parametrize(
    ("text", "rounded"),
    [
        (percent(0.9875, 1), "98.8%"),
        (percent(0.285), "29%"),
        (percent(0.005), "1%"),
        (percent(1.0, 2), "100.00%"),
        (fixed(0.98125, 4), "0.9813"),
        (fixed(2.5), "3"),
        (fixed(-0.25, 1, "+"), "-0.3"),
        (fixed(1234567.5, 0, ","), "1,234,568"),
        (fixed(1e300, 1), f"{1e300:.1f}"),
        (fixed(math.nan, 2), "nan"),
        (percent(math.inf), "inf%"),
        (significant(0.98125, 4), "0.9813"),
        (significant(99995, 4), "1e+05"),
        (significant(0.0, 4), "0"),
        (significant(2.0, 4), "2"),
        (percent((0.9416666666666667 + 0.7333333333333333) / 2, 1), "83.8%"),
        (fixed(1.005 * 100, 0), "101"),
    ],
)
def test_a_half_goes_up(text: str, rounded: str) -> None:
    assert text == rounded


def test_other_numbers_are_rounded_as_python_rounds_them() -> None:
    rng = Random(0)
    for _ in range(2000):
        value = rng.choice((1.0, 1e6, 1e-9)) * rng.gauss(0, 1)
        assert significant(value, 4) == f"{value:.4g}"
        assert fixed(value, 3) == f"{value:.3f}" and percent(value, 2) == f"{value:.2%}"


def test_terminal_pages_and_drawings_round_alike() -> None:
    assert in_terminal(0.98125, "val/accuracy") == on_page(0.98125, "val/accuracy") == "0.9813"
    assert share_text(0.285) == "29%"
    assert on_page(0.0, "test/accuracy") == "0.0000", "the end of an interval looks like the other end"
    row = {"name": "a", "value": 0.12345, "low": None, "high": None, "won": True}
    assert ">0.1235</text>" in bars_of_test([row])


@pytest.mark.parametrize("room", ROOMS)
def test_no_view_formats_shares_by_itself(room: str) -> None:
    files = [*(Path(__file__).parents[2] / room).rglob("*.py")]
    alone = [path.name for path in files if "%}" in path.read_text(encoding="utf-8") and path.name != "rounding.py"]
    assert files and alone == []
