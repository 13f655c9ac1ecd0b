"""DARTS' cells: the authors' network to the parameter, their discretisation, one set of weights for each edge."""

import math
import random
import sys
from dataclasses import replace
from itertools import islice

import pytest
import torch
from expecting import raises

from nasforge.core.errors import BuildError, SpaceError
from nasforge.core.space import SearchSpace
from nasforge.models.costs import count_params
from nasforge.models.darts_cell import FactorizedReduction
from nasforge.models.darts_genotype import CELLS, NODES, OPERATIONS, derive, edge_key, genotype, inputs_key, kept
from nasforge.models.network import build
from nasforge.settings.experiment import load_space
from nasforge.supernet.inheritance import inherit
from nasforge.supernet.mixed import Share
from nasforge.supernet.network import Supernet, build_supernet

# "DARTS_V2" of the authors' genotypes.py
V2 = {
    "normal": "sep_conv_3x3 0 sep_conv_3x3 1, sep_conv_3x3 0 sep_conv_3x3 1, skip_connect 0 sep_conv_3x3 1, "
    "skip_connect 0 dil_conv_3x3 2",
    "reduction": "max_pool_3x3 0 max_pool_3x3 1, max_pool_3x3 1 skip_connect 2, max_pool_3x3 0 skip_connect 2, "
    "max_pool_3x3 1 skip_connect 2",
}


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("darts")


def small(space: SearchSpace) -> SearchSpace:
    return replace(space, arguments={"channels": 4, "layers": 3})


def values_of(cells: dict[str, str]) -> dict[str, str]:
    """Decisions from two `operation source` per node; an edge that is not kept has the first operation."""
    values = {f"model.{edge_key(c, s, n)}": OPERATIONS[0] for c in CELLS for n in NODES for s in range(n)}
    for cell, text in cells.items():
        for node, inputs in zip(NODES, text.split(", "), strict=True):
            first, a, second, b = inputs.split()
            values |= {f"model.{edge_key(cell, int(a), node)}": first, f"model.{edge_key(cell, int(b), node)}": second}
            if node > NODES[0]:
                values[f"model.{inputs_key(cell, node)}"] = f"{a}+{b}"
    return values


def test_the_authors_network_has_as_many_parameters(space):
    """3.35 million, without the auxiliary head: 36 channels, 20 cells, CIFAR-10."""
    point = space.point(values_of(V2))
    with torch.device("meta"):
        network = build(replace(space, arguments={"channels": 36, "layers": 20}), point, in_channels=3, classes=10)
    assert count_params(network) == 3_349_342


def test_genotype_is_the_authors_text_and_ignores_what_is_not_kept(space):
    values = values_of(V2)
    text = genotype(space.point(values).model)
    assert text.startswith("Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ")
    assert text.endswith("('max_pool_3x3', 1), ('skip_connect', 2)], reduce_concat=range(2, 6))")
    other = space.point({**values, "model.normal.edge4_5": "skip_connect"})
    assert other.arch_id == space.point(values).arch_id
    assert space.point({**values, "model.normal.edge0_5": "max_pool_3x3"}).arch_id != other.arch_id


def test_every_random_point_is_a_cell_of_the_paper(space):
    for seed in range(20):
        values = space.sample(random.Random(seed)).model
        for cell in CELLS:
            assert all(len(set(kept(values, cell, node))) == 2 for node in NODES)
    networks = (len(OPERATIONS) ** 8 * 3 * 6 * 10) ** 2
    assert 1e18 < networks < 1.2e18
    assert space.size == networks * len(OPERATIONS) ** 12


def test_the_genotype_needs_no_torch():
    import subprocess

    code = "import sys, nasforge.models.darts_genotype; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("size", "seen"), [(7, 4 * 4 + 3 * 3), (8, 4 * 4 + 4 * 4)])
def test_factorized_reduction_sees_the_pixels_on_even_and_on_odd_places(size, seen):
    x = torch.rand(1, 1, size, size, requires_grad=True)
    out = FactorizedReduction(1, 5).eval()(x)
    assert out.shape == (1, 5, (size + 1) // 2, (size + 1) // 2)
    out.square().sum().backward()
    assert int((x.grad != 0).sum()) == seen


# --- the supernet ----------------------------------------------------------------------------------------------------


def uniform(supernet: Supernet) -> dict[str, Share]:
    shares = {}
    for key, domain in supernet.space.domains.items():
        count = len(domain.values)
        shares[key.removeprefix("model.")] = Share(tuple(range(count)), torch.full((count,), 1.0 / count))
    return shares


def test_a_node_of_equal_shares_is_the_mean_of_its_edges_times_two(space):
    supernet = build_supernet(small(space), 3, 10).eval()
    supernet.mix(uniform(supernet))
    node = supernet.network.cells[0].nodes[3]
    states = [torch.randn(1, 4, 6, 6) for _ in range(5)]
    edges = [node.get_submodule(f"edge{source}")(states[source]) for source in range(5)]
    assert torch.allclose(node(states), 2 * torch.stack(edges).mean(0), atol=1e-6)


def test_alphas_of_inputs_and_operations_have_gradients(space):
    supernet = build_supernet(small(space), 3, 10)
    shares = {key: replace(share, weights=share.weights.requires_grad_()) for key, share in uniform(supernet).items()}
    supernet.mix(shares)
    supernet(torch.randn(2, 3, 8, 8)).square().sum().backward()
    assert all(share.weights.grad is not None and share.weights.grad.abs().sum() > 0 for share in shares.values())


def test_a_single_path_computes_only_what_is_kept_and_equals_its_child(space):
    where = small(space)
    supernet = build_supernet(where, 3, 10)
    ran = []
    for name, module in supernet.network.named_modules():
        if name.rpartition(".")[2].startswith("edge"):
            module.register_forward_hook(lambda module, inputs, out, name=name: ran.append(name))
    x = torch.randn(2, 3, 8, 8)
    for seed in range(3):
        point = where.sample(random.Random(seed))
        child = build(where, point, in_channels=3, classes=10)
        inherit(supernet.state_dict(), point, child)
        supernet.activate(point)
        ran.clear()
        assert torch.equal(supernet(x), child(x))
        assert len(ran) == 3 * 4 * 2, "two edges of every node of three cells"


# --- derivation ------------------------------------------------------------------------------------------------------


def flat(space: SearchSpace) -> dict[str, tuple[float, ...]]:
    return {key: (0.0,) * len(domain.values) for key, domain in space.domains.items() if "edge" in key}


def strong(operation: str, alpha: float) -> tuple[float, ...]:
    return tuple(alpha if name == operation else 0.0 for name in OPERATIONS)


def test_a_node_keeps_the_two_edges_with_the_strongest_operation(space):
    alphas = flat(space)
    alphas["model.normal.edge0_5"] = strong("max_pool_3x3", 1.0)
    alphas["model.normal.edge2_5"] = strong("skip_connect", 3.0)
    alphas["model.normal.edge4_5"] = strong("dil_conv_5x5", 2.0)
    # a large alpha among others as large is no strong operation: strength is the softmax
    alphas["model.normal.edge3_5"] = (9.0,) * 7
    alphas["model.reduction.edge1_3"] = strong("avg_pool_3x3", 1.0)
    alphas["model.reduction.edge2_3"] = strong("sep_conv_5x5", 1.0)
    first, second, third = islice(derive(space, alphas), 3)
    values = first.model
    assert values["normal.node5.inputs"] == "2+4"
    assert (values["normal.edge2_5"], values["normal.edge4_5"]) == ("skip_connect", "dil_conv_5x5")
    assert values["normal.edge0_5"] == "max_pool_3x3", "what is not kept has its strongest operation"
    assert values["reduction.node3.inputs"] == "1+2"
    assert len({point.arch_id for point in (first, second, third)}) == 3


def test_learnt_weights_of_inputs_count_too(space):
    alphas = flat(space)
    alphas["model.normal.edge0_3"] = alphas["model.normal.edge1_3"] = strong("sep_conv_3x3", 1.0)
    assert next(derive(space, alphas)).model["normal.node3.inputs"] == "0+1"
    alphas["model.normal.node3.inputs"] = (0.0, 5.0, 0.0)
    assert next(derive(space, alphas)).model["normal.node3.inputs"] == "0+2"


def test_all_of_a_small_space_once_in_order_of_their_strength(space):
    fixed = {key: domain.values[0] for key, domain in space.domains.items()}
    open_keys = ("model.normal.node3.inputs", "model.normal.edge0_2", "model.normal.edge1_3")
    narrow = space.fixed({key: value for key, value in fixed.items() if key not in open_keys})
    rng = random.Random(0)
    alphas = {key: tuple(rng.gauss(0, 1) for _ in space.domains[key].values) for key in open_keys}
    derived = list(derive(narrow, alphas))
    assert len({point.arch_id for point in derived}) == 7 * (7 + 7 + 1)

    def share(key: str, value: object) -> float:
        exponents = [math.exp(alpha) for alpha in alphas[key]]
        return exponents[space.domains[key].values.index(value)] / sum(exponents)

    def strength(point) -> float:
        pairs = {pair: share(open_keys[0], pair) for pair in space.domains[open_keys[0]].values}
        sources = point.values[open_keys[0]].split("+")
        product = share(open_keys[1], point.values[open_keys[1]])
        for source in sources:
            product *= sum(derived for pair, derived in pairs.items() if source in pair.split("+"))
            product *= share(open_keys[2], point.values[open_keys[2]]) if source == "1" else 1.0
        return product

    scores = [strength(point) for point in derived]
    best = {}
    for point, score in zip(derived, scores, strict=True):
        best.setdefault(point.arch_id, score)
    assert list(best.values()) == pytest.approx(sorted(best.values(), reverse=True))


def test_alphas_that_do_not_fit(space):
    with raises(SpaceError, "invalid", "model.normal.edge0_2", 7, 2):
        next(derive(space, {**flat(space), "model.normal.edge0_2": (0.0, 1.0)}))
    with raises(SpaceError, "missing", "model.normal.edge0_2"):
        next(derive(space, {}))


@pytest.mark.parametrize(("argument", "least"), [("channels", 1), ("layers", 3)])
def test_arguments_out_of_range(space, argument, least):
    with raises(BuildError, "range", f"builder.{argument}", least, 0):
        build(replace(space, arguments={argument: 0}), space.default_point(), in_channels=3, classes=10)
