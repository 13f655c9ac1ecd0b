"""Families of layers and operations. A family has the same colour in every drawing, see `svg.css`."""

from __future__ import annotations

import re

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
