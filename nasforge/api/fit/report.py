"""`report.html` of a fit: one page in the style of all reports."""

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
from nasforge.api.fit.log import shown, winner_of
from nasforge.api.fit.rows import METRICS
from nasforge.core.errors import ConfigError
from nasforge.core.layout import BEST
from nasforge.core.metrics import short_name
from nasforge.exporters.network_folder import load
from nasforge.views import page
from nasforge.views.answers import MOST_IN_MATRIX, confusion_of, read_answers, surest_mistakes
from nasforge.views.fit_remarks import more_photos, sentence_on_test, warnings_on
from nasforge.views.network_svg import network_svg
from nasforge.views.parts import parts_of
from nasforge.views.picture import write
from nasforge.views.rounding import fixed, percent
from nasforge.views.texts import metric_text

if TYPE_CHECKING:
    from nasforge.api.fit.work import Work

_TOP, _MOST_PAIRS = 5, 20
"""With more classes than `MOST_IN_MATRIX`, the k of the top-k accuracy, and the number of confused pairs."""
_EDGE = 96
"""Longer edge of a picture on the page, in pixels."""
_YES_NO = {True: "yes", False: "no"}


def write_report(path: Path, work: Work, content: Mapping[str, Any], answers: Path) -> None:
    """Write the page.

    Args:
        path: of the file.
        work: the fit.
        content: of the result, as `--json` has it.
        answers: the winner's answers on the test split.

    Raises:
        ExportError: the file cannot be written.
        ConfigError: the answers cannot be read.
    """
    parts = [
        f"<h1>{html.escape(work.folder.name)}</h1>",
        *_lead(work, content),
        page.section("What was compared", _rows(content), page.paragraph(_protocol(content), "dim")),
        *_network(work, content),
        page.section("Where it errs on the test split", *_errors(work, answers)),
        page.section("Your images", *_findings(work, content)),
        page.section("What was decided, and why", _decisions(work)),
        page.section("Use it", _commands(work)),
    ]
    write(path, page.document(work.folder.name, parts))


def _lead(work: Work, content: Mapping[str, Any]) -> list[str]:
    row = winner_of(content)
    low, high = row["test_ci95"]["accuracy"]
    parts = [f'<p class="problem">{html.escape(text)}</p>' for text in warnings_on(content)]
    parts.append(
        f'<p class="lead">{html.escape(row["name"])}: {percent(row["test"]["accuracy"], 1)} of '
        f"{content['split']['test']} test images are right (95 % interval "
        f"{percent(low, 1)} to {percent(high, 1)}), {metric_text(row['params'] or 0.0, 'cost/params')} parameters, "
        f"{metric_text(row['flops'] or 0.0, 'cost/flops')} multiply-adds an image.</p>"
    )
    return parts


def _rows(content: Mapping[str, Any]) -> str:
    titles = [short_name(name) for name in METRICS]
    header = ["network", *(f"{title} ({split})" for split in ("val", "test") for title in titles)]
    header += ["accuracy (test), 95\u00a0%", "parameters", "FLOPs", "seconds"]
    body = []
    for row in content["rows"]:
        cells = [row["name"], *(fixed(row[split][name], 4) for split in ("val", "test") for name in METRICS)]
        low, high = row["test_ci95"]["accuracy"]
        cells += [f"{fixed(low, 4)} to {fixed(high, 4)}"]
        cells += [metric_text(row[key], f"cost/{key}") for key in ("params", "flops")]
        body.append([*cells, f"{row['seconds']:.1f}"])
    won = [index for index, row in enumerate(content["rows"]) if row["name"] == content["winner"]]
    return page.table(header, body, won=won)


def _protocol(content: Mapping[str, Any]) -> str:
    split = content["split"]
    where = f"on {split['folds']} folds" if split["folds"] > 1 else f"on {split['validation']} validation images"
    return (
        f"val: {where}, by networks that had not seen the image; the winner is chosen there, among "
        f"{content['compared']} that were compared, of {content['tried']} that were tried, by "
        f"{short_name(content['metric'])}: {content['reason']}. "
        f"{sentence_on_test(content)}. Every row met it once."
    )


def _network(work: Work, content: Mapping[str, Any]) -> list[str]:
    network = load(work.folder / BEST)
    about = network.description
    classes = len(about.class_names)
    networks = {content["winner"]: parts_of(about.space, about.architecture, about.shape, classes)}
    reference = next((r for r in content["rows"] if r["kind"] == "reference" and r["name"] != content["winner"]), None)
    if reference is not None:
        networks[reference["name"]] = parts_of(work.space, work.space.default_point(), about.shape, classes)
    recipe = [
        f"{shown(key.rpartition('.')[2])} {_YES_NO[value] if isinstance(value, bool) else shown(value)}"
        for key, value in about.architecture.train.items()
    ]
    text = page.paragraph(f"Its recipe: {', '.join(recipe)}.") if recipe else ""
    return [page.section("The network, layer by layer", network_svg(networks), text)]


def _errors(work: Work, answers: Path) -> list[str]:
    stored = read_answers(answers, work.folder)
    if stored is None:
        raise ConfigError(
            f"{answers}: this file is damaged, and the page shows what is in it. Restore it", kind="unreadable"
        )
    truth, probabilities = stored.truth, stored.probabilities
    part = work.data.open_test()  # for its pictures
    names = work.data.class_names
    parts = list[str]()
    if len(names) > MOST_IN_MATRIX:
        ranks = (probabilities > probabilities[np.arange(len(truth)), truth][:, None]).sum(1)
        share = percent((ranks < _TOP).mean(), 1)
        parts.append(f"<p>The right class is among the {_TOP} most likely for {share} of the images.</p>")
        parts += _pairs(confusions(truth, probabilities, _MOST_PAIRS), names)
    else:
        parts.append(page.confusion(confusion_of(stored, names)))

    def picture_of(place: int) -> str:
        return _address(part.take(slice(place, place + 1))[0].numpy())

    mistakes = surest_mistakes(stored, names, picture_of=picture_of)
    return [*parts, page.mistakes(mistakes) or page.paragraph("It makes no mistake there.")]


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
    text = html.escape(text)
    return f'<li><img src="{_address(pixels)}" alt="{text}"><span>{text}</span></li>'


def _address(pixels: np.ndarray) -> str:
    """Return the `data:` address of an image C x H x W of bytes."""
    picture = Image.fromarray(pixels[0] if len(pixels) < 3 else np.ascontiguousarray(pixels[:3].transpose(1, 2, 0)))
    if (times := _EDGE // max(picture.size)) > 1:  # a browser would blur so few pixels
        picture = picture.resize((times * picture.width, times * picture.height), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _findings(work: Work, content: Mapping[str, Any]) -> list[str]:
    parts = list[str]()
    for line in work.inspection_lines:
        parts.append(f"<p>{html.escape(line)}</p>")
    if sentence := more_photos(content):
        points = ", ".join(f"{percent(p['accuracy'], 1)} from {p['images']} images" for p in content["learning_curve"])
        parts.append(f"<p>{html.escape(sentence)}. Learning curve, on images that were not trained on: {points}.</p>")
    if content["confused"]:
        parts.append("<p>Classes that are confused, on images that the network had not seen:</p>")
        parts.append(_list((c["class"], c["taken_for"], c["images"]) for c in content["confused"]))
    if content["doubtful"]:
        pictures = [
            _figure(
                np.asarray(work.pool.pixels[d["place"]]),
                f"{d['file']}: labelled {d['label']}, probably {d['likely']} ({percent(d['probability'])})",
            )
            for d in content["doubtful"][:12]
        ]
        parts.append("<p>Labels that may be wrong: the networks agree on another class.</p>")
        parts.append(f'<ul class="pictures mistakes">{"".join(pictures)}</ul>')
    return parts


def _decisions(work: Work) -> str:
    rows = [
        [shown(e["name"]), "" if isinstance(e["value"], Mapping) else shown(e["value"]), e["reason"]]
        for e in work.log.entries
        if e["kind"] == "decision"
    ]
    seconds: dict[str, float] = {}
    for entry in work.log.entries:
        if entry["kind"] == "phase":
            seconds[entry["name"]] = seconds.get(entry["name"], 0.0) + entry["seconds"]
    names = {"yardsticks": "baselines"}
    phases = ", ".join(f"{names.get(name, name)} {amount:.0f} s" for name, amount in seconds.items())
    return page.table(("decision", "value", "reason"), rows, texts=("value", "reason")) + page.paragraph(
        f"Time: {phases}.", "dim"
    )


def _commands(work: Work) -> str:
    from nasforge.core.command_line import command_for

    text = "\n".join([command_for(work.folder, "predict", "image.jpg"), command_for(work.folder, "show")])
    return f"<pre>{html.escape(text)}</pre>"
