from expecting import raises

from nasforge.core.architecture import Architecture
from nasforge.core.errors import BuildError
from nasforge.models.pick import Fixed


def fixed(**values) -> Fixed:
    return Fixed(Architecture({f"model.{key}": value for key, value in values.items()} | {"train.rate": 1.0}))


def test_builds_only_the_option_decided():
    made = []
    pick = fixed(block="b")
    assert pick("block", {name: lambda name=name: made.append(name) or name for name in "abc"}) == "b"
    assert made == ["b"]
    pick.finish()


def test_a_decision_may_be_read_in_many_places():
    pick = fixed(activation="relu")
    assert [pick("activation", {"relu": object}) is not None for _ in range(3)] == [True] * 3
    pick.finish()


def test_unknown_option_names_the_nearest():
    with raises(BuildError, "unknown", "model.block", "separabel_3", "separable_3"):
        fixed(block="separabel_3")("block", {"separable_3": dict, "pair": dict})


def test_number_outside_a_long_range_shows_its_ends():
    with raises(BuildError, "unknown", "model.reduction", 99):
        fixed(reduction=99)("reduction", dict.fromkeys(range(1, 17), dict))


def test_decision_that_the_architecture_lacks():
    with raises(BuildError, "unknown", "model.depth"):
        fixed(block="a")("depth", {1: dict})


def test_unread_decisions_are_named_and_the_recipe_is_not_the_builders():
    pick = fixed(block="a", other=1, third=2)
    pick("block", {"a": dict})
    with raises(BuildError, "invalid", "model.other", "model.third"):
        pick.finish()


def test_width():
    pick = fixed(width=24)
    assert pick.width("width") == pick.width("width", maximum=24) == 24
    with raises(BuildError, "range", "model.width", 16):
        pick.width("width", maximum=16)
    for wrong in (0, -3, 1.5, "wide", True):
        with raises(BuildError, "type", "model.width"):
            fixed(width=wrong).width("width")
