"""Spaces made in Python: they are checked as those of YAML files are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from expecting import raises

from nasforge.core.errors import ConfigError
from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.settings.experiment import resolve

WIDTH = Decision("model.width", Choice((4, 8)))


def resolved(*decisions: Decision, **fields: Any) -> Any:
    return resolve({"space": SearchSpace("made", decisions or (WIDTH,), **fields), "data": "digits"})


@pytest.mark.parametrize(
    ("fields", "kind", "says"),
    [
        ({"defaults": {"batch_size": 16}}, "unknown", "'batch_size' must begin with model. or train."),
        ({"defaults": {"model.width": 16}}, "unknown", "the default of 'model.width': got 16"),
        ({"defaults": {"model.wide": 8}}, "unknown", "a default of 'model.wide', which is no decision"),
        ({"builder": print}, "type", "expected a text such as my_module:build"),
        ({"arguments": {"folder": Path("x")}}, "type", "arguments: Object of type PosixPath"),
    ],
    ids=str,
)
def test_what_such_a_space_says_is_checked(fields: dict[str, Any], kind: str, says: str) -> None:
    with raises(ConfigError, kind, "space", says):
        resolved(**fields)


def test_its_decisions_say_whether_they_are_of_the_network() -> None:
    with raises(ConfigError, "unknown", "space", "'width' must begin with model. or train."):
        resolved(Decision("width", Choice((4, 8))))


def test_a_default_outside_of_a_fixed_decision_stays() -> None:
    space = SearchSpace("made", (WIDTH,), defaults={"model.width": 8}).fixed({"model.width": 4})
    assert resolve({"space": space, "data": "digits"}).space.default_point().values == {"model.width": 4}
