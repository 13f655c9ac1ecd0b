"""Texts of values: the same in the console, on pages and in reports."""

import math

import pytest

from nasforge.views.texts import seconds_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (4.25, "4.3 s"),
        (45.4, "45 s"),
        (90, "1.5 min"),
        (200, "3.3 min"),
        (1500, "25 min"),
        (7500, "2 h 05 min"),
        (None, "–"),
        (math.inf, "–"),
    ],
)
def test_times_are_shown_in_fitting_units(seconds, text):
    assert seconds_text(seconds) == text
