"""A page as one file: it asks for nothing, and has the style of the dashboard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from nasforge.views.answers import Confusion, Mistake
from nasforge.views.plain import plain
from nasforge.views.results import kind_text
from nasforge.views.svg import STYLE
from nasforge.views.texts import metric_text, share_text

PAGE_STYLE = Path(__file__).with_name("page.css")
"""The style sheet of all pages, next to that of the figures."""
SCRIPT = Path(__file__).with_name("report.js")
"""Shows the trial behind a mark of a figure."""
MARGIN = 8
"""Pixels around the figure of a picture."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""The page can reach nothing: a browser enforces it."""


def document(title: str, parts: Sequence[str], script: str = "") -> str:
    """Return a whole page.

    Args:
        title: of the page.
        parts: HTML, one after the other; `heading` makes the first of them.
        script: JavaScript; empty for none.
    """
    style = STYLE.read_text(encoding="utf-8") + PAGE_STYLE.read_text(encoding="utf-8")
    end = f"<script>{script}</script>" if script else ""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · NASForge</title><style>{style}</style></head>"
        f'<body class="report"><main id="main">{"".join(parts)}</main>{end}</body></html>\n'
    )


def picture(figure: str) -> str:
    """Return a page with one figure on a light ground, of which a picture is taken."""
    style = STYLE.read_text(encoding="utf-8").partition("@media (prefers-color-scheme: dark)")
    rest = style[2].partition("}\n}\n")[2]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Figure</title><style>{style[0]}{rest}'
        f"body{{margin:{MARGIN}px;font:14px system-ui,sans-serif;background:#fff}}</style></head>"
        f"<body>{figure}</body></html>"
    )


def section(title: str, *parts: str) -> str:
    """Return a part of a page under a heading; empty where it has no content."""
    content = "".join(parts)
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph; empty for an empty text."""
    return f"<p{_class(kind)}>{escape(text)}</p>" if text else ""


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    texts: Sequence[str] = (),
    won: Sequence[int] = (),
    ids: Sequence[str] = (),
) -> str:
    """Return a table; its first column names the rows.

    Args:
        columns: titles.
        rows: cells, as texts.
        texts: titles of the columns that are aligned left, besides the first.
        won: indices of the rows that stand out.
        ids: an anchor for each row, or none.
    """
    head = "".join(
        f'<th scope="col"{_class("text" if column in texts or not place else "")}>{escape(column)}</th>'
        for place, column in enumerate(columns)
    )
    body = []
    for index, row in enumerate(rows):
        cells = "".join(
            f"<td{_class('text long' if column in texts else '')}>{escape(cell)}</td>"
            for column, cell in zip(columns[1:], row[1:], strict=True)
        )
        anchor = f' id="{escape(ids[index])}"' if ids else ""
        first = f'<th scope="row">{escape(row[0])}</th>'
        body.append(f"<tr{anchor}{_class('won' if index in won else '')}>{first}{cells}</tr>")
    lines = "".join(body)
    return f'<div class="wide"><table class="list"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """Return a table of names and values."""
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="text">{escape(value)}</td></tr>' for name, value in rows
    )
    return f'<div class="wide"><table class="list pairs"><tbody>{lines}</tbody></table></div>' if rows else ""


def numbers(items: Sequence[tuple[str, str]]) -> str:
    """Return a row of numbers; an item is what is counted, and the number."""
    lines = "".join(f"<li><b>{escape(value)}</b> {escape(name)}</li>" for name, value in items)
    return f'<ul class="numbers">{lines}</ul>'


def commands(rows: Sequence[tuple[str, str]]) -> str:
    """Return commands with what they do."""
    lines = "".join(f"<dt>{escape(title)}</dt><dd><pre>{escape(text)}</pre></dd>" for title, text in rows)
    return f"<dl>{lines}</dl>" if rows else ""


def confusion(matrix: Confusion, note: str = "") -> str:
    """Return the table of confusions, or for many classes the pairs that are confused most often.

    Args:
        matrix: on the test split.
        note: a sentence on whose answers these are.
    """
    parts = [f"<p>{matrix.right:,} of {matrix.images:,} images are right. {escape(note)}</p>"]
    if matrix.cells:
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in matrix.names)
        lines = "".join(
            f'<tr><th scope="row">{escape(name)}</th>'
            + "".join(f'<td class="shade{shade}">{count or ""}</td>' for count, shade in cells)
            + "</tr>"
            for name, cells in matrix.cells
        )
        parts.append(
            '<div class="wide"><table class="matrix"><thead><tr><th scope="col">is \\ taken for</th>'
            f"{head}</tr></thead><tbody>{lines}</tbody></table></div>"
        )
    items = "".join(
        f"<li>{escape(truth)} is taken for {escape(taken)}: {count:,} image{'s' * (count != 1)}</li>"
        for count, truth, taken in matrix.listed
    )
    return "".join([*parts, f"<ul>{items}</ul>" if items else ""])


def mistakes(rows: Sequence[Mistake]) -> str:
    """Return the surest mistakes, with their pictures where there are any."""
    items = []
    for one in rows:
        picture = f'<img src="{one.picture}" alt="{escape(one.image)}">' if one.picture else ""
        text = f"is {one.truth}, taken for {one.answer} ({share_text(one.probability)})"
        items.append(f"<li>{picture}<b>{escape(one.image)}</b><span>{escape(text)}</span></li>")
    if not items:
        return ""
    return f'<h3>The surest of its mistakes</h3><ul class="pictures mistakes">{"".join(items)}</ul>'


def tested(rows: Sequence[Mapping[str, Any]], measure: str) -> str:
    """Return the table of networks on the test split.

    Args:
        rows: of `results.networks_on_test`, or of a fit.
        measure: title of the column of values.
    """
    cells = [
        [
            row["name"],
            kind_text(row["kind"]),
            metric_text(row["value"]),
            "–" if row["low"] is None else f"{metric_text(row['low'])} to {metric_text(row['high'])}",
            str(row["n"] or "–"),
            metric_text(row["params"], "cost/params"),
            metric_text(row["flops"], "cost/flops"),
        ]
        for row in rows
    ]
    columns = ("network", "what it is", measure, "95 % interval", "seeds", "parameters", "FLOPs")
    return table(columns, cells, texts=("what it is",), won=[i for i, row in enumerate(rows) if row["won"]])


def data_script(name: str, content: Any) -> str:
    """Return data for a script, in an element that no browser runs."""
    text = json.dumps(plain(content), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""
