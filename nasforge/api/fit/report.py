"""`report.html` of a fit: one page without scripts and without files of others."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from nasforge.api.fit.judging import Confusion, confusions
from nasforge.api.fit.log import shown
from nasforge.api.fit.rows import METRICS, more_photos, warnings_on
from nasforge.exporters.network_folder import load
from nasforge.tasks.task import Answers
from nasforge.views.parts import Part as Layer
from nasforge.views.parts import parts_of
from nasforge.views.picture import write

if TYPE_CHECKING:
    from nasforge.api.fit.work import Work

_MOST_IN_MATRIX = 30
"""Classes of a confusion matrix, at most; for more, the page has the `_TOP` accuracy and `_MOST_PAIRS` pairs."""
_TOP, _MOST_PAIRS = 5, 20
_YES_NO = {True: "yes", False: "no"}
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2rem auto;padding:0 1rem;color:#1c2330;background:#fff}
h1{margin-bottom:.2rem}h2{margin-top:2.2rem;border-bottom:1px solid #d8dee9;padding-bottom:.2rem}
table{border-collapse:collapse;margin:.6rem 0}
td,th{padding:.25rem .5rem;text-align:right;font-size:14px;border-bottom:1px solid #e6eaf0}
.text td{text-align:left}
td:first-child,th:first-child{text-align:left;white-space:nowrap}tr.won{background:#e8f3e8;font-weight:600}.wide{overflow-x:auto}
.lead{font-size:1.15rem}.warn{background:#fff4e0;border-left:4px solid #e0962a;padding:.5rem .8rem;margin:.6rem 0}
.layers{display:flex;flex-wrap:wrap;gap:3px;align-items:flex-end;margin:.5rem 0}
.layer{background:#dbe7f6;border:1px solid #9db7d8;
border-radius:4px;padding:.2rem .45rem;font-size:12px;line-height:1.25}
.images{display:flex;flex-wrap:wrap;gap:10px}.images figure{margin:0;width:120px;font-size:12px}
.images img{width:96px;height:96px;image-rendering:pixelated;border:1px solid #ccc}
pre{background:#f4f6f9;padding:.6rem .8rem;overflow-x:auto}.dim{color:#667}
"""


def write_report(path: Path, work: Work, content: Mapping[str, Any], answers: Path) -> None:
    """Write the page.

    Args:
        path: of the file.
        work: the fit.
        content: of the result, as `--json` has it.
        answers: the winner's answers on the test split.

    Raises:
        ExportError: the file cannot be written.
    """
    parts = [
        f"<h1>{html.escape(work.folder.name)}</h1>",
        *_lead(work, content),
        "<h2>What was compared</h2>",
        _rows(content),
        f'<p class="dim">{html.escape(_protocol(work, content))}</p>',
        *_network(work, content),
        "<h2>Where it errs on the test split</h2>",
        *_errors(work, answers),
        *_findings(work, content),
        "<h2>What was decided, and why</h2>",
        _decisions(work),
        "<h2>Use it</h2>",
        _commands(work),
    ]
    head = f'<meta charset="utf-8"><title>{html.escape(work.folder.name)}</title><style>{_STYLE}</style>'
    write(path, f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>')


def _lead(work: Work, content: Mapping[str, Any]) -> list[str]:
    row = next(row for row in content["rows"] if row["name"] == content["winner"])
    low, high = row["test_ci95"]["accuracy"]
    parts = [f'<p class="warn">{html.escape(text)}</p>' for text in warnings_on(content)]
    parts.append(
        f'<p class="lead">{html.escape(row["name"])}: {row["test"]["accuracy"]:.1%} of '
        f"{content['split']['test']} test images are right (95 % interval "
        f"{low:.1%} to {high:.1%}), {row['params'] or 0:,.0f} parameters, "
        f"{(row['flops'] or 0) / 1e6:.1f} M multiply-adds an image.</p>"
    )
    return parts


def _rows(content: Mapping[str, Any]) -> str:
    titles = [{"f1_macro": "macro F1"}.get(name, shown(name)) for name in METRICS]
    header = ["", *(f"{title} ({split})" for split in ("val", "test") for title in titles)]
    header += ["accuracy, 95 %", "params", "flops", "seconds"]
    body = []
    for row in content["rows"]:
        cells = [row["name"], *(f"{row[split][name]:.3f}" for split in ("val", "test") for name in METRICS)]
        low, high = row["test_ci95"]["accuracy"]
        cells += [f"{low:.3f} to {high:.3f}"]
        cells += ["" if row[key] is None else f"{row[key]:,.0f}" for key in ("params", "flops")]
        cells.append(f"{row['seconds']:.1f}")
        body.append(_line(cells, row["name"] == content["winner"]))
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(body)}</table></div>'


def _line(cells: Sequence[str], won: bool) -> str:
    return f"<tr{' class=won' if won else ''}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def _protocol(work: Work, content: Mapping[str, Any]) -> str:
    split = content["split"]
    where = f"on {split['folds']} folds" if split["folds"] > 1 else f"on {split['validation']} validation images"
    again = (
        " The test split was seen before, by an earlier decision of this fit." if content["test_seen_before"] else ""
    )
    return (
        f"val: {where}, by networks that had not seen the image; the winner is chosen there, among "
        f"{content['compared']} that were trained to the end, of {content['tried']} that were tried, by "
        f"{content['metric'].replace('_', ' ')}: {content['reason']}. "
        f"test: {split['test']} images, opened after the choice, once per row.{again}"
    )


def _network(work: Work, content: Mapping[str, Any]) -> list[str]:
    network = load(work.folder / "best")
    about = network.description
    layers = parts_of(about.space, about.architecture, about.shape, len(about.class_names))
    parts = ["<h2>The network</h2>", _layers(layers)]
    recipe = [
        f"{shown(key.rpartition('.')[2])} {_YES_NO[value] if isinstance(value, bool) else shown(value)}"
        for key, value in about.architecture.train.items()
    ]
    if recipe:
        parts.append(f"<p>Its recipe: {html.escape(', '.join(recipe))}.</p>")
    reference = next((r for r in content["rows"] if r["kind"] == "reference" and r["name"] != content["winner"]), None)
    if reference is not None:
        plain = parts_of(work.space, work.space.default_point(), about.shape, len(about.class_names))
        parts += [f"<p>Next to it: {html.escape(reference['name'])}</p>", _layers(plain)]
    return parts


def _layers(layers: Sequence[Layer]) -> str:
    cells = [
        f'<div class="layer"><b>{html.escape(layer.title)}</b><br>{layer.size}<br>{layer.params:,} params</div>'
        for layer in layers
        if layer.params or layer.flops
    ]
    return f'<div class="layers">{"".join(cells)}</div>'


def _errors(work: Work, answers: Path) -> list[str]:
    with np.load(answers, allow_pickle=False) as arrays:
        truth, probabilities = arrays["truth"], arrays["probabilities"]
    predicted = Answers(truth, probabilities, 0.0)
    part = work.data.open_test()  # for its pictures
    names = work.data.class_names
    parts = list[str]()
    if len(names) > _MOST_IN_MATRIX:
        ranks = (probabilities > probabilities[np.arange(len(truth)), truth][:, None]).sum(1)
        parts.append(
            f"<p>The right class is among the {_TOP} likeliest for {(ranks < _TOP).mean():.1%} of the images.</p>"
        )
        parts += _pairs(confusions(truth, probabilities, _MOST_PAIRS), names)
    else:
        matrix = np.zeros((len(names), len(names)), dtype=int)
        np.add.at(matrix, (predicted.truth, predicted.chosen), 1)
        head = "<th>is \\ taken for</th>" + "".join(f"<th>{html.escape(name)}</th>" for name in names)
        lines = "".join(
            _line([names[row], *(str(count) if count else "" for count in matrix[row])], False)
            for row in range(len(names))
        )
        parts.append(f'<div class="wide"><table><tr>{head}</tr>{lines}</table></div>')
    wrong = np.flatnonzero(predicted.chosen != predicted.truth)
    wrong = wrong[np.argsort(-predicted.probabilities[wrong].max(1), kind="stable")][:12]
    if len(wrong):
        parts.append("<p>The surest of its mistakes:</p>")
        pictures = [
            _figure(
                part.take(slice(int(i), int(i) + 1))[0].numpy(),
                f"is {names[truth[i]]}, predicted {names[predicted.chosen[i]]} ({probabilities[i].max():.0%})",
            )
            for i in wrong
        ]
        parts.append(f'<div class="images">{"".join(pictures)}</div>')
    else:
        parts.append("<p>It makes no mistake there.</p>")
    return parts


def _pairs(confused: Sequence[Confusion], names: Sequence[str]) -> list[str]:
    """Return the pairs of classes that are confused most often; in place of a matrix that nobody could read."""
    if not confused:
        return []
    return [
        "<p>Classes that it confuses most often:</p>",
        _list((names[pair.truth], names[pair.taken_for], pair.images) for pair in confused),
    ]


def _list(confused: Iterable[tuple[str, str, int]]) -> str:
    items = "".join(
        f"<li>{html.escape(label)} is taken for {html.escape(other)}: {images} images</li>"
        for label, other, images in confused
    )
    return f"<ul>{items}</ul>"


def _figure(pixels: np.ndarray, text: str) -> str:
    """Return an image C x H x W of bytes with a line below it."""
    picture = Image.fromarray(pixels[0] if len(pixels) < 3 else np.ascontiguousarray(pixels[:3].transpose(1, 2, 0)))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    data = base64.b64encode(stream.getvalue()).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt=""><figcaption>{html.escape(text)}</figcaption></figure>'
    )


def _findings(work: Work, content: Mapping[str, Any]) -> list[str]:
    parts = ["<h2>Your images</h2>"]
    for line in work.inspection_lines:
        parts.append(f"<p>{html.escape(line)}</p>")
    if sentence := more_photos(content):
        points = ", ".join(f"{p['accuracy']:.1%} from {p['images']} images" for p in content["learning_curve"])
        parts.append(f"<p>{html.escape(sentence)}. Learning curve, on images that were not trained on: {points}.</p>")
    if content["confused"]:
        parts.append("<p>Classes that are confused, on images that the network had not seen:</p>")
        parts.append(_list((c["class"], c["taken_for"], c["images"]) for c in content["confused"]))
    if content["doubtful"]:
        pictures = [
            _figure(
                np.asarray(work.pool.pixels[d["place"]]),
                f"{d['file']}: labelled {d['label']}, probably {d['likely']} ({d['probability']:.0%})",
            )
            for d in content["doubtful"][:12]
        ]
        parts.append("<p>Labels that may be wrong: the networks agree on another class.</p>")
        parts.append(f'<div class="images">{"".join(pictures)}</div>')
    return parts


def _decisions(work: Work) -> str:
    lines = [
        _line([shown(e["name"]), "" if isinstance(e["value"], Mapping) else shown(e["value"]), e["reason"]], False)
        for e in work.log.entries
        if e["kind"] == "decision"
    ]
    seconds: dict[str, float] = {}
    for entry in work.log.entries:
        if entry["kind"] == "phase":
            seconds[entry["name"]] = seconds.get(entry["name"], 0.0) + entry["seconds"]
    phases = ", ".join(f"{name} {amount:.0f} s" for name, amount in seconds.items())
    table = f'<div class="wide"><table class="text">{"".join(lines)}</table></div>'
    return f'{table}<p class="dim">Time: {html.escape(phases)}.</p>'


def _commands(work: Work) -> str:
    from nasforge.core.command_line import command_for

    text = "\n".join([command_for(work.folder, "predict", "image.jpg"), command_for(work.folder, "show")])
    return f"<pre>{html.escape(text)}</pre>"
