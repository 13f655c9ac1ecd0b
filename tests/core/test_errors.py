"""What errors carry beside their message."""

import ast
from pathlib import Path

import pytest
from expecting import raises

import nasforge
from nasforge.core.errors import KINDS, ConfigError, DataError, Problem
from nasforge.core.ranges import check_flag, check_whole
from nasforge.settings.experiment import resolve


def test_an_error_has_a_kind_and_a_key():
    error = DataError("labels.csv has no column 'image'", kind="missing", key="image_column")
    assert (error.kind, error.key) == ("missing", "image_column") and "labels.csv" in str(error)
    assert DataError("broken").kind == "invalid" and DataError("broken").key is None


def test_a_configuration_s_error_has_those_of_its_first_problem():
    error = ConfigError([Problem("is 0", key="train.epochs", kind="range"), Problem("is unknown", kind="unknown")])
    assert (error.kind, error.key) == ("range", "train.epochs") and str(error).splitlines()[0] == "train.epochs: is 0"
    named = ConfigError("runner: unknown runner 'lokal'", kind="unknown", key="runner")
    assert (named.kind, named.key, str(named)) == ("unknown", "runner", "runner: unknown runner 'lokal'")
    assert named.problems == (Problem("runner: unknown runner 'lokal'", kind="unknown"),)


def test_a_problem_names_its_place_once():
    assert str(Problem("seed must be a whole number", key="seed")) == "seed must be a whole number"
    assert (
        str(Problem("budget: trials must be above 0", "a.yaml", 3, "budget"))
        == "a.yaml:3: budget: trials must be above 0"
    )
    assert str(Problem("seeds are equal", key="seed")) == "seed: seeds are equal"


@pytest.mark.parametrize(("value", "kind"), [(0, "range"), ("3", "type"), (True, "type")])
def test_numbers_out_of_range_differ_from_other_types(value, kind):
    with raises(ConfigError, kind, "data.images", repr(value)):
        check_whole(value, "data: images", 1)
    with raises(DataError, "type", "data.images"):
        check_flag(3, "data: images", DataError)


def test_kinds_survive_the_resolving_of_an_experiment():
    with raises(ConfigError, "unknown", "epoch"):
        resolve({"space": "tiny", "data": "digits", "epoch": 3})


def test_every_kind_that_the_code_names_is_known():
    for file in Path(nasforge.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and (name := getattr(call.func, "id", "")).endswith(("Error", "Problem")):
                kinds = [
                    one.value.value
                    for one in call.keywords
                    if one.arg == "kind" and isinstance(one.value, ast.Constant)
                ]
                assert set(kinds) <= set(KINDS), f"{file.name}:{call.lineno}: {name} of kind {kinds}"
