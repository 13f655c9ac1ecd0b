import random

import pytest
import torch
from expecting import raises
from torch import nn

from nasforge.core.architecture import Architecture
from nasforge.core.errors import BuildError
from nasforge.core.space import Choice, Decision, Float, Int, SearchSpace
from nasforge.models.network import build
from nasforge.settings.experiment import load_space
from nasforge.supernet.inheritance import inherit
from nasforge.supernet.mixed import Mixed, Mixture
from nasforge.supernet.network import build_supernet


def space(**domains) -> SearchSpace:
    return SearchSpace("s", tuple(Decision(f"model.{key}", domain) for key, domain in domains.items()))


def narrow(name: str) -> SearchSpace:
    """A shipped space with every width at its smallest."""
    full = load_space(name)
    return full.fixed({k: d.options[0] for k, d in full.domains.items() if k.endswith("width")})


def test_builds_what_the_space_lists_and_nothing_else():
    made = []

    def thunk(name: str):
        return lambda: made.append(name) or nn.Identity()

    mixture = Mixed(space(op=Choice(("b", "c"))))("op", {name: thunk(name) for name in "abcd"})
    assert made == ["b", "c"]
    assert isinstance(mixture, Mixture)


def test_one_option_left_needs_no_mixture():
    built = Mixed(space(op=Choice(("b",))))("op", {"a": nn.ReLU, "b": nn.Identity})
    assert type(built) is nn.Identity


def test_a_width_is_built_at_its_largest_value():
    pick = Mixed(space(width=Choice((8, 16, 12))))
    assert pick.width("width") == 16 and pick.widths == {"width": (8, 16, 12)}
    pick = Mixed(space(width=Int(4, 12, step=4)))
    assert pick.width("width") == 12 and tuple(pick.widths["width"]) == (4, 8, 12)
    assert Mixed(space(width=Choice((16,)))).width("width") == 16
    assert Mixed(space(width=Int(12, 12))).width("width") == 12
    with raises(BuildError, "unsupported", "model.width"):
        Mixed(space(width=Float(4, 12))).width("width")


@pytest.mark.parametrize("several", [Float(0, 0.5), Float(0, 0.5, step=0.25), Int(1, 5), Choice((0.1, 0.2))])
def test_several_numbers_cannot_be_mixed_and_one_can_be_read(several):
    with raises(BuildError, "unsupported", "model.rate", "a supernet cannot mix numbers; make it a choice or a width"):
        Mixed(space(rate=several)).value("rate")
    pick = Mixed(space(rate=several.only(several.middle)))
    assert pick.value("rate") == several.middle
    pick.finish()


def growing(pick, *, in_channels, classes):
    """A builder with a projection only where the width differs from 8."""
    width = pick.width("width")
    start = nn.Conv2d(in_channels, 8, 3)
    project = nn.Identity() if width == 8 else nn.Conv2d(8, width, 1)
    return nn.Sequential(start, project, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


@pytest.mark.parametrize(("widths", "fits"), [((4, 8, 12), True), ((4, 6, 8), False)])
def test_widths_that_cannot_be_sliced_are_refused_at_build_time(widths, fits):
    space = SearchSpace("growing", (Decision("model.width", Choice(widths)),), builder=f"{__name__}:growing")
    if fits:
        supernet = build_supernet(space, 1, 10)
        x = torch.randn(2, 1, 6, 6)
        for width in widths:
            point = space.point({"model.width": width})
            supernet.activate(point)
            child = build(space, point, in_channels=1, classes=10)
            inherit(supernet.state_dict(), point, child)
            assert torch.equal(supernet(x), child(x))
    else:
        with raises(BuildError, "unsupported", "model.width", "growing", 4):
            build_supernet(space, 1, 10)


class TwicePlaced(nn.Module):
    """One convolution in two places, so that it has two names; a path may go through the second place alone."""

    def __init__(self, pick, in_channels, classes):
        super().__init__()
        width = pick.width("width")
        self.stem = nn.Conv2d(in_channels, width, 1)
        conv = nn.Conv2d(width, width, 3, padding=1)
        self.first, self.second = (pick(key, {"conv": lambda: conv, "skip": nn.Identity}) for key in ("a", "b"))
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.second(self.first(self.stem(x))).mean((2, 3)))


def twice_placed(pick, *, in_channels, classes):
    return TwicePlaced(pick, in_channels, classes)


def test_a_module_in_two_places_is_sliced_under_either_name():
    options = Choice(("conv", "skip"))
    decisions = [Decision("model.a", options), Decision("model.b", options), Decision("model.width", Choice((2, 4)))]
    where = SearchSpace("twice", tuple(decisions), builder=f"{__name__}:twice_placed")
    supernet = build_supernet(where, 1, 3)
    images = torch.randn(2, 1, 4, 4)
    for a in options.options:
        for b in options.options:
            point = where.point({"model.a": a, "model.b": b, "model.width": 2})
            child = build(where, point, in_channels=1, classes=3)
            inherit(supernet.state_dict(), point, child)
            supernet.activate(point)
            assert torch.allclose(supernet(images), child(images), atol=1e-6), (a, b)


def test_ranges_cannot_be_mixed():
    with raises(BuildError, "unsupported", "model.rate", "0.0", "space.fixed"):
        Mixed(space(rate=Float(0, 1)))("rate", {})


def test_options_that_are_no_modules_cannot_be_mixed():
    with raises(BuildError, "unsupported", "model.size"):
        Mixed(space(size=Choice((1, 2))))("size", {1: lambda: 1, 2: lambda: 2})
    assert Mixed(space(size=Choice((2,))))("size", {1: lambda: 1, 2: lambda: 2}) == 2


@pytest.mark.parametrize("options", [(1, "1"), (True, "True"), ("a.b", "a:b")])
def test_options_of_one_name_are_refused(options):
    """The last one would take the place of the others."""
    with raises(BuildError, "duplicate", "model.op"):
        Mixed(space(op=Choice(options)))("op", dict.fromkeys(options, nn.Identity))


def test_unknown_decisions_options_and_unread_ones():
    pick = Mixed(space(op=Choice(("a", "b")), other=Choice((1, 2))))
    with raises(BuildError, "unknown", "model.depth"):
        pick("depth", {1: nn.Identity})
    with raises(BuildError, "unknown", "model.op", "b"):
        pick("op", {"a": nn.Identity})
    with raises(BuildError, "invalid", "model.other"):
        pick.finish()


def test_only_the_active_path_runs():
    supernet = build_supernet(narrow("tiny"), 1, 10)
    point = supernet.space.sample(random.Random(1))
    supernet.activate(point)
    ran = []
    for module in supernet.modules():
        if isinstance(module, Mixture):
            for name, option in module.named_children():
                option.register_forward_hook(lambda m, i, o, name=name: ran.append(name))
    supernet(torch.randn(2, 1, 8, 8))
    decided = {f"@{key}={value}".replace(".", ":") for key, value in point.model.items()}
    assert ran and set(ran) <= decided
    supernet.zero_grad(set_to_none=True)
    supernet(torch.randn(2, 1, 8, 8)).sum().backward()
    touched = {key for key, p in supernet.named_parameters() if p.grad is not None}
    assert all({part for part in key.split(".") if part.startswith("@")} <= decided for key in touched)


def test_activation_is_one_decision_in_many_places():
    supernet = build_supernet(narrow("tiny"), 1, 10)
    point = supernet.space.fixed({"model.activation": "silu"}).sample(random.Random(0))
    supernet.activate(point)
    places = [m for m in supernet.modules() if isinstance(m, Mixture) and m.key == "activation"]
    assert len(places) > 10
    x = torch.randn(3, 2, 4, 4)
    assert all(torch.equal(place(x), nn.functional.silu(x)) for place in places)


def test_running_before_a_path_is_chosen_says_what_to_do():
    supernet = build_supernet(narrow("tiny"), 1, 10)
    with raises(BuildError, "invalid", "model.activation", "supernet.activate"):
        supernet(torch.randn(1, 1, 8, 8))


def test_activating_what_is_not_there():
    supernet = build_supernet(narrow("tiny"), 1, 10)
    with raises(BuildError, "unknown", "model.nonsense"):
        supernet.activate(Architecture({"model.nonsense": 1}))
    with raises(BuildError, "unknown", "model.activation", "gelu"):
        supernet.activate(Architecture({"model.activation": "gelu"}))
    with raises(BuildError, "unknown", "model.stage0.width", 16, 8):
        supernet.activate(Architecture({"model.stage0.width": 16}))  # fixed at 8


def test_a_whole_number_fixed_at_one_value_can_be_activated():
    space = SearchSpace("growing", (Decision("model.width", Int(3, 3)),), builder=f"{__name__}:growing")
    supernet = build_supernet(space, 1, 10)
    supernet.activate(Architecture({"model.width": 3}))
    with raises(BuildError, "range", "model.width", 3):
        supernet.activate(Architecture({"model.width": 4}))


def test_the_flagship_is_mixed_with_widths_fixed():
    with torch.device("meta"):
        supernet = build_supernet(narrow("blocks"), 3, 10)
    places = [m for m in supernet.modules() if isinstance(m, Mixture)]
    assert {m.key for m in places} >= {f"stage{i}.layer{j}.block" for i in range(3) for j in range(4)}
    assert {m.key for m in places} >= {"stage0.layer0.block.bottleneck.reduction", "activation"}
