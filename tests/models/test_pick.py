from expecting import raises
from torch import nn

import nasforge
from nasforge.core.architecture import Architecture
from nasforge.core.errors import BuildError
from nasforge.core.space import Choice, Decision, Float, Int, SearchSpace
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


def test_value():
    pick = fixed(dropout=0.25, dilation=3)
    assert (pick.value("dropout"), pick.value("dilation")) == (0.25, 3)
    pick.finish()
    for wrong in ("0.1", True):
        with raises(BuildError, "type", "model.dropout"):
            fixed(dropout=wrong).value("dropout")
    with raises(BuildError, "unknown", "model.depth"):
        pick.value("depth")


def test_width():
    pick = fixed(width=24)
    assert pick.width("width") == pick.width("width", maximum=24) == 24
    with raises(BuildError, "range", "model.width", 16):
        pick.width("width", maximum=16)
    for wrong in (0, -3, 1.5, "wide", True):
        with raises(BuildError, "type", "model.width"):
            fixed(width=wrong).width("width")


def dropped(pick, *, in_channels, classes):
    """A builder that reads a number of each kind."""
    dilation = pick.value("dilation")
    first = nn.Conv2d(in_channels, pick.width("width"), 3, padding=dilation, dilation=dilation)
    dropout = nn.Dropout(pick.value("dropout"))
    return nn.Sequential(first, nn.AdaptiveAvgPool2d(1), nn.Flatten(), dropout, nn.Linear(4, classes))


def test_a_space_with_numbers_is_searched_and_built(tmp_path):
    numbers = {"dilation": Int(1, 3), "dropout": Float(0.0, 0.5), "width": Choice((4,))}
    decisions = tuple(Decision(f"model.{key}", domain) for key, domain in numbers.items())
    space = SearchSpace("numbers", decisions, builder=f"{__name__}:dropped")
    where = {"runs_dir": tmp_path, "tracking_uri": "none", "name": "numbers", "runner": "local"}
    data = {"source": "digits", "images": 200}
    result = nasforge.search(space=space, data=data, strategy="random", epochs=1, budget={"trials": 1}, **where)
    values = result.best.architecture.values
    network = nasforge.load(tmp_path / "numbers" / "best").body
    assert network[3].p == values["model.dropout"] and 0 <= network[3].p <= 0.5
    assert network[0].dilation == (values["model.dilation"],) * 2
