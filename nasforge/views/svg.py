"""Figures drawn as SVG on the server: axes, points, lines, bars. They need no script and follow the page's colours."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape, unescape
from itertools import pairwise
from pathlib import Path

from nasforge.views.rounding import significant

STYLE = Path(__file__).with_name("svg.css")
"""The style sheet of all figures, for light and dark pages."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 14, 44
_TITLE, _LARGE_DIGIT = 24, 11.5
"""Room for the title of a vertical axis, and for a digit in the size that it has on a phone."""
_TICKS = 6
_MOST_CORNERS = 600
"""Corners of a line; more of them would lie within a pixel of each other."""


def number_text(value: float, digits: int = 3) -> str:
    """Return a number in human units: `40M`, `1.2k`, `0.974`.

    Args:
        value: the number.
        digits: of a number with a unit; one without has four.
    """
    if not math.isfinite(value):
        return "–"
    rounded = float(significant(value, digits)) if abs(value) >= 1e3 else value
    for bound, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(rounded) >= bound:
            return f"{significant(rounded / bound, digits)}{unit}"
    if value and abs(value) < 1e-3:
        return f"{value:.1e}"
    return significant(value, 4)


@dataclass(frozen=True)
class Axis:
    """One axis of a plot.

    Attributes:
        title: what stands next to it.
        low: least value.
        high: greatest value.
        log: whether the scale is logarithmic; `low` is above 0 then.
        text: prints a value.
        whole: whether only whole numbers get a tick.
        marks: values of the ticks; None for round ones.
    """

    title: str
    low: float
    high: float
    log: bool = False
    text: Callable[[float], str] = number_text
    whole: bool = False
    marks: Sequence[float] | None = None

    @staticmethod
    def of(title: str, values: Iterable[float], *, log: bool = False, zero: bool = False, whole: bool = False) -> Axis:
        """An axis that holds all finite `values`, with a little room around them.

        Args:
            title: what stands next to it.
            values: what it must hold.
            log: use the logarithm, where all values are above 0.
            zero: begin at 0, where no value lies below it.
            whole: the values are whole numbers and get no room.
        """
        known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        low, high = min(known), max(known)
        if log and low > 0:
            room = (high / low) ** 0.04 if high > low else 1.5
            return Axis(title, low / room, high * room, log=True)
        if zero and low >= 0:
            low = 0.0
        room = 0.0 if whole else 0.04 * (high - low)
        if high == low:
            room = 1.0 if whole else 0.02 * abs(high) or 1.0
        return Axis(title, low if (zero and low == 0) or whole else low - room, high + room, whole=whole)

    def share(self, value: float) -> float:
        """Return the relative position of a value: 0 at `low`, 1 at `high`."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low) if value > 0 else -1.0
        return (value - self.low) / (self.high - self.low)

    def texts(self) -> list[str]:
        """Return the texts of the ticks; numbers have as many digits as tell them apart."""
        ticks = self.ticks()
        texts = [self.text(tick) for tick in ticks]
        for digits in range(4, 10):
            if self.text is not number_text or len({*texts}) == len(ticks):
                break
            texts = [number_text(tick, digits) for tick in ticks]
        return texts

    def ticks(self) -> list[float]:
        """Return a few round values, or those of `marks` that lie inside."""
        if self.marks is not None:
            return [value for value in self.marks if self.low <= value <= self.high]
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if len(powers) <= 4 else (1,)
            return [s * 10.0**p for p in powers for s in steps if self.low <= s * 10.0**p <= self.high]
        span = self.high - self.low
        raw = max(span / _TICKS, 1.0) if self.whole else span / _TICKS
        size = 10.0 ** math.floor(math.log10(raw))
        step = next(s * size for s in (1, 2, 5, 10) if s * size >= raw)
        first = math.ceil(self.low / step)
        places = [round(index * step, 12) for index in range(first, first + 2 * _TICKS + 1)]
        return [value for value in places if value <= self.high + 1e-9 * span]


@dataclass(frozen=True)
class Point:
    """One mark.

    Attributes:
        x: horizontal value.
        y: vertical value.
        title: shown while the pointer is over it; a function is called for the points that are drawn.
        href: where a click leads; empty for nowhere.
    """

    x: float
    y: float
    title: str | Callable[[], str] = ""
    href: str = ""


class Plot:
    """A plot with two axes, filled by calls of `points`, `line`, ... and turned into text by `svg`."""

    def __init__(self, label: str, x: Axis, y: Axis, width: int = 640, height: int = 330, left: int = _LEFT) -> None:
        """Make an empty plot.

        Args:
            label: one sentence for people who hear the page.
            x: horizontal axis.
            y: vertical axis.
            width: in pixels of the drawing, which scales with the page.
            height: likewise.
            left: least room for the vertical axis; more where its numbers are long.
        """
        self._label, self._x, self._y = label, x, y
        self._width, self._height = width, height
        longest = max(map(len, y.texts()), default=0)
        self._left = max(left, _TITLE + math.ceil(_LARGE_DIGIT * longest))
        self._marks: list[str] = []
        self._legend: list[tuple[str, str]] = []

    def _at(self, x: float, y: float) -> tuple[float, float]:
        across = self._left + self._x.share(x) * (self._width - self._left - _RIGHT)
        down = self._height - _BOTTOM - self._y.share(y) * (self._height - _TOP - _BOTTOM)
        return across, down

    def points(self, kind: str, points: Iterable[Point], *, radius: float = 4, name: str = "", thin: int = 0) -> int:
        """Draw marks of one kind; returns how many were left out.

        Args:
            kind: class of the style sheet: `finished`, `pruned`, `best`...
            points: what to draw; a point without finite values is left out and not counted.
            radius: in pixels.
            name: in the legend; empty for none.
            thin: leave out marks that lie on others of the same kind, until at most so many are left; 0 for all.
        """
        known = [point for point in points if math.isfinite(point.x) and math.isfinite(point.y)]
        known = [p for p in known if -0.01 <= self._x.share(p.x) <= 1.01 and -0.01 <= self._y.share(p.y) <= 1.01]
        drawn = self._thinned(known, thin) if thin and len(known) > thin else known
        for point in drawn:
            x, y = self._at(point.x, point.y)
            text = point.title if isinstance(point.title, str) else point.title()
            title = f"<title>{escape(text)}</title>" if text else ""
            mark = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}">{title}</circle>'
            self._marks.append(
                f'<a href="{escape(point.href)}" class="{kind}"{_tab_stop(kind)}>{mark}</a>'
                if point.href
                else f'<g class="{kind}">{mark}</g>'
            )
        if name and drawn:
            self._legend.append((kind, name))
        return len(known) - len(drawn)

    def _thinned(self, points: Sequence[Point], most: int) -> list[Point]:
        places = [self._at(point.x, point.y) for point in points]
        cell = 3.0
        while True:
            cells: dict[tuple[int, int], Point] = {}
            for point, (x, y) in zip(points, places, strict=True):
                cells.setdefault((int(x / cell), int(y / cell)), point)
            if len(cells) <= most:
                return list(cells.values())
            cell *= max(1.2, math.sqrt(len(cells) / most))

    def line(
        self,
        kind: str,
        values: Sequence[tuple[float, float]],
        *,
        step: str = "",
        name: str = "",
        title: str = "",
        href: str = "",
    ) -> None:
        """Draw a line through `values`; with `step` as steps, which change `after` or `before` they go across."""
        places = [self._at(x, min(max(y, self._y.low), self._y.high)) for x, y in values if math.isfinite(x + y)]
        if not places:
            return
        path = f"M{places[0][0]:.1f} {places[0][1]:.1f}"
        for (_, before), (x, y) in pairwise(places) if step else ():
            if step == "before":
                path += f"V{y:.1f}H{x:.1f}"
            elif y != before:
                path += f"H{x:.1f}V{y:.1f}"
        if step:
            path += f"H{places[-1][0]:.1f}"
        else:
            every = math.ceil(len(places) / _MOST_CORNERS)
            path += "".join(f"L{x:.1f} {y:.1f}" for x, y in [*places[every:-1:every], *places[-1:]])
        inner = f"<title>{escape(title)}</title>" if title else ""
        drawn = f'<path d="{path}" class="line {kind}">{inner}</path>'
        self._marks.append(f'<a href="{escape(href)}"{_tab_stop(kind)}>{drawn}</a>' if href else drawn)
        if name:
            self._legend.append((kind, name))

    def band(
        self,
        kind: str,
        low: Sequence[tuple[float, float]],
        high: Sequence[tuple[float, float]],
        name: str = "",
        title: str = "",
    ) -> None:
        """Fill the space between two lines, as far as it lies inside."""
        places = [self._at(x, min(max(y, self._y.low), self._y.high)) for x, y in [*low, *reversed(high)]]
        if not places:
            return
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        inner = f"<title>{escape(title)}</title>" if title else ""
        self._marks.append(f'<polygon points="{text}" class="band {kind}">{inner}</polygon>')
        if name:
            self._legend.append((kind, name))

    def span(self, kind: str, begin: float, end: float, row: float, title: str, href: str = "") -> None:
        """Draw a bar from `begin` to `end` in a row of height 1."""
        left, top = self._at(begin, row + 0.42)
        right, bottom = self._at(end, row - 0.42)
        inner = f"<title>{escape(title)}</title>"
        bar = (
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(1.0, right - left):.1f}" '
            f'height="{max(1.0, bottom - top):.1f}" class="bar {kind}">{inner}</rect>'
        )
        self._marks.append(f'<a href="{escape(href)}"{_tab_stop(kind)}>{bar}</a>' if href else bar)

    def limit(self, text: str, *, x: float | None = None, y: float | None = None) -> None:
        """Draw a dashed line across the plot, where it lies inside."""
        share = self._x.share(x) if x is not None else self._y.share(y or 0.0)
        if not 0 <= share <= 1:
            return
        across, down = self._at(self._x.low if x is None else x, self._y.low if y is None else y)
        if x is not None:
            path, place = f"M{across:.1f} {_TOP}V{self._height - _BOTTOM}", f'x="{across + 4:.1f}" y="{_TOP + 10}"'
        else:
            path, place = f"M{self._left} {down:.1f}H{self._width - _RIGHT}", f'x="{self._left + 4}" y="{down - 4:.1f}"'
        self._marks.append(f'<path d="{path}" class="limit"/><text {place} class="note">{escape(text)}</text>')

    def svg(self) -> str:
        """Return the whole drawing, with its legend below."""
        width, height = self._width, self._height
        parts = [
            f'<figure class="plot"><svg viewBox="0 0 {width} {height}" role="{_role(self._marks)}" '
            f'aria-label="{escape(self._label)}" preserveAspectRatio="xMidYMid meet">'
        ]
        bottom, right = height - _BOTTOM, width - _RIGHT
        for tick, text in zip(self._x.ticks(), self._x.texts(), strict=True):
            x, _ = self._at(tick, self._y.low)
            parts.append(f'<path d="M{x:.1f} {_TOP}V{bottom}" class="grid"/>')
            parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" class="tick middle">{escape(text)}</text>')
        for tick, text in zip(self._y.ticks(), self._y.texts(), strict=True):
            _, y = self._at(self._x.low, tick)
            parts.append(f'<path d="M{self._left} {y:.1f}H{right}" class="grid"/>')
            parts.append(f'<text x="{self._left - 6}" y="{y + 4:.1f}" class="tick end">{escape(text)}</text>')
        middle, half = (self._left + right) / 2, (_TOP + bottom) / 2
        parts.append(f'<text x="{middle:.0f}" y="{height - 6}" class="axis middle">{escape(self._x.title)}</text>')
        parts.append(
            f'<text x="13" y="{half:.0f}" transform="rotate(-90 13 {half:.0f})" class="axis middle">'
            f"{escape(self._y.title)}</text>"
        )
        parts += [*self._marks, "</svg>"]
        if self._legend:
            named = dict.fromkeys(self._legend)
            items = "".join(f'<li class="{kind}">{escape(name)}</li>' for kind, name in named)
            parts.append(f'<figcaption><ul class="legend">{items}</ul></figcaption>')
        return "".join([*parts, "</figure>"])


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart.

    Attributes:
        name: on the left.
        value: its length.
        text: at its end.
        kind: class of the style sheet.
        low: lower end of an interval; None without one.
        high: upper end.
    """

    name: str
    value: float
    text: str
    kind: str = "finished"
    low: float | None = None
    high: float | None = None


def bars(label: str, rows: Sequence[Bar], *, low: float = 0.0, high: float | None = None, width: int = 640) -> str:
    """Horizontal bars, one a row, each with its name and its value; marks instead where `low` is above 0.

    A narrow page shows a second drawing, with each name above its bar.

    Args:
        label: one sentence for people who hear the page.
        rows: from the top.
        low: value at the left end.
        high: value at the right end; the greatest one where left out.
        width: of the drawing.
    """
    longest = max((len(row.name) for row in rows), default=0)
    top = high if high is not None else max([row.value for row in rows] + [row.high or 0.0 for row in rows])
    beside = _Bars(low, top, width, left=min(300, 16 + 7 * longest), right=150, step=26)
    above = _Bars(low, top, _NARROW, left=6, right=70, step=42, name_above=True)
    drawings = (
        f'<svg viewBox="0 0 {place.width} {place.step * len(rows) + 8}" role="img" class="{kind}" '
        f'aria-label="{escape(label)}">{"".join(place.row(index, row) for index, row in enumerate(rows))}</svg>'
        for kind, place in (("broad", beside), ("narrow", above))
    )
    return f'<figure class="plot bars">{"".join(drawings)}</figure>'


_NARROW = 340
"""Width of a drawing for phones, whose letters are then as large as the page's."""


@dataclass(frozen=True)
class _Bars:
    """Places of bars, in units of the drawing.

    Attributes:
        low: value at the left end.
        high: value at the right end.
        width: of the drawing.
        left: where bars begin.
        right: room for the values behind them.
        step: height of a row.
        name_above: whether a name is above its bar; else it is on its left.
    """

    low: float
    high: float
    width: int
    left: int
    right: int
    step: int
    name_above: bool = False

    def row(self, index: int, row: Bar) -> str:
        """Draw one bar with its name and value."""
        scale = (self.width - self.left - self.right) / ((self.high - self.low) or 1.0)
        y = 4 + index * self.step
        if self.name_above:
            parts = [f'<text x="{self.left}" y="{y + 12}" class="tick">{escape(cut(row.name, 48))}</text>']
            y += 15
        else:
            parts = [f'<text x="{self.left - 8}" y="{y + 16}" class="tick end">{escape(cut(row.name, 42))}</text>']
        length = max(0.0, (row.value - self.low) * scale) if math.isfinite(row.value) else 0.0
        end = self.left + length
        if self.low:  # a bar's length would mislead where it does not begin at 0
            mark = f'<circle cx="{end:.1f}" cy="{y + 12}" r="6"/>'
            rail = f'<path d="M{self.left} {y + 12}H{self.width - self.right}" class="grid"/>'
            parts.append(f'{rail}<g class="{row.kind}">{mark}</g>')
            end += 6
        else:
            shape = f'x="{self.left}" y="{y + 3}" width="{max(1.0, length):.1f}" height="18"'
            parts.append(f'<rect {shape} class="bar {row.kind}"/>')
        if row.low is not None and row.high is not None:
            a, b = (self.left + (value - self.low) * scale for value in (row.low, row.high))
            path = f"M{a:.1f} {y + 12}H{b:.1f}M{a:.1f} {y + 8}V{y + 16}M{b:.1f} {y + 8}V{y + 16}"
            parts.append(f'<path d="{path}" class="interval"/>')
            end = max(end, b)
        parts.append(f'<text x="{end + 6:.1f}" y="{y + 16}" class="tick">{escape(row.text)}</text>')
        return "".join(parts)


def _role(marks: Iterable[str]) -> str:
    """Return the role of a drawing: links in an image would be hidden from people who hear the page."""
    return "group" if any(mark.startswith("<a ") for mark in marks) else "img"


def _tab_stop(kind: str) -> str:
    """Keep all marks but the best from being stops of the tabulator: a figure has hundreds, and tables name them."""
    return "" if kind.split()[0] == "best" else ' tabindex="-1"'


def standalone(figure: str) -> str:
    """Return the drawing of a figure as an SVG file; empty where the figure has no drawing.

    The file has its colours, its legend and a white ground of its own, so that it looks the same in a browser, in an
    editor and in another page. It uses no variables of CSS, which few programs but browsers know.
    """
    start, end = figure.find("<svg "), figure.rfind("</svg>")
    width, height = size_of(figure)
    if start < 0 or end < start or not width:
        return ""
    legend, depth = _legend_marks(re.findall(r'<li class="([^"]*)">(.*?)</li>', figure[end:]), width, height)
    opening, _, marks = figure[start + len("<svg ") : end].partition(">")
    kept = re.sub(r'(viewBox|width|height|role|preserveAspectRatio)="[^"]*" ?', "", opening).strip()
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="plot network" viewBox="0 0 {width} {depth}" width="{width}" '
        f'height="{depth}" role="img" font-family="system-ui, sans-serif" font-size="12" {kept}>'
        f'<style>{_literal_style()}</style><rect width="{width}" height="{depth}" fill="#ffffff"/>'
        f"{marks}{legend}</svg>\n"
    )


def size_of(figure: str) -> tuple[int, int]:
    """Return the width and the height of a figure's drawing in pixels; zeros where it has no drawing."""
    size = re.search(r'viewBox="0 0 (\d+) (\d+)"', figure)
    return (int(size[1]), int(size[2])) if size else (0, 0)


def _legend_marks(items: Sequence[tuple[str, str]], width: int, top: int) -> tuple[str, int]:
    """Draw a legend below a drawing; returns the marks and the height of both.

    Args:
        items: class and name (escaped) of each entry.
        width: of the drawing.
        top: height of the drawing.
    """
    parts, x, y = [], 16.0, top + 18
    for kind, name in items:
        length = 28 + 6.6 * len(unescape(name))
        if x + length > width and x > 16:
            x, y = 16.0, y + 18
        colour = _colour_of(kind)
        opacity = "0.35" if "faint" in kind.split() else "1"
        style = f"fill:{colour};fill-opacity:{opacity};stroke:none"
        parts.append(f'<circle cx="{x + 5:.1f}" cy="{y - 4}" r="5" style="{style}"/>')
        parts.append(f'<text x="{x + 14:.1f}" y="{y}">{name}</text>')
        x += length
    return "".join(parts), y + 10 if parts else top


@cache
def _palette() -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables of the light page, and the colour of each class that has one, from the style sheet."""
    text = STYLE.read_text(encoding="utf-8")
    light = dict(re.findall(r"(--[\w-]+):\s*([^;]+);", text[: text.index("@media")]))
    classes = re.findall(r"\.([\w-]+) \{ --[cf]: ([^;]+); \}", text)
    return light, {name: _resolved(value, light) for name, value in classes}


def _resolved(text: str, variables: Mapping[str, str]) -> str:
    return re.sub(r"var\((--[\w-]+)\)", lambda match: variables.get(match[1], match[0]), text)


def _colour_of(kind: str) -> str:
    """Return the colour of a mark with these classes."""
    _, classes = _palette()
    return next((classes[name] for name in kind.split() if name in classes), "#566072")


@cache
def _literal_style() -> str:
    """Return the rules of drawings for light pages, with colours in place of variables."""
    light, classes = _palette()
    rules = []
    for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", STYLE.read_text(encoding="utf-8")):
        if not all(part.strip().startswith((".plot ", ".network ")) for part in selector.split(",")) or ":" in selector:
            continue
        declared = [part.strip() for part in _resolved(body, light).split(";") if part.strip()]
        fixed = [part for part in declared if "var(" not in part]
        if fixed:
            rules.append(f"{selector.strip()}{{{';'.join(fixed)}}}")
    for name, colour in classes.items():
        if name.startswith("f-"):
            rules.append(f".layer.{name}{{fill:{colour}}}.op.{name}{{stroke:{colour}}}")
        else:
            rules.append(
                f".{name} circle{{fill:{colour};stroke:{colour}}}.line.{name}{{stroke:{colour}}}"
                f".bar.{name},.band.{name}{{fill:{colour}}}"
            )
    return "".join(rules)


def short(text: str, length: int) -> str:
    """Return the beginning and the end of a long text: names of options often differ at their end."""
    if len(text) <= length or length < 6:
        return cut(text, max(3, length))
    end = max(3, length // 2 - 1)
    return f"{text[: length - end - 1]}…{text[-end:]}"


def cut(text: str, length: int) -> str:
    """Return the beginning of a long text."""
    return text if len(text) <= length else text[: length - 1] + "…"


def missing(text: str) -> str:
    """Return the place of a figure for which there is nothing to draw yet."""
    return f'<p class="missing">{escape(text)}</p>'
