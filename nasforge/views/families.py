"""Families of layers and operations. A family has the same colour in every drawing."""

from __future__ import annotations

import re

COLOURS = {
    "plain": "#9BD0F0",
    "residual": "#8FD9BF",
    "inverted": "#F5C77E",
    "inception": "#E8B4CF",
    "separable": "#F3EE9A",
    "cell": "#C9B6EE",
    "attention": "#F0A98A",
    "pool": "#C9B79C",
    "skip": "#D9DDE3",
    "head": "#C4CCD8",
    "other": "#DDDDDD",
}
"""Family -> colour, light enough for black text (after Okabe & Ito). `svg.css` has the same ones."""

_WORDS = (
    ("none", r"^none$|^zero"),
    ("inception", r"inception"),
    ("inverted", r"inverted|mbconv|mobile|^mb"),
    ("separable", r"separable|^sep_|^dil_|depthwise"),
    ("residual", r"residual|bottleneck|preactivation|resnext|resnet|basicblock"),
    ("cell", r"cell"),
    ("attention", r"attention|transformer|squeeze|^vit|encoder"),
    ("pool", r"pool|factorizedreduction|reduction"),
    ("head", r"linear|classifier|head|flatten"),
    ("skip", r"identity|skip|dropout"),
    ("plain", r"conv|pair|networkinnetwork|network_in_network|^plain|^nor_"),
)


def family_of(name: str) -> str:
    """Return the family of a layer's class or of an option: `ResidualBlock` -> `residual`; `other` if unknown.

    The operation that passes nothing on (`none`) has the family `none`.
    """
    lower = name.lower()
    return next((family for family, pattern in _WORDS if re.search(pattern, lower)), "other")
