"""Names, labels, headers, contrast and focus of every page, as a browser sees them in light and dark."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason='needs FastAPI: pip install "nasforge[dashboard]"')
from chromium import Page, chromium
from made_journal import point, write

import nasforge
from nasforge.core.events import TestOpened
from nasforge.core.trust import view
from nasforge.dashboards.launch import listen
from nasforge.experiment.state import load_state
from nasforge.views.answers import answers_file
from nasforge.views.page import PAGE_STYLE
from nasforge.views.svg import STYLE

AA = 4.5
"""Least contrast of a text (WCAG 2.2, 1.4.3): https://www.w3.org/TR/WCAG22/#contrast-minimum"""
AA_GRAPHICS = 3.0
"""Least contrast of a mark, a border of an input, and the focus (1.4.11)."""
TEXTS = ("ink", "dim", "link", "finished", "pruned", "failed", "rejected", "running", "best")

CHECKS = """(() => {
  const wrong = [], say = (what, e) => wrong.push(what + ": " + e.outerHTML.slice(0, 160));
  const named = (e) => (e.getAttribute("aria-label") || e.textContent || e.getAttribute("title") || "").trim();
  if (!document.documentElement.lang) wrong.push("the page has no language");
  if (!document.title.trim()) wrong.push("the page has no title");
  if (document.querySelectorAll("h1").length !== 1) wrong.push("the page has not one h1");
  let level = 1;
  for (const e of document.querySelectorAll("h1, h2, h3, h4")) {
    if (+e.tagName[1] > level + 1) say("a level of headings is left out", e);
    level = +e.tagName[1];
  }
  for (const e of document.querySelectorAll("img")) if (!e.getAttribute("alt")) say("an image without a text", e);
  for (const e of document.querySelectorAll("svg")) {
    if (!e.getAttribute("aria-label")) say("a drawing without a name", e);
    if (e.getAttribute("role") === "img" && e.querySelector("a")) say("links in an image", e);
    if (!["img", "group"].includes(e.getAttribute("role"))) say("a drawing without a role", e);
  }
  for (const e of document.querySelectorAll("table")) {
    if (!e.querySelector("th")) say("a table without headers", e);
    for (const th of e.querySelectorAll("th")) {
      if (!th.getAttribute("scope")) say("a header of a table without a scope", th);
      if (!named(th)) say("an empty header of a table", th);
    }
  }
  for (const e of document.querySelectorAll("input:not([type=hidden]), select, textarea, progress")) {
    if (!e.getAttribute("aria-label") && !(e.labels && e.labels.length)) say("an input without a label", e);
  }
  for (const e of document.querySelectorAll("a[href], button, summary")) if (!named(e)) say("a link without a name", e);
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of new Set(ids)) if (ids.indexOf(id) !== ids.lastIndexOf(id)) wrong.push("two elements with id " + id);
  if (document.documentElement.scrollWidth > innerWidth) {
    const inside = (e) => e && (getComputedStyle(e).overflowX !== "visible" || inside(e.parentElement));
    const wide = [...document.querySelectorAll("main *")].filter((e) => e.getBoundingClientRect().right > innerWidth);
    say("wider than the window", wide.find((e) => !inside(e.parentElement)) || document.body);
  }
  return JSON.stringify(wrong);
})()"""
FOCUS = """(() => {
  const e = document.activeElement, style = getComputedStyle(e);
  const shows = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  return JSON.stringify([e.tagName + " " + (e.textContent || e.name || "").trim().slice(0, 40), shows]);
})()"""
CONTRAST = """(() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = (c) => { const f = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * f(c[0]) + 0.7152 * f(c[1]) + 0.0722 * f(c[2]); };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor, parts = parse(colour);
      if (!colour.startsWith("rgb") || (parts[3] > 0 && parts[3] < 0.99)) return null;  // mixed: seen in the picture
      if (parts.length < 4 || parts[3] >= 0.99) return parts;
    }
    return [255, 255, 255];
  };
  const wrong = [];
  for (const e of document.querySelectorAll("body *:not(svg *):not(script):not(style)")) {
    const text = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!text || !e.getClientRects().length) continue;
    const front = parse(getComputedStyle(e).color), back = ground(e);
    if (!back || front.length < 3) continue;
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) wrong.push(e.textContent.trim().slice(0, 60) + " " + front + " on " + back);
  }
  return JSON.stringify(wrong);
})()"""


def variables(*, dark: bool) -> dict[str, str]:
    """The colours of the style sheet, by name."""
    text = STYLE.read_text(encoding="utf-8")
    light, _, rest = text.partition("@media (prefers-color-scheme: dark)")
    faults = dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})", light))
    return faults | (dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})", rest.partition("}\n}")[0])) if dark else {})


def contrast(a: str, b: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_texts_have_contrast_on_every_ground(dark: bool) -> None:
    colours = variables(dark=dark)
    assert contrast("#000000", "#ffffff") == 21 and colours.keys() >= {*TEXTS, "ground", "panel"}
    for ground in ("ground", "panel"):
        low = {name: round(contrast(colours[name], colours[ground]), 2) for name in TEXTS}
        assert min(low.values()) >= AA, (ground, low)
    series = re.findall(r"\.s\d \{ --c: (#[0-9a-f]{6}); \}", STYLE.read_text(encoding="utf-8"))
    assert min(contrast(colour, colours["ground"]) for colour in series) >= AA_GRAPHICS, "lines of a figure"
    assert contrast(colours["dim"], colours["ground"]) >= AA_GRAPHICS, "borders of inputs, and axes"


def test_letters_on_blocks_have_contrast() -> None:
    text = STYLE.read_text(encoding="utf-8")
    families = re.findall(r"\.f-[\w-]+ \{ --f: (#[0-9a-f]{6}); \}", text)
    letters = re.search(r"text\.on \{ fill: (#[0-9a-f]{6})", text)
    assert letters and len(families) > 8
    assert min(contrast(letters[1], family) for family in families) >= AA


@pytest.mark.parametrize("file", [STYLE, PAGE_STYLE])
def test_no_rule_takes_the_focus_away(file: Path) -> None:
    assert not re.search(r"outline:\s*(none|0)", file.read_text(encoding="utf-8"))


def with_a_result(folder: Path) -> None:
    """Give the made search retrained networks, answers and explanations, so that its pages have everything."""
    best = point(7)
    name = best.short_id
    tests = {f"{name}-seed{n}-e9": 0.9 + 0.01 * n for n in range(2)} | {f"ResNet-8-for-{name}-seed0-e9": 0.8}
    write(folder, [TestOpened(key, {"test/accuracy": value}) for key, value in tests.items()])
    (folder / "best").mkdir()
    about = {"trained": {"finalist": f"{name}-seed0-e9"}, "class_names": ["cat", "dog"]}
    (folder / "best" / "network.json").write_text(json.dumps(about))
    file = answers_file(folder, f"{name}-seed0-e9")
    file.parent.mkdir()
    np.savez(file, truth=np.array([0, 1, 0]), logits=np.array([[0.0, 3.0], [5.0, 0.0], [2.0, 1.0]]))
    place = folder / "explained" / "photo-1"
    place.mkdir(parents=True)
    (place / "input.png").write_bytes(b"")
    shown = {"image": "cat.jpg", "answer": "cat", "probability": 0.9, "explained": "cat", "truth": "cat"}
    shown |= {"input": "input.png", "heat": "input.png", "stages": []}
    (place / "explanation.json").write_text(json.dumps(shown))


@pytest.fixture
def address(made: Path) -> Iterator[str]:
    """A server over the made search, in this process."""
    import uvicorn

    from nasforge.dashboards.app import create_app

    with_a_result(made)
    listening = listen(0)
    stopping = threading.Event()
    app = create_app(made.parent, reading_s=60, stopping=stopping.is_set)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    stopping.set()
    server.should_exit = True
    thread.join(120)
    assert not thread.is_alive()


def problems_of(browser: Page, where: str) -> list[str]:
    browser.wait_for("document.readyState == 'complete' && !!document.querySelector('h1')")
    browser.wait_for("!document.querySelector('[data-load]') && !document.body.innerText.includes('Drawing …')")
    faults: list[str] = []
    for mode in ("light", "dark"):
        features: list[dict[str, Any]] = [{"name": "prefers-color-scheme", "value": mode}]
        browser.call("Emulation.setEmulatedMedia", features=features)
        faults += [f"{where} ({mode}): {text}" for text in json.loads(browser.evaluate(CONTRAST))]
    return faults + [f"{where}: {text}" for text in json.loads(browser.evaluate(CHECKS))]


def stops_of(browser: Page, most: int = 25) -> list[str]:
    """Press the tabulator; returns the stops whose focus cannot be seen."""
    unseen = []
    for _ in range(most):
        for kind in ("keyDown", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        what, shows = json.loads(browser.evaluate(FOCUS))
        if not shows and not what.startswith("BODY"):
            unseen.append(what)
    return unseen


@pytest.mark.browser
@pytest.mark.timeout(900)
def test_every_page_can_be_used_without_seeing_it_or_without_a_mouse(address: str, made: Path) -> None:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs Debian's chromium: apt-get install chromium")
    pages = [f"{address}/", f"{address}/nothing"]
    views = ("", "/search", "/trials", "/trial/7", "/trial/3", "/importance", "/how", "/compare?trials=6,7")
    pages += [f"{address}/made{view}" for view in views]
    with view():
        assert load_state(made).tests
    pages.append(nasforge.report(made, out=made.parent / "report.html").as_uri())
    faults: list[str] = []
    for width in (1280, 400):
        with chromium(program, "about:blank", width, 900) as browser:
            for page in pages:
                browser.call("Page.navigate", url=page)
                browser.wait_for(f"location.href == {page!r}")
                faults += problems_of(browser, f"{width} px {page.removeprefix(address)}")
                if width == 1280:
                    faults += [f"{page}: no visible focus on {stop}" for stop in stops_of(browser)]
    assert not faults, "\n".join(faults)
