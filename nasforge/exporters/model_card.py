"""The model card: what a shipped network is, how it came about, how to load it, and what it cannot do.

Structure after "Model Cards for Model Reporting", Mitchell et al. 2018, https://arxiv.org/abs/1810.03993.
"""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from nasforge.core.layout import DESCRIPTION, WEIGHTS
from nasforge.data.input_rule import CENTRE_CROP
from nasforge.exporters.network_folder import Calibration, Description, Network, in_one_line
from nasforge.exporters.verify import Agreement

_MARK = "found by NASForge and trained on"
"""Words by which cards are known that have no signature."""
_SIGNATURE = re.compile(r"<!-- nasforge export wrote (?P<names>.*); sha256 of this card: (?P<digest>\w+) -->\n\Z")
_UNSIGNED = ("model.onnx", "model.pt2", WEIGHTS, DESCRIPTION)
"""Files next to a card that has no signature."""

_BESIDE = {
    "labels.txt": "the classes, one a line, in the order of the outputs",
    "predict.py": "names the class of image files: `python predict.py photo.jpg folder/`; it needs onnxruntime, numpy "
    "and Pillow alone",
    "SHA256SUMS": "checksums: `sha256sum --check SHA256SUMS`",
}
"""Descriptions of the files next to the network."""


def model_card(
    network: Network,
    verified: Mapping[str, Agreement],
    files: Mapping[str, str],
    shipped: Sequence[str],
    snippets: Mapping[str, str],
) -> str:
    """Markdown about a network and the files that it was exported to.

    Args:
        network: a loaded network.
        verified: format -> how well the export agreed.
        files: format -> file name, relative to the card.
        shipped: names of all files next to the card.
        snippets: format -> Python code that loads its file.
    """
    about = network.description
    channels, height, width = about.shape
    trained = dict(about.trained)
    data = dict(trained.pop("data", None) or {})
    recipe = dict(trained.pop("recipe", None) or {})
    params = sum(parameter.numel() for parameter in network.parameters())
    parts = [
        f"# Network {about.architecture.arch_id} of the search space `{about.space.name}`",
        f"An image classifier, {_MARK} `{data.get('source', 'unknown data')}`: images of "
        f"{channels} x {height} x {width} to {len(about.class_names)} classes, {params:,} parameters.",
        "## Input and output",
        f"- input: floats in 0..1, N x {channels} x {height} x {width}, any N; normalisation is inside the network\n"
        f"- output: logits, N x {len(about.class_names)}\n- classes, in this order: {_names(about.class_names)}\n"
        f"- {_input(about)}" + (f"\n- {_calibrated(about.calibration)}" if about.calibration else ""),
        "## How well, at what cost",
        _table(("metric", "value"), {key: _number(key, value) for key, value in sorted(about.metrics.items())})
        if about.metrics
        else "Nothing was recorded.",
        _measured(about.metrics),
        "## Architecture",
        f"Builder `{about.space.builder}`"
        + (f", arguments `{dict(about.space.arguments)}`" if about.space.arguments else "")
        + ".",
        _table(("decision", "value"), about.architecture.values),
        "## Training",
        _table(("setting", "value"), {**trained, **{f"recipe: {key}": value for key, value in sorted(recipe.items())}}),
        "## Data",
        _table(("setting", "value"), {k: v for k, v in data.items() if v is not None}),
        "## Files, and how they were verified",
        _table(
            ("format", "file", "largest difference of an output", "accuracy here", "accuracy of the trained network"),
            {
                name: (
                    f"`{files[name]}`",
                    f"{agreement.difference:.2g} (outputs up to {agreement.largest:.3g})",
                    f"{agreement.accuracy_exported:.4f}",
                    f"{agreement.accuracy:.4f}",
                )
                for name, agreement in verified.items()
            },
        ),
        f"Each file was loaded again and compared on {max(a.images for a in verified.values())} validation images. "
        + (
            "The network was trained on them too: these accuracies prove the export, they say nothing of its quality."
            if network.saw_validation
            else "Those images guided the search: these accuracies prove the export and flatter the network."
        ),
    ]
    described = {name: text for name, text in _BESIDE.items() if name in shipped}
    parts.append("\n".join(f"- `{name}`: {text}" for name, text in described.items()))
    for name, code in snippets.items():
        parts += [f"### Load the {name} file", f"```python\n{code}\n```"]
    parts += [
        "## Limits",
        "- It gives every image one of these classes, whatever it shows.\n"
        "- The metrics hold for images like those above. Measure again on others.\n"
        "- Validation metrics guided the search and are optimistic. Test metrics, if there are any, were measured "
        "once.\n- Nothing was measured about fairness, or about robustness to noise and attacks.",
        "## Made with",
        _table(("package", "version"), {**_versions(), "python": platform.python_version()}),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _input(about: Description) -> str:
    """Return a sentence on how files are read."""
    rule = about.rule
    colours = "grey" if rule.channels == 1 else "red, green and blue"
    size = "cut to the largest square in the centre, then resized" if rule.resize == CENTRE_CROP else "resized"
    text = f"image files: turned upright as EXIF says, over the colour {rule.background}, {colours}, {size} (bilinear)"
    return text + (", JPEG decoded at a lower resolution where that suffices" if rule.jpeg_draft else "")


def _calibrated(calibration: Calibration) -> str:
    """Return a sentence on probabilities."""
    return (
        f"probabilities: the softmax of the logits divided by {calibration.temperature:.4g}; below "
        f"{calibration.unsure_below:.4g} an answer is unsure"
    )


def signed(card: str, names: Sequence[str]) -> str:
    """Return a card whose last line names the exported files in its folder, so that only those are ever replaced."""
    return f"{card}\n<!-- nasforge export wrote {', '.join(names)}; sha256 of this card: {_digest(card)} -->\n"


def written_files(text: str) -> list[str]:
    """Return the exported files in the folder of this card; none where the text is not a card."""
    if signature := _SIGNATURE.search(text):
        return signature["names"].split(", ")
    return list(_UNSIGNED) if _MARK in text else []


def is_unchanged(text: str) -> bool:
    """Return whether a text is a card as an export wrote it."""
    if signature := _SIGNATURE.search(text):
        return _digest(text[: signature.start() - 1]) == signature["digest"]
    return _MARK in text


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _measured(metrics: Mapping[str, float]) -> str:
    if any(key.startswith("test/") for key in metrics):
        return (
            "`test/` was measured once, on the sealed test split, after training on train and validation images "
            "together; accuracies are fractions."
        )
    return (
        "`val/` guided the search; the test split was not opened. `nasforge retrain` trains longer and measures it. "
        "Accuracies are fractions."
    )


def _names(names: tuple[str, ...]) -> str:
    shown = ", ".join(f"`{in_one_line(name)}`" for name in names[:100])
    return shown + (f" and {len(names) - 100} more (network.json has them all)" if len(names) > 100 else "")


def _number(key: str, value: float) -> str:
    if key in ("cost/params", "cost/flops"):
        return f"{value:,.0f}" + (" multiply-adds" if key == "cost/flops" else "")
    return f"{value:.6g}"


def _table(head: tuple[str, ...], rows: Mapping[str, Any]) -> str:
    if not rows:
        return ""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for key, value in rows.items():
        cells = value if isinstance(value, tuple) else (value,)
        lines.append("| " + " | ".join([f"`{key}`", *(str(cell).replace("|", "\\|") for cell in cells)]) + " |")
    return "\n".join(lines)


def _versions() -> dict[str, str]:
    versions = {}
    for package in ("nasforge", "torch", "onnx", "onnxruntime", "safetensors"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
