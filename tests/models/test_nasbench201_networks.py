"""NAS-Bench-201 against its own table: text and canonical form, params and FLOPs of every cell."""

import os
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from expecting import raises

from nasforge.core.errors import BuildError
from nasforge.core.space import SearchSpace
from nasforge.models.costs import count_flops, count_params
from nasforge.models.nasbench201_cells import EDGES, canonical, edge_key, text
from nasforge.models.network import build
from nasforge.settings.experiment import load_space
from nasforge.supernet.network import build_supernet

FOLDER = os.environ.get("NASFORGE_DATA")
needs_table = pytest.mark.skipif(not FOLDER, reason="NASFORGE_DATA does not point to the folder with the tables")
SHAPE = (3, 32, 32)
COLUMNS = ("arch_str", "codes", "ops", "canonical", "params_M", "flops_M", "cifar10_test_e200")


EXAMPLE = "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|"


def from_text(cell: str) -> dict[str, str]:
    return {edge_key(*edge): name for edge, name in zip(EDGES, re.findall(r"(\w+)~\d", cell), strict=True)}


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("nasbench201")


@pytest.fixture(scope="module")
def table() -> dict[str, np.ndarray]:
    with np.load(Path(FOLDER or "") / "nasbench201_cifar10.npz") as content:
        return {name: content[name] for name in COLUMNS}


def costs_of(space: SearchSpace, **decided: str) -> tuple[int, int]:
    """Params and multiply-adds, the other edges being `none`."""
    values = {f"model.{edge_key(*edge)}": decided.get(edge_key(*edge), "none") for edge in EDGES}
    with torch.device("meta"):
        network = build(space, space.point(values), in_channels=3, classes=10)
    return count_params(network), count_flops(network, SHAPE)


@needs_table
def test_text_both_ways_for_every_cell(space, table):
    ops = table["ops"].tolist()
    assert set(ops) == set(space.domains["model.edge0_1"].values)
    for arch, codes in zip(table["arch_str"].tolist(), table["codes"].tolist(), strict=True):
        values = from_text(arch)
        assert list(values.values()) == [ops[code] for code in codes]
        assert text(values) == arch


@needs_table
def test_canonical_form_divides_all_cells_as_the_table_does(table):
    ours = [canonical(from_text(arch)) for arch in table["arch_str"].tolist()]
    theirs = table["canonical"].tolist()
    assert len(set(ours)) == len(set(theirs)) == len(set(zip(ours, theirs, strict=True))) == 6466


def test_points_of_the_space_know_their_canonical_form(space):
    point = space.point({f"model.{key}": value for key, value in from_text(EXAMPLE).items()})
    assert point.canonical == canonical(from_text(EXAMPLE))
    assert point == space.default_point()
    assert space.function("text")(point.model) == EXAMPLE


@needs_table
def test_params_and_flops_of_every_cell_are_the_tables(space, table):
    """All 15,625 rows from a few networks: params and multiply-adds of edges add up, which twenty real networks prove.

    The table counts more than multiply-adds of convolutions and linear layers (data/README.md): 2 per BN output
    element, 1 per ReLU element, 9 per average-pool output element, 4 per 2x2 down-sampling pool output element, and
    5,184 for the final pool.
    """
    params, flops = costs_of(space)
    count = {}
    for operation in space.domains["model.edge0_1"].values:
        costs = {costs_of(space, **{edge: operation}) for edge in ("edge0_1", "edge2_3")}
        assert len(costs) == 1, f"{operation} costs the same on every edge"
        ((one_params, one_flops),) = costs
        count[operation] = (one_params - params, one_flops - flops)
    stages = [channels * size * size for channels, size in ((16, 32), (32, 16), (64, 8))]  # elements of a tensor
    cells = 5 * sum(stages)
    extra = {"none": 0, "skip_connect": 0, "avg_pool_3x3": 9 * cells}
    extra |= dict.fromkeys(("nor_conv_1x1", "nor_conv_3x3"), (1 + 2) * cells)
    skeleton = 2 * stages[0] + (2 + 1) * stages[2] + 5184  # the stem's BN, BN and ReLU at the end, the final pool
    # a reduction: ReLU (twice as much comes in), BN, ReLU, BN; the bypass pools half the channels
    for out in stages[1:]:
        skeleton += 2 * out + 2 * out + out + 2 * out + 4 * (out // 2)
    codes, ops = table["codes"], table["ops"].tolist()
    ours = np.array([count[op] for op in ops])[codes].sum(1) + np.array((params, flops))
    assert np.array_equal(ours[:, 0], np.rint(table["params_M"] * 1e6))
    added = np.array([extra[op] for op in ops])[codes].sum(1) + skeleton
    assert np.array_equal(ours[:, 1] + added, np.rint(table["flops_M"] * 1e6))
    best = table["cifar10_test_e200"].argmax()
    assert ours[best, 1] == 153_272_960
    assert table["flops_M"][best] == 155.584192
    for row in random.Random(0).sample(range(len(codes)), 20):
        decided = {edge_key(*edge): ops[code] for edge, code in zip(EDGES, codes[row], strict=True)}
        assert costs_of(space, **decided) == tuple(ours[row])


def test_the_supernet_runs_every_kind_of_path(space):
    supernet = build_supernet(space, 3, 10)
    x = torch.randn(2, 3, 8, 8)
    for seed in range(3):
        supernet.activate(space.sample(random.Random(seed)))
        assert supernet(x).shape == (2, 10)


def test_average_pooling_does_not_count_the_padding(space):
    edges = {f"model.{edge_key(*edge)}": "none" for edge in EDGES}
    network = build(space, space.point({**edges, "model.edge0_3": "avg_pool_3x3"}), in_channels=3, classes=10)
    ones = torch.ones(1, 16, 4, 4)
    assert torch.equal(network.stage0[0](ones), ones)


@pytest.mark.parametrize("argument", ["channels", "cells_per_stage"])
def test_arguments_out_of_range(space, argument):
    from dataclasses import replace

    wrong = replace(space, arguments={argument: 0})
    with raises(BuildError, "range", f"builder.{argument}", 1, 0):
        build(wrong, space.default_point(), in_channels=3, classes=10)
