"""The page, run by Streamlit's own test driver, and once in a real browser."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("streamlit", reason='needs streamlit: pip install "nasforge[dashboard]"')
sys.path.insert(0, str(Path(__file__).parent))
from chromium import chromium
from made_journal import header, trial, write
from streamlit.testing.v1 import AppTest

import nasforge
from nasforge import registry
from nasforge.core.errors import ConfigError
from nasforge.dashboards import launch


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Any:
    def open_page(runs_dir: Path) -> AppTest:
        monkeypatch.setenv(launch.RUNS_DIR, str(runs_dir))
        app = AppTest.from_file(str(launch.APP), default_timeout=30).run()
        assert not app.exception, app.exception
        return app

    return open_page


def _metrics(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def _texts(elements: Any) -> str:
    return "\n".join(str(element.value) for element in elements)


def test_registered_figures_without_a_place_share_a_tab(page: Any, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "More figures" not in [tab.label for tab in page(made.parent).tabs]
    monkeypatch.setitem(registry.BUILT_IN["figure"], "mine", "nasforge.views.figures:failures_figure")
    monkeypatch.setitem(registry.BUILT_IN["figure"], "broken", "no_such_module:figure")
    app = page(made.parent)
    assert app.tabs[-1].label == "More figures"
    assert {"Mine", "Broken"} <= {title.value for title in app.subheader}
    assert "The figure 'broken' cannot be drawn" in _texts(app.error)


def test_an_experiment_with_trials_of_every_kind(page: Any, made: Path) -> None:
    app = page(made.parent)
    assert app.header[0].value == "made"
    assert _metrics(app) == {
        "Best validation accuracy": "0.8700",
        "Finished": "5",
        "Pruned": "1",
        "Failed": "1",
        "Rejected": "1",
        "Running": "1",
    }
    frames = [frame.value for frame in app.dataframe]
    (leaderboard,) = [frame for frame in frames if "rank" in frame]
    assert list(leaderboard["number"]) == [7, 6, 2, 1, 0]
    assert list(leaderboard.columns)[5:7] == ["val/accuracy", "cost/flops"]
    (failed,) = [frame for frame in frames if "cause" in frame]
    assert list(failed["advice"]) == ["lower the learning rate"]
    (decisions,) = [frame for frame in frames if "decision" in frame]
    assert dict(zip(decisions["decision"], decisions["value"], strict=True))["model.width"] == "16"


def test_a_chosen_trial_shows_its_architecture_and_failure(page: Any, made: Path) -> None:
    app = page(made.parent)
    app.selectbox(key="trial").select(3).run()
    assert not app.exception
    assert "diverged" in _texts(app.error)
    assert "lower the learning rate" in _texts(app.error)
    (decisions,) = [frame.value for frame in app.dataframe if "decision" in frame.value]
    assert dict(zip(decisions["decision"], decisions["value"], strict=True))["model.block"] == "inverted"


def test_a_network_is_drawn_where_there_is_one(page: Any, tmp_path: Path) -> None:
    searched = {"space": "tiny", "data": {"source": "digits", "images": 200}, "epochs": 1, "budget": {"trials": 1}}
    place = {"runs_dir": str(tmp_path), "tracking_uri": "none", "name": "real", "runner": "local"}
    state = nasforge.search(**searched, **place)
    app = page(tmp_path)
    assert "Network" in [title.value for title in app.subheader] and "Not drawn" not in _texts(app.caption)
    drawn = [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]
    titles = [note["text"] for figure in drawn for note in figure["layout"].get("annotations", [])]
    assert any(f"trial 0, {state.best.architecture.arch_id}" in title for title in titles)


def test_a_network_that_cannot_be_built_is_said(page: Any, made: Path) -> None:
    assert "Not drawn: trial 7 has no network for images" in _texts(page(made.parent).caption)


def test_new_events_show_up(page: Any, made: Path) -> None:
    app = page(made.parent)
    write(made, trial(9))
    app.run()
    assert _metrics(app)["Finished"] == "6"
    assert _metrics(app)["Best validation accuracy"] == "0.8900"


def test_a_search_that_has_just_begun(page: Any, tmp_path: Path) -> None:
    write(tmp_path / "young", [header("young")])
    app = page(tmp_path)
    assert _metrics(app)["Best validation accuracy"] == "–"
    assert "No trial has finished yet" in _texts(app.info)


@pytest.mark.parametrize("exists", [True, False])
def test_an_empty_runs_folder_says_how_to_begin(page: Any, tmp_path: Path, exists: bool) -> None:
    folder = tmp_path if exists else tmp_path / "none"
    app = page(folder)
    assert app.header[0].value == "No experiment yet"
    assert "nasforge search tiny --data digits" in app.code[0].value


def test_a_broken_journal_is_said_and_the_others_stay(page: Any, made: Path) -> None:
    broken = made.parent / "broken"
    broken.mkdir()
    (broken / "journal.jsonl").write_text("no journal\n")
    app = page(made.parent)
    app.selectbox(key="experiment").select("broken").run()
    assert not app.exception
    assert "cannot be read" in _texts(app.error)
    assert "journal.jsonl:1" in _texts(app.error)
    app.selectbox(key="experiment").select("made").run()
    assert _metrics(app)["Finished"] == "5"


def test_the_server_listens_on_this_machine_only_and_sends_no_statistics() -> None:
    command = launch.command(8501, "127.0.0.1")
    assert "-P" in command  # a file in the working folder hides no module of the server's
    assert "--server.address=127.0.0.1" in command
    assert "--server.headless=true" in command
    assert "--browser.gatherUsageStats=false" in command


def test_a_taken_port_is_one_clear_error(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with pytest.raises(ConfigError, match=r"cannot listen on 127\.0\.0\.1:\d+ .*another --port"):
            launch.start(tmp_path, holder.getsockname()[1])


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "nasforge\[dashboard\]"'):
        launch.start(tmp_path)


@pytest.mark.browser
def test_in_chromium_the_page_draws_and_follows_the_journal(made: Path, tmp_path: Path) -> None:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs Debian's chromium: apt-get install chromium")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = launch.start(made.parent, port)
    try:
        end = time.monotonic() + 60
        with socket.socket() as probe:
            while probe.connect_ex(("127.0.0.1", port)) != 0:
                assert time.monotonic() < end, "the server did not start"
                time.sleep(0.2)
        with chromium(program, f"http://127.0.0.1:{port}/") as page:
            page.wait_for("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 2")
            page.wait_for("document.body.innerText.includes('0.8700')")
            write(made, trial(9))
            page.wait_for("document.body.innerText.includes('0.8900')", timeout_s=30)
            page.click("Failures", "[data-testid=stTab], button[role=tab]")
            page.wait_for("[...document.querySelectorAll('.ytick text')].some(e => e.textContent === 'diverged')")
            page.screenshot(tmp_path / "dashboard.png")
            assert (tmp_path / "dashboard.png").stat().st_size > 20_000
            assert "Traceback" not in page.text()
    finally:
        server.terminate()
        server.wait()
