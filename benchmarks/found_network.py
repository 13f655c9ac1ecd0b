"""The network that the search on Fashion-MNIST found, next to the ResNet of the same limits: the picture in the README.

    python benchmarks/found_network.py docs/images/found_network.svg

It reads `benchmarks/results/fashion_proof.json`, builds both networks on the meta device and writes an SVG.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean, stdev
from xml.sax.saxutils import escape

import torch
from fashion_proof import HERE, RESULT, large
from gpu import preact_resnet20

from nasforge.core.architecture import Architecture
from nasforge.settings.experiment import load_space
from nasforge.views.parts import Part, parts_of, parts_of_network

RUN = "large, 90 minutes, 12 epochs"
SHAPE, CLASSES = (1, 28, 28), 10
LOWEST, HIGHEST = 0.92, 0.95  # the axis of the accuracies

WIDTH, COLUMN, ROW, GAP, TOP = 900, 300, 24, 9, 64
TINTS = {"PreActivation": "#9BD0F0", "Residual": "#E8B4CF", "Pair": "#F5C77E"}
PLAIN, INK, FAINT = "#E4E4E4", "#222222", "#777777"


def text(
    x: float, y: float, words: str, size: int = 12, fill: str = INK, anchor: str = "middle", bold: bool = False
) -> str:
    """One line of text."""
    weight = ' font-weight="600"' if bold else ""
    style = f'font-size="{size}" fill="{fill}" text-anchor="{anchor}"{weight}'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def column(x: float, title: str, parts: list[Part]) -> tuple[list[str], float]:
    """The layers of one network from top to bottom, and where the column ends."""
    total = sum(part.flops for part in parts)
    params = sum(part.params for part in parts)
    lines = [text(x, 22, title, 14, bold=True)]
    lines += [text(x, 42, f"{params / 1e3:.1f}k params, {total / 1e6:.2f}M FLOPs", 12, FAINT)]
    shown = [part for part in parts if part.flops]
    widest, y = 64, float(TOP)
    for before, part in zip([shown[0], *shown], shown, strict=False):
        y += GAP if part.output[1:] != before.output[1:] else 0
        width = 160 + 110 * min(part.output[0], widest) / widest
        kind = next((tint for name, tint in TINTS.items() if part.layer.startswith(name)), PLAIN)
        lines.append(
            f'<rect x="{x - width / 2:.1f}" y="{y:.1f}" width="{width:.1f}" height="{ROW - 3}" rx="3" fill="{kind}" '
            'stroke="#999999" stroke-width="0.6"/>'
        )
        share = f"{part.flops / total:.0%}"
        lines.append(text(x, y + 15, f"{part.title}, {part.size.replace('x', '×')}, {share}", 11))
        y += ROW
    return lines, y


def bars(x: float, width: float, y: float, rows: list[tuple[str, list[float]]]) -> list[str]:
    """The mean test accuracy of each network as a bar, and its seeds as dots."""
    scale = width / (HIGHEST - LOWEST)
    lines = [text(x, y, "Test accuracy on Fashion-MNIST", 13, anchor="start", bold=True)]
    for number, (name, values) in enumerate(rows):
        top = y + 22 + 62 * number
        fill = "#5BA7D9" if number == 0 else "#BBBBBB"
        lines.append(text(x, top + 10, f"{name}: {mean(values):.4f} ± {stdev(values):.4f}", 12, anchor="start"))
        lines.append(
            f'<rect x="{x}" y="{top + 16}" width="{(mean(values) - LOWEST) * scale:.1f}" height="20" fill="{fill}"/>'
        )
        for value in values:
            lines.append(f'<circle cx="{x + (value - LOWEST) * scale:.1f}" cy="{top + 26}" r="3.5" fill="{INK}"/>')
    bottom = y + 22 + 62 * len(rows) - 14
    lines.append(f'<line x1="{x}" y1="{bottom}" x2="{x + width}" y2="{bottom}" stroke="{FAINT}"/>')
    steps = 3
    for step in range(steps + 1):
        at = LOWEST + (HIGHEST - LOWEST) * step / steps
        lines.append(text(x + width * step / steps, bottom + 16, f"{at:.2f}", 11, FAINT))
    seeds = len(rows[0][1])
    lines.append(
        text(x, bottom + 38, f"Bar: mean. Dots: the {seeds} seeds. ±: standard deviation.", 11, FAINT, "start")
    )
    lines.append(text(x, bottom + 54, f"The axis begins at {LOWEST:.2f}.", 11, FAINT, "start"))
    return lines


def main(path: Path) -> None:
    """Write the picture."""
    run = json.loads(RESULT.read_text())["runs"][RUN]
    finalist = run["finalists"][0]
    retrained, reference = finalist["retrained"], finalist["reference"]
    name, space = large(0, shape=SHAPE, classes=CLASSES)
    point = Architecture.from_json(finalist["architecture"])
    layers = parts_of(load_space(str(HERE / "fashion_proof.yaml")), point, SHAPE, CLASSES)
    with torch.device("meta"):
        network = preact_resnet20(SHAPE[0], CLASSES, space.arguments["width"])
    resnet = parts_of_network(network, SHAPE)
    for parts, stored in ((layers, retrained), (resnet, reference)):
        assert sum(part.flops for part in parts) == stored["costs"]["cost/flops"]
        assert sum(part.params for part in parts) == stored["costs"]["cost/params"]
    assert name == reference["name"]
    left, end = column(COLUMN / 2, "Found by the search", layers)
    right, lower = column(COLUMN * 1.5, "ResNet-preact-20", resnet)
    rows = [
        (name, [run["tests"][network]["test/accuracy"] for network in stored["networks"]])
        for name, stored in (("found", retrained), ("ResNet-preact-20", reference))
    ]
    height = max(end, lower) + 14
    note = "Each layer: its kind, its output, its share of the FLOPs."
    lines = [*left, *right, text(COLUMN * 2 + 10, TOP + 250, note, 11, FAINT, "start")]
    lines += bars(COLUMN * 2 + 10, 220, TOP + 26, rows)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" font-family="Helvetica, Arial, sans-serif">'
    )
    ground = f'<rect width="{WIDTH}" height="{height:.0f}" fill="#FFFFFF"/>'
    path.write_text("\n".join([head, ground, *lines, "</svg>"]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
