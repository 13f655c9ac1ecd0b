"""Every page on a phone: it scrolls down and never sideways, in light and dark."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason='needs FastAPI: pip install "nasforge[dashboard]"')
from chromium import Page, chromium
from made_journal import header, mixed, trial, write
from test_accessibility import address  # noqa: F401  (a fixture)
from test_app import _campaign

import nasforge
from nasforge.api.compare.campaign import read_search
from nasforge.views.comparison import compare_groups
from nasforge.views.comparison_page import write_page
from nasforge.views.groups import groups_of
from nasforge.views.svg import Bar, bars

PHONE = 390
LONG = "a_long_name_of_a_search_that_nobody_breaks_into_lines"
WIDTHS = "JSON.stringify([document.documentElement.scrollWidth, document.documentElement.clientWidth])"
CUT = """[...document.querySelectorAll("figure.bars")].filter((e) => e.scrollWidth > e.clientWidth + 1).length"""


def with_every_kind(runs_dir: Path) -> None:
    """Add a running search, a campaign, a fit, and experiments that have nothing to show, some with long names."""
    write(runs_dir / LONG, [header(LONG, data={"source": f"/data/{LONG}/{LONG}"}), *mixed()[1:], *trial(8, "running")])
    _campaign(runs_dir / "camp")
    write(runs_dir / "young", [header("young")])
    (runs_dir / "broken").mkdir()
    (runs_dir / "broken" / "journal.jsonl").write_text("no journal\n")
    fit = runs_dir / "photos"
    write(fit / "search", [header("search"), *trial(0)])
    rows = [
        {
            **{"name": f"{name} {LONG}", "kind": kind, "params": 1e6, "flops": 2e9, "seconds": 1.0},
            **{split: {"accuracy": value} for split in ("val", "test")},
            "test_ci95": {"accuracy": [value - 0.1, value + 0.1]},
        }
        for name, kind, value in (("network", "search", 0.75), ("SVM", "sklearn", 0.5))
    ]
    classes = [f"class {number} with a long name" for number in range(12)]
    content = {"rows": rows, "winner": rows[0]["name"], "classes": classes, "split": {"test": 4}}
    lines = [
        {"kind": "begun", "schema": 1, "inputs": {"source": f"/data/{LONG}"}, "at": 1.0, "used": 0.0},
        {"kind": "finished", "content": content, "at": 4.0, "used": 3.0},
    ]
    (fit / "fit.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def written_pages(runs_dir: Path) -> list[str]:
    """Write a report and a comparison; returns their addresses."""
    pages = [nasforge.report(runs_dir / name, out=runs_dir / f"{name}.html") for name in ("made", LONG)]
    searches = [read_search(path) for path in sorted((runs_dir / "camp").iterdir())]
    write_page(compare_groups("camp", groups_of(searches)), runs_dir / "camp.html", {})
    return [page.as_uri() for page in (*pages, runs_dir / "camp.html")]


def widths_of(browser: Page) -> tuple[int, int]:
    """Return the width of the page and of its window, once all is drawn."""
    browser.wait_for("document.readyState == 'complete' && !!document.querySelector('h1')")
    browser.wait_for("!document.querySelector('[data-load]') && !document.body.innerText.includes('Drawing …')")
    page, window = json.loads(browser.evaluate(WIDTHS))
    return page, window


@pytest.mark.browser
def test_no_page_scrolls_sideways_on_a_phone(address: str, made: Path) -> None:  # noqa: F811
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs Debian's chromium: apt-get install chromium")
    with_every_kind(made.parent)
    pages = [f"{address}/{page}" for page in ("", "nothing", "young/search", "broken", "photos", "photos/search")]
    views = ("", "/search", "/trials", "/trial/7", "/trial/3", "/importance", "/how", "/compare?trials=0,6,7")
    pages += [f"{address}/{name}{view}" for name in ("made", LONG) for view in views]
    pages += [f"{address}/camp{view}" for view in ("", "?axis=worker_seconds", "?lines=searches")]
    pages += [f"{address}/-/compare?searches=made,{LONG}", *written_pages(made.parent)]
    wide = []
    with chromium(program, "about:blank", PHONE, 844) as browser:
        for mode in ("light", "dark"):
            browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": mode}])
            for page in pages:
                browser.call("Page.navigate", url=page)
                width, window = widths_of(browser)
                assert window <= PHONE
                if width > window:
                    wide.append(f"{page.removeprefix(address)} ({mode}): {width} > {window}")
                if browser.evaluate(CUT):
                    wide.append(f"{page.removeprefix(address)} ({mode}): bars are cut")
    assert not wide, "\n".join(wide)


def test_bars_have_a_drawing_for_a_phone() -> None:
    row = Bar("a reference of the winner with a long name", 0.9, "90 %", low=0.8, high=0.95)
    broad, narrow = bars("accuracy", [row, row], low=0.5).split("<svg ")[1:]
    assert 'class="broad"' in broad and 'viewBox="0 0 640 ' in broad
    assert 'class="narrow"' in narrow and 'viewBox="0 0 340 ' in narrow
    for drawing in (broad, narrow):
        assert drawing.count(row.name) == 2 and drawing.count("90 %") == 2 and drawing.count("<circle") == 2
