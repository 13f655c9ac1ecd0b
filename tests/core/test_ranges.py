import math

import pytest
from expecting import raises

from nasforge.core.errors import BuildError, ConfigError
from nasforge.core.ranges import Range, check_flag, check_number, check_whole


@pytest.mark.parametrize(
    ("allowed", "inside", "outside"),
    [
        (Range(whole=True, least=1), (1, 10**300), (0, 1.0, True, "1", None, 10**400)),
        (Range(least=0, below=1), (0, 0.0, 0.999), (1, -1e-9, True, math.nan, "0.5")),
        (Range(over=0, most=1), (1, 1e-300), (0, 1.1)),
        (Range(over=0), (1e300,), (math.inf, math.nan, 10**301)),
        (Range(), (-1e300, 5), (-math.inf, False)),
    ],
)
def test_a_range_holds_the_numbers_within_its_limits(allowed, inside, outside):
    assert all(value in allowed for value in inside)
    assert not any(value in allowed for value in outside)


@pytest.mark.parametrize(
    ("allowed", "text"),
    [
        (Range(whole=True, least=1), "a whole number of at least 1"),
        (Range(whole=True, least=0, most=2**32 - 1), "a whole number from 0 to 4294967295"),
        (Range(least=0, below=1), "a number of at least 0 and below 1"),
        (Range(over=0), "a number above 0"),
        (Range(whole=True), "a whole number"),
    ],
)
def test_a_range_reads_as_a_message_names_it(allowed, text):
    assert str(allowed) == text


def test_a_check_returns_the_value_or_raises_the_error_of_the_caller():
    assert check_whole(3, "data: images", 1) == 3
    with raises(ConfigError, "type", "data.images", "data: images", "a whole number of at least 1", True):
        check_whole(True, "data: images", 1)
    with raises(BuildError, "range", "rate", "a number above 0", math.nan):
        check_number(math.nan, "rate", over=0, error=BuildError)
    assert check_flag(False, "log") is False
    with raises(ConfigError, "type", "log", "true or false", 0):
        check_flag(0, "log")


def test_a_value_of_thousands_of_digits_has_a_message_too():
    with raises(ConfigError, "range", "seed", "int"):
        check_whole(10**5000, "seed")
