"""Networks drawn side by side: a bar for every part, as wide as its channels, from the image down to the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nasforge.views.families import COLOURS, family_of
from nasforge.views.picture import graph_objects
from nasforge.views.rounding import percent

if TYPE_CHECKING:
    from nasforge.views.parts import Part

_ROW, _COLUMN = 26, 340  # pixels
_GAP = 0.35  # of a row


def network_figure(networks: Mapping[str, Sequence[Part]]) -> Any:
    """One column a network: title, params and FLOPs above, then its parts; a gap where the image gets smaller.

    Widths grow with the number of channels, colours name the kind of layer, and the share of the network's FLOPs stands
    beside each part. What multiplies nothing and leaves the image's size alone (`identity`, activations) is left out.

    Args:
        networks: title -> parts, see `parts_of`.

    Raises:
        ExportError: Plotly is not installed.
    """
    go = graph_objects()
    drawn = {title: shown_parts(parts) for title, parts in networks.items()}
    widest = max((part.output[0] for parts in drawn.values() for part in parts), default=1)
    figure, depth = go.Figure(), 0.0
    for column, (title, parts) in enumerate(drawn.items()):
        total = sum(part.flops for part in parts)
        heading = f"<b>{title}</b><br>{sum(p.params for p in networks[title]):,} params, {total:,} FLOPs"
        figure.add_annotation(x=column, y=-0.9, text=heading, showarrow=False, yanchor="bottom", font=_text(13))
        y = 0.0
        for before, part in zip([*parts[:1], *parts], parts, strict=False):
            y += _GAP if part.output[1:] != before.output[1:] else 0.0
            share = percent(part.flops / (total or 1))
            width = 0.5 + 0.42 * part.output[0] / widest
            figure.add_bar(
                orientation="h",
                x=[width],
                base=[column - width / 2],
                y=[y],
                width=0.82,
                marker={
                    "color": COLOURS.get(family_of(part.layer), COLOURS["other"]),
                    "line": {"color": "#888888", "width": 0.6},
                },
                showlegend=False,
                hovertemplate=(
                    f"{part.part}: {part.layer}<br>passes on {part.size}<br>{part.params:,} params<br>"
                    f"{part.flops:,} FLOPs ({share})<extra></extra>"
                ),
            )
            text = f"{part.title}  {part.size.replace('x', '×')}  <span style='color:#666'>{share}</span>"
            figure.add_annotation(x=column, y=y, text=text, showarrow=False, font=_text(11))
            y += 1.0
        depth = max(depth, y)
    figure.update_layout(
        template="plotly_white",
        barmode="overlay",
        width=max(480, _COLUMN * len(drawn)),
        height=int(_ROW * (depth + 3)),
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        xaxis={"visible": False, "range": [-0.5, len(drawn) - 0.5], "fixedrange": True},
        yaxis={"visible": False, "range": [depth, -3.0], "fixedrange": True},
    )
    return figure


def _text(size: int) -> dict[str, Any]:
    return {"size": size, "color": "#222222"}  # set here, because the theme of a page would make it pale


def shown_parts(parts: Sequence[Part]) -> list[Part]:
    """Return the parts that a drawing shows: those that compute, and those that change the image's size."""
    shown: list[Part] = []
    for part in parts:
        resizes = len(part.output) == 3 and bool(shown) and shown[-1].output[1:] != part.output[1:]
        if part.flops or resizes:
            shown.append(part)
    return shown
