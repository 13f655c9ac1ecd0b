"""Every YAML in search_spaces/: loads, random points build and learn, survives JSON, supernet and child agree."""

import json
import random
from pathlib import Path

import pytest
import torch

from nasforge import search_spaces
from nasforge.core.recipe import check_recipes, recipe_of
from nasforge.core.space import SearchSpace
from nasforge.models.costs import costs_of
from nasforge.models.network import build
from nasforge.models.resolution import suited
from nasforge.settings.experiment import load_space
from nasforge.settings.space_file import load_recipe, shipped_recipes
from nasforge.supernet.inheritance import inherit
from nasforge.supernet.network import build_supernet

FOLDER = Path(search_spaces.__file__).parent
FILES = sorted(FOLDER.glob("*.yaml"))
SHAPE = (3, 16, 16)


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def space(request) -> SearchSpace:
    return suited(load_space(request.param), SHAPE)


def test_there_are_spaces():
    assert {"tiny", "blocks", "mobile"} <= {path.stem for path in FILES}


def test_name_is_the_files(space):
    assert (FOLDER / f"{space.name}.yaml").exists()


def test_json_round_trip(space):
    again = SearchSpace.from_json(json.loads(json.dumps(space.to_json())))
    assert again == space
    assert again.fingerprint == space.fingerprint
    assert again.sample(random.Random(3)) == space.sample(random.Random(3))


def test_random_points_build_and_learn(space):
    for seed in range(3):
        point = space.sample(random.Random(seed))
        network = build(space, point, in_channels=SHAPE[0], classes=7)
        out = network(torch.randn(2, *SHAPE))
        assert out.shape == (2, 7)
        out.logsumexp(1).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_recipes_of_random_points_are_valid(space):
    for seed in range(5):
        recipe_of(space, space.sample(random.Random(seed)), {})


def test_default_point_builds_and_its_costs_are_told(space):
    point = space.default_point()
    costs = costs_of(lambda: build(space, point, in_channels=1, classes=10), (1, 28, 28))
    assert all(value > 0 for value in costs.values())


def test_every_option_of_every_decision_builds(space):
    """The supernet holds them all."""
    narrow = space.fixed({k: d.options[-1] for k, d in space.domains.items() if k.endswith("width")})
    with torch.device("meta"):
        build_supernet(narrow, 3, 10)


def test_supernet_equals_child(space):
    narrow = space.fixed({k: d.options[0] for k, d in space.domains.items() if k.endswith("width")})
    supernet = build_supernet(narrow, SHAPE[0], 7)
    point = narrow.sample(random.Random(11))
    child = build(narrow, point, in_channels=SHAPE[0], classes=7)
    inherit(supernet.state_dict(), point, child)
    supernet.activate(point)
    x = torch.randn(2, *SHAPE)
    assert torch.equal(supernet(x), child(x))
    assert torch.equal(supernet.eval()(x), child.eval()(x))


def costs(space: SearchSpace, seed: int) -> tuple[float, float]:
    cost = costs_of(lambda: build(space, space.sample(random.Random(seed)), in_channels=1, classes=10), (1, 28, 28), 2)
    return cost["cost/params"], cost["cost/flops"]


def test_blocks_holds_small_and_large_networks():
    space = load_space("blocks")
    drawn = [costs(space, seed) for seed in range(14)]
    assert sum(params <= 300e3 and flops <= 40e6 for params, flops in drawn) >= 6
    assert sum(params <= 100e3 and flops <= 10e6 for params, flops in drawn) >= 1
    largest = {key: domain.options[-1] for key, domain in space.domains.items() if key.endswith("width")}
    largest |= {key: "residual" for key in space.domains if key.endswith("block")}
    cost = costs(space.fixed(largest), 0)
    assert 0.8e6 < cost[0] < 2e6 and cost[1] > 100e6


def test_tiny_is_tiny():
    space = load_space("tiny")
    largest = {key: domain.options[-1] for key, domain in space.domains.items() if key.endswith("width")}
    largest |= {key: "residual" for key in space.domains if key.endswith("block")}
    assert costs(space.fixed(largest), 0)[0] < 50_000


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_trains_the_tiny_space_at_all_its_ends(name):
    recipe = load_recipe(name)
    assert recipe.name == name and recipe.domains and all(key.startswith("train.") for key in recipe.domains)
    space = load_space("tiny").with_recipe(recipe)
    check_recipes(space, {})
    rng = random.Random(0)
    for _ in range(20):
        recipe_of(space, space.sample(rng), {})
