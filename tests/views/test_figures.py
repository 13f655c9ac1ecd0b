"""Figures show the state's numbers, and say so where there are none."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("plotly", reason='needs plotly: pip install "nasforge[dashboard]"')

from made_journal import header, write

from nasforge.experiment.state import load_state
from nasforge.views import figures


def test_best_so_far(made: Path) -> None:
    points, best = figures.best_so_far_figure(load_state(made)).data
    assert list(points.x) == [0, 1, 2, 6, 7]
    assert list(best.y) == [0.8, 0.81, 0.82, 0.86, 0.87]


def test_pareto(made: Path) -> None:
    figure = figures.pareto_figure(load_state(made))
    dominated, front = figure.data
    assert sorted(front.customdata) == [6, 7]
    assert sorted(dominated.customdata) == [0, 1, 2]
    assert sorted(front.x) == [8000.0, 16000.0]
    assert figure.layout.xaxis.type is None, "costs from 8k to 32k stand on a linear axis"


def test_learning_curves(made: Path) -> None:
    figure = figures.learning_curves_figure(load_state(made))
    assert len(figure.data) == 6, "five finished and one pruned have reported"
    best = figure.data[-1]
    assert best.name == "best: trial 7"
    assert list(best.y) == [0.67, 0.77, 0.87]
    assert figure.layout.xaxis.title.text == "epoch"
    assert {line.name for line in figure.data if line.showlegend} == {"finished", "pruned", "best: trial 7"}


def test_learning_curves_of_cross_validation_run_over_folds(made: Path) -> None:
    state = load_state(made)
    state.ladder = tuple(replace(rung, unit="folds") for rung in state.ladder)
    figure = figures.learning_curves_figure(state)
    assert figure.layout.xaxis.title.text == "fold"
    assert "fold %{x}" in figure.data[0].hovertemplate


def test_failures(made: Path) -> None:
    (bars,) = figures.failures_figure(load_state(made)).data
    assert (list(bars.y), list(bars.x)) == (["diverged"], [1])


@pytest.mark.parametrize("draw", ["best_so_far", "pareto", "learning_curves", "failures"])
def test_without_trials_they_say_so(draw: str, tmp_path: Path) -> None:
    state = load_state(write(tmp_path / "made", [header()]))
    figure = getattr(figures, f"{draw}_figure")(state)
    assert not figure.data
    assert figure.layout.annotations[0].text.startswith("No ")


def test_the_documents_code_writes_a_page(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = Path(__file__).parents[2] / "docs/howto/dashboard.md"
    (code,) = re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code.replace("NAME", "made"), {})
    assert "Pareto front" in Path("front.html").read_text()


def test_plotly_is_loaded_by_the_figures_alone() -> None:
    script = "import sys, nasforge.views.tables; print([m for m in ('plotly', 'fastapi', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"
