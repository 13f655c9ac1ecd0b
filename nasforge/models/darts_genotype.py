"""Cells of DARTS without torch: their decisions, their text, and what alphas make of them.

"DARTS: Differentiable Architecture Search", Liu et al. 2019, https://arxiv.org/abs/1806.09055.

A cell has two inputs (0 and 1) and four nodes (2 to 5); a node is the sum of two operations on two different nodes
before it. `normal.edge1_4` is the operation from 1 to 4 and `normal.node4.inputs` says which two of its edges node 4
keeps, `0+1` for instance. So every point that is drawn is a cell of the paper, and a supernet still mixes the
operations of all edges with one set of weights each. The paper has an operation `none` on every edge instead, by which
a random point would get up to five inputs per node; what competes through `none` there competes through `inputs` here.

The operation of an edge that its node does not keep changes nothing: `genotype`, the canonical form, leaves it out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from nasforge.core.alphas import by_odds
from nasforge.core.architecture import MODEL, Architecture, Value
from nasforge.core.errors import SpaceError
from nasforge.core.space import Choice, Decision, SearchSpace

CELLS = ("normal", "reduction")
OPERATIONS = (
    *("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"),
    *("max_pool_3x3", "avg_pool_3x3", "skip_connect"),
)
INPUTS = 2
NODES = tuple(range(INPUTS, INPUTS + 4))


def edge_key(cell: str, source: int, node: int) -> str:
    """Return the decision, without `model.`, on the operation from one node to another."""
    return f"{cell}.edge{source}_{node}"


def inputs_key(cell: str, node: int) -> str:
    """Return the decision, without `model.`, on the two edges that a node keeps; the first node has no choice."""
    return f"{cell}.node{node}.inputs"


def pairs(node: int) -> dict[str, tuple[int, int]]:
    """Map the options for a node's inputs: text -> the two predecessors."""
    return {f"{a}+{b}": (a, b) for a, b in combinations(range(node), 2)}


def kept(values: Mapping[str, Value], cell: str, node: int) -> tuple[int, int]:
    """Return the two predecessors of a node."""
    return (0, 1) if node == INPUTS else pairs(node)[str(values[inputs_key(cell, node)])]


def genotype(values: Mapping[str, Value]) -> str:
    """Return the cells as the authors' code prints them; points with the same genotype are the same network.

    Args:
        values: the `model.*` values, keys without the prefix.
    """

    def written(cell: str) -> str:
        edges = [
            (values[edge_key(cell, source, node)], source) for node in NODES for source in kept(values, cell, node)
        ]
        return "[" + ", ".join(f"('{operation}', {source})" for operation, source in edges) + "]"

    concat = f"range({NODES[0]}, {NODES[-1] + 1})"
    return (
        f"Genotype(normal={written('normal')}, normal_concat={concat}, "
        f"reduce={written('reduction')}, reduce_concat={concat})"
    )


def derive(space: SearchSpace, alphas: Mapping[str, Sequence[float]]) -> Iterator[Architecture]:
    """Yield architectures by decreasing score, the first being the paper's discretisation (section 2.4).

    The strength of an operation on an edge is its share among the edge's operations, softmax(alpha), times the weight
    that the edge has in its node: the shares of all pairs of inputs that it belongs to. Where those are equal, or no
    alphas are given for them, that is the paper's rule: a node keeps the two edges whose strongest operation is
    strongest. (A learnt weight is the edge normalisation of "PC-DARTS", Xu et al. 2020,
    https://arxiv.org/abs/1907.05737, equation 4.) The score of an architecture is the product of its strengths.

    Args:
        space: a space of this module's decisions, perhaps with some of them fixed.
        alphas: decision -> one number per option; a fixed decision needs none.

    Raises:
        SpaceError: alphas of another number of options, or a decision of operations without.
    """
    choices: dict[str, dict[str, dict[str, Value]]] = {}
    scores: dict[str, list[float]] = {}
    for cell in CELLS:
        for node in NODES:
            ranked = sorted(_of_node(space, alphas, cell, node), key=lambda item: -item[0])
            key = f"{MODEL}{cell}.node{node}"
            choices[key] = {str(number): values for number, (_, values) in enumerate(ranked)}
            scores[key] = [score for score, _ in ranked]
    nodes = SearchSpace("nodes", tuple(Decision(key, Choice(tuple(options))) for key, options in choices.items()))
    for combination in by_odds(nodes, scores):
        values: dict[str, Value] = {}
        for key, number in combination.values.items():
            values |= choices[key][str(number)]
        yield space.decide(lambda key, domain, values=values: values[key] if key in values else space.default_of(key))  # type: ignore[misc]


def _of_node(
    space: SearchSpace, alphas: Mapping[str, Sequence[float]], cell: str, node: int
) -> Iterator[tuple[float, dict[str, Value]]]:
    """Yield every pair of inputs and operations: logarithm of the strengths' product, values of the decisions."""
    chosen = MODEL + inputs_key(cell, node)
    if node == INPUTS:
        shares = {"0+1": 1.0}
    else:
        options = space.domains[chosen].values
        shares = {str(pair): share for pair, share in zip(options, _shares(space, alphas, chosen, True), strict=True)}
    weights = [sum(share for pair, share in shares.items() if source in pairs(node)[pair]) for source in range(node)]
    keys = [MODEL + edge_key(cell, source, node) for source in range(node)]
    strengths = [
        {
            value: weight * share
            for value, share in zip(space.domains[key].values, _shares(space, alphas, key), strict=True)
        }
        for key, weight in zip(keys, weights, strict=True)
    ]
    strongest = {key: max(of, key=of.__getitem__) for key, of in zip(keys, strengths, strict=True)}
    for pair in shares:
        a, b = pairs(node)[pair]
        for first, p in strengths[a].items():
            for second, q in strengths[b].items():
                values = {**strongest, keys[a]: first, keys[b]: second}
                yield _log(p) + _log(q), values if node == INPUTS else {**values, chosen: pair}


def _shares(space: SearchSpace, alphas: Mapping[str, Sequence[float]], key: str, optional: bool = False) -> list[float]:
    """Return the softmax of a decision's alphas; equal shares if they may be absent."""
    count = len(space.domains[key].values)
    scores = alphas.get(key, [0.0] * count if optional or count == 1 else None)
    if scores is None:
        raise SpaceError(
            f"no alphas for decision '{key}' of space '{space.name}'; give one for each option", kind="missing", key=key
        )
    if len(scores) != count:
        raise SpaceError(
            f"decision '{key}' has {count} options, got {len(scores)} alphas; give one for each option",
            kind="invalid",
            key=key,
        )
    exponents = [math.exp(alpha - max(scores)) for alpha in scores]
    return [exponent / sum(exponents) for exponent in exponents]


def _log(share: float) -> float:
    return math.log(share) if share > 0 else -math.inf
