"""Cells of NAS-Bench-201 as the literature writes them: their text, and the form that isomorphic cells share.

"NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", Dong and Yang 2020,
https://arxiv.org/abs/2001.00326. Free of torch: tables are looked up without it.
"""

from __future__ import annotations

from collections.abc import Mapping

from nasforge.core.architecture import Value

NODES = 4
EDGES = tuple((source, node) for node in range(1, NODES) for source in range(node))
"""(from, to), in the order of the text: 0-1, 0-2, 1-2, 0-3, 1-3, 2-3."""


def edge_key(source: int, node: int) -> str:
    """Return the decision, without `model.`, on the edge from one node to another."""
    return f"edge{source}_{node}"


def text(values: Mapping[str, Value]) -> str:
    """Return the cell's name in tables: nodes joined by `+`, each with `|operation~source|` for all before it.

    Args:
        values: the `model.*` values, keys without the prefix.
    """
    nodes = [
        "|" + "|".join(f"{values[edge_key(source, node)]}~{source}" for source in range(node)) + "|"
        for node in range(1, NODES)
    ]
    return "+".join(nodes)


def canonical(values: Mapping[str, Value]) -> str:
    """Return the expression that the cell computes: isomorphic cells share it, 6,466 of 15,625 differ.

    A node is the sorted sum of its inputs; `0` is the cell's input, `#` what `none` gives (or any operation whose
    source is `#` alone), `skip_connect` disappears. The authors identify unique cells in this way.

    Args:
        values: the `model.*` values, keys without the prefix.
    """
    nodes = ["0"]
    for node in range(1, NODES):
        terms = []
        for source, term in enumerate(nodes):
            operation = values[edge_key(source, node)]
            if operation == "none" or term == "#":
                terms.append("#")
            elif operation == "skip_connect":
                terms.append(term)
            else:
                terms.append(f"({term})@{operation}")
        nodes.append("+".join(sorted(terms)))
    return nodes[-1]
