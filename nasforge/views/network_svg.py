"""Networks drawn next to each other as SVG: a bar for each part, its colour by family, and cells as graphs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from math import pi, sin
from typing import TYPE_CHECKING

from nasforge.core.architecture import Value
from nasforge.views.families import family_of
from nasforge.views.rounding import percent
from nasforge.views.svg import cut, number_text

if TYPE_CHECKING:
    from nasforge.views.parts import Part

_ROW, _COLUMN, _GAP, _HEAD = 24, 330, 9, 46
_EDGE = re.compile(r"(?:(\w+)\.)?edge(\d+)_(\d+)")
_WITH_SHORTCUT = ("residual", "inverted")
_HOW_TO_READ = (
    "Each bar is a layer: its kind and kernel, its output (channels × height × width), its share of the multiply-adds. "
    "A loop marks a layer that adds its input to its output."
)


def network_svg(networks: Mapping[str, Sequence[Part]]) -> str:
    """One column a network: its params and FLOPs, then its parts from the image to the classes.

    A bar is as wide as the part's channels, and there is a gap where the image gets smaller. An arc marks a block whose
    input is added to its output. What multiplies nothing and leaves the image's size alone (`identity`, activations) is
    left out.

    Args:
        networks: title -> parts, see `parts_of`.
    """
    drawn = {title: _shown_parts(parts) for title, parts in networks.items()}
    widest = max((part.output[0] for parts in drawn.values() for part in parts), default=1)
    columns, depth, families = [], 0.0, dict[str, None]()
    for column, (title, parts) in enumerate(drawn.items()):
        middle, y = column * _COLUMN + _COLUMN / 2, float(_HEAD)
        total = sum(part.flops for part in parts)
        params = sum(part.params for part in networks[title])
        columns.append(f'<text x="{middle:.0f}" y="16" class="name">{escape(cut(title, 44))}</text>')
        costs = f"{number_text(params)} parameters, {number_text(total)} multiply-adds"
        columns.append(f'<text x="{middle:.0f}" y="33" class="dim middle">{costs}</text>')
        for before, part in zip([*parts[:1], *parts], parts, strict=False):
            y += _GAP if part.output[1:] != before.output[1:] else 0
            family = family_of(part.layer)
            families[family] = None
            width = (0.6 + 0.26 * part.output[0] / widest) * _COLUMN
            share = percent(part.flops / (total or 1))
            caption = (
                f"{part.part}: {part.layer}\npasses on {part.size}\n{part.params:,} parameters\n"
                f"{part.flops:,} multiply-adds ({share})"
            )
            text = _fitting(int(width / 6.9), part.title, part.size.replace("x", "×"), share)
            left = middle - width / 2
            if family in _WITH_SHORTCUT and part.output == before.output:
                right = left + width
                path = f"M{right:.0f} {y + 3:.0f}c16 0 16 {_ROW - 9} 0 {_ROW - 9}"
                columns.append(f'<path d="{path}" class="skip"/>')
            columns.append(
                f'<rect x="{left:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_ROW - 3}" rx="3" '
                f'class="layer f-{family}"><title>{escape(caption)}</title></rect>'
                f'<text x="{middle:.0f}" y="{y + 15:.1f}" class="on">{escape(text)}</text>'
            )
            y += _ROW
        depth = max(depth, y)
    width = _COLUMN * max(1, len(drawn))
    label = escape("Networks layer by layer: " + ", ".join(drawn))
    legend = "".join(f'<li class="f-{family}">{family}</li>' for family in families)
    return (
        f'<figure class="network plot"><svg viewBox="0 0 {width} {depth + 6:.0f}" role="img" aria-label="{label}" '
        f'width="{width}">{"".join(columns)}</svg><ul class="legend families">{legend}</ul>'
        f"<figcaption>{_HOW_TO_READ}</figcaption></figure>"
    )


def _shown_parts(parts: Sequence[Part]) -> list[Part]:
    """Return the parts that a drawing shows: those that compute, and those that change the image's size."""
    shown: list[Part] = []
    for part in parts:
        resizes = len(part.output) == 3 and bool(shown) and shown[-1].output[1:] != part.output[1:]
        if part.flops or resizes:
            shown.append(part)
    return shown


def _fitting(letters: int, title: str, size: str, share: str) -> str:
    """Return the text of a bar: without the size where all of it is too long, which the tooltip has."""
    whole = f"{title}  {size}  {share}"
    return whole if len(whole) <= letters else f"{cut(title, letters - len(share) - 2)}  {share}"


def cells_svg(values: Mapping[str, Value]) -> str:
    """Return the cells of a point as graphs, an edge for each operation; empty where its decisions are no edges.

    Args:
        values: the decisions of the network, keys without `model.`.
    """
    cells: dict[str, dict[tuple[int, int], str]] = {}
    for key, value in values.items():
        match = _EDGE.fullmatch(key)
        if match:
            source, node = int(match[2]), int(match[3])
            kept = str(values.get(f"{match[1]}.node{node}.inputs", "")) if match[1] else ""
            if not kept or str(source) in kept.split("+"):
                cells.setdefault(match[1] or "cell", {})[source, node] = str(value)
    return "".join(_cell(name, edges) for name, edges in cells.items())


def _cell(name: str, edges: Mapping[tuple[int, int], str]) -> str:
    nodes = sorted({node for edge in edges for node in edge})
    width, height = 110 * len(nodes), 190
    apart = (width - 100) / max(1, len(nodes) - 1)
    places = {node: (50 + i * apart, height / 2 + 52 * sin(pi * i / 2 + pi / 4)) for i, node in enumerate(nodes)}
    parts = []
    for (source, node), operation in edges.items():
        (x1, y1), (x2, y2) = places[source], places[node]
        bend = (node - source - 1) * 26 * (1 if (source + node) % 2 else -1)
        middle_x, middle_y = (x1 + x2) / 2, (y1 + y2) / 2 + bend
        family = family_of(operation)
        parts.append(
            f'<path d="M{x1:.0f} {y1:.0f}Q{middle_x:.0f} {middle_y:.0f} {x2:.0f} {y2:.0f}" class="op f-{family}">'
            f"<title>{source} to {node}: {escape(operation)}</title></path>"
        )
        if family != "none":
            at = ((x1 + x2) / 4 + middle_x / 2, (y1 + y2) / 4 + middle_y / 2)
            parts.append(f'<text x="{at[0]:.0f}" y="{at[1]:.0f}" class="op-name">{escape(cut(operation, 16))}</text>')
    for node, (x, y) in places.items():
        parts.append(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="11" class="node"/>')
        parts.append(f'<text x="{x:.0f}" y="{y + 4:.0f}" class="op-name">{node}</text>')
    caption = "; ".join(f"{source} to {node} {operation}" for (source, node), operation in edges.items())
    label = escape(f"{name}: {caption}")
    drawing = (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    )
    return f'<figure class="network plot cell">{drawing}<figcaption>{escape(name)}</figcaption></figure>'
