from dataclasses import dataclass
from typing import Annotated

import pytest

from nasforge.core.setting import ReadBy, Setting, settings_in


@dataclass
class Oven:
    mode: Annotated[str, Setting("source of the heat", choices=("gas", "electric"))] = "gas"
    degrees: Annotated[int, Setting("temperature in °C", least=50, most=250)] = 180
    fan: Annotated[bool, Setting("move the air", read_by=ReadBy("mode", "electric"))] = False
    door: Annotated[str | bool, Setting("position of the door", choices=("auto", True))] = "auto"


SETTINGS = settings_in(Oven)


def test_a_setting_knows_its_field():
    degrees = SETTINGS["degrees"]
    assert (degrees.name, degrees.kind, degrees.default) == ("degrees", int, 180)
    assert list(SETTINGS) == ["mode", "degrees", "fan", "door"]


@pytest.mark.parametrize(
    ("name", "good", "bad", "message"),
    [
        ("mode", "electric", "electrics", "got 'electrics'; did you mean 'electric'"),
        ("degrees", 250, 251, "got 251, allowed: a whole number from 50 to 250"),
        ("degrees", 50, 50.0, "got 50.0, allowed: a whole number from 50 to 250"),
        ("fan", True, 1, "got 1, allowed: true or false"),
        ("door", True, 1, "got 1; Known: True, auto"),
    ],
)
def test_a_setting_says_what_is_wrong_with_a_value(name, good, bad, message):
    assert SETTINGS[name].problem(good) is None
    problem = SETTINGS[name].problem(bad)
    assert problem is not None and problem.startswith(message)
