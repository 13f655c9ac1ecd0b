"""Figures of searches made by hand: what is drawn, where the axes end, and what the lines are called."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "mlflow"))
from made_journal import SPACE, header, point, trial, write

from nasforge.core.events import Asked, Checked, Event, Interrupted, Reported, Started, Told
from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.core.trial import Charge, Measure, Result
from nasforge.experiment.journal import Journal
from nasforge.experiment.state import State, load_state, replay
from nasforge.views import charts, tables
from nasforge.views.reader import Reader
from nasforge.views.survival import survival_chart
from nasforge.views.svg import Axis, Plot, number_text
from nasforge.views.texts import bytes_text


def link(number: int) -> str:
    return f"#trial-{number}"


def measured(number: int, **metrics: float) -> list[Event]:
    """One trial with these metrics, as `val/NAME`, after one step."""
    named = {f"val/{key}": value for key, value in metrics.items()}
    result = Result("finished", {"cost/flops": 100.0, **named}, tuple(named.values()), 1, Charge(1.0))
    events = [Asked(number, Measure(point(number))), Checked(number, {"cost/flops": 100.0}, "accepted")]
    return [*events, Started(number, 1), Reported(number, 1, 1, named, "continue"), Told(number, result)]


def drawn(svg: str) -> set[int]:
    return {int(number) for number in re.findall(r'href="#trial-(\d+)"', svg)}


def ticks(svg: str) -> list[str]:
    return re.findall(r'class="tick[^>]*>([^<]+)<', svg)


def named(svg: str) -> list[str]:
    """Return the entries of the legend."""
    return re.findall(r"<li class=[^>]*>([^<]*)<", svg)


def numbers_of(svg: str, kind: str) -> set[int]:
    """Return the trials whose points have this class."""
    return {int(number) for number in re.findall(rf'href="#trial-(\d+)" class="{kind}"', svg)}


def test_best_so_far_has_the_finished_trials_and_a_line_that_never_gets_worse(made: Path) -> None:
    figure = charts.best_so_far_chart(load_state(made), link)
    assert numbers_of(figure, "finished") == drawn(figure) == {0, 1, 2, 6, 7}
    assert named(figure) == ["finished trial", "best so far"]
    line = re.search(r'<path d="M[\d.]+ ([\d.]+)([^"]*)" class="line best"', figure)
    assert line is not None
    heights = [float(line[1]), *(float(y) for y in re.findall(r"V([\d.]+)", line[2]))]
    assert len(heights) == 5 and heights == sorted(heights, reverse=True), "each of the five is better than the last"


def test_one_trial_has_no_line_so_far() -> None:
    figure = charts.best_so_far_chart(
        replay([header(objectives=["max:val/accuracy"]), *measured(0, accuracy=0.5)]), link
    )
    assert drawn(figure) == {0} and named(figure) == ["finished trial"]


def test_the_front_is_drawn_over_a_cost_that_the_trials_have() -> None:
    result = Result("finished", {"cost/params": 7.0, "val/accuracy": 0.5}, (0.5,), 1, Charge(1.0))
    asked = [Asked(0, Measure(point(0))), Checked(0, {"cost/params": 7.0}, "accepted"), Started(0, 1)]
    begun = header(objectives=["max:val/accuracy"], constraints=[])
    assert tables.front_axes(replay([begun, *asked, Told(0, result)])) == ("cost/params", "val/accuracy")
    assert tables.front_axes(replay([begun])) == ("cost/flops", "val/accuracy")


def test_the_front_is_told_from_the_other_trials(made: Path) -> None:
    figure = charts.front_chart(load_state(made), link, "cost/flops", "val/accuracy")
    assert numbers_of(figure, "best") == {6, 7} and numbers_of(figure, "finished") == {0, 1, 2}
    assert {"Pareto front", charts.NOT_BEST} <= set(named(figure))
    assert "10k" in ticks(figure) and "20k" in ticks(figure) and "30k" in ticks(figure), "a linear axis"


def test_costs_over_a_wide_range_have_a_logarithmic_axis() -> None:
    events = [header()]
    for number, flops in enumerate((1e3, 1e4, 1e5)):
        result = Result("finished", {"cost/flops": flops, "val/accuracy": 0.5}, (0.5, -flops), 1, Charge(1.0))
        asked = [Asked(number, Measure(point(number))), Checked(number, {"cost/flops": flops}, "accepted")]
        events += [*asked, Started(number, 1), Told(number, result)]
    figure = charts.front_chart(replay(events), link, "cost/flops", "val/accuracy")
    places = sorted({float(x) for x in re.findall(r'<circle cx="([\d.]+)"', figure)})
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.2)


def test_learning_curves_name_the_best_trial_and_how_the_others_ended(made: Path) -> None:
    figure = charts.curves_chart(load_state(made), link, "val/accuracy")
    assert drawn(figure) == {0, 1, 2, 4, 6, 7}, "five finished and one pruned have reported"
    assert set(named(figure)) == {"best: trial 7", "next 4 best", "pruned"}
    assert '"axis middle">epoch<' in figure


def test_learning_curves_of_cross_validation_run_over_folds(made: Path) -> None:
    state = load_state(made)
    state.ladder = tuple(replace(rung, unit="folds") for rung in state.ladder)
    figure = charts.curves_chart(state, link, "val/accuracy")
    assert '"axis middle">fold<' in figure and "over folds of" in figure and "epoch" not in figure


def test_without_trials_the_figures_say_so(tmp_path: Path) -> None:
    state = load_state(write(tmp_path / "made", [header()]))
    for figure in (
        charts.best_so_far_chart(state, link),
        charts.front_chart(state, link, "cost/flops", "val/accuracy"),
        charts.curves_chart(state, link, "val/accuracy"),
    ):
        assert figure.startswith('<p class="missing">No trial has ')


def test_the_documents_code_writes_a_drawing(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = Path(__file__).parents[2] / "docs/howto/dashboard.md"
    (code,) = re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL)
    monkeypatch.chdir(made.parents[1])
    exec(code.replace("NAME", "made"), {})
    assert "Pareto front" in Path("front.svg").read_text()


def test_figures_load_neither_plotly_nor_torch() -> None:
    script = (
        "import sys, nasforge.views.charts, nasforge.views.network_svg, nasforge.views.tables\n"
        "print([m for m in ('plotly', 'fastapi', 'torch') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"


@pytest.fixture
def outlier() -> State:
    """Thirty trials that are about equal, of which one is far better than all others."""
    events = [header(objectives=["max:val/accuracy"])]
    for number in range(30):
        events += measured(number, accuracy=0.9 if number == 8 else 0.1 + number / 10_000)
    return replay(events)


def test_the_best_stays_on_the_axes_however_far_it_is_from_the_others(outlier: State) -> None:
    front = charts.front_chart(outlier, link, "cost/flops", "val/accuracy")
    assert 8 in drawn(front) and len(drawn(front)) == 30
    assert "0.8" in ticks(charts.slice_chart(outlier, link, "model.width", "val/accuracy"))
    assert "0.8" in ticks(charts.curves_chart(outlier, link, "val/accuracy"))
    assert "0.8" not in ticks(charts.curves_chart(outlier, link, "val/loss"))


@pytest.mark.parametrize(("goals", "path"), [(["max:val/a", "max:val/b"], "VH"), (["min:val/a", "max:val/b"], "HV")])
def test_the_line_of_a_front_shows_what_was_reached(goals: list[str], path: str) -> None:
    rising = goals[0].startswith("min")
    pairs = [(0.1, 0.9), (0.5, 0.5), (0.9, 0.1)]
    events = [header(objectives=goals)]
    for number, (a, b) in enumerate(pairs):
        events += measured(number, a=a, b=1 - b if rising else b)
    state = replay(events)
    figure = charts.front_chart(state, link, "val/a", "val/b")
    line = re.search(r'<path d="M[\d. ]+((?:[HV][\d.]+)+)" class="line best"', figure)
    assert line is not None
    assert "".join(re.findall("[HV]", line[1]))[:2] == path


def test_a_front_of_three_objectives_is_not_called_by_two_of_them() -> None:
    events = [header(objectives=["max:val/a", "max:val/b", "max:val/c"])]
    for number in range(3):
        events += measured(number, a=number / 10, b=number / 10, c=1 - number / 10)
    state = replay(events)
    figure = charts.front_chart(state, link, "val/a", "val/b")
    assert len(state.front()) == 3
    assert "best in these two metrics" in figure and "Pareto front" not in figure and "dominated" not in figure


def test_an_attempt_that_was_killed_ends_when_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 0.0, 0.0, 2.0, 1000.0, 1000.0, 1004.0])
    monkeypatch.setattr("time.time", lambda: next(clock))
    metrics = {"val/accuracy": 0.5}
    told: list[Event] = [Asked(0, Measure(point(0))), Checked(0, {}, "accepted"), Started(0, 1)]
    told += [Reported(0, 1, 1, metrics, "continue"), Interrupted(0, 1, "kill"), Started(0, 2)]
    with_times = header(objectives=["max:val/accuracy"])
    journal = Journal(tmp_path / "resumed")
    for event in [
        type(with_times)(2, *list(vars(with_times).values())[1:]),
        *told,
        Reported(0, 2, 2, metrics, "continue"),
    ]:
        journal.append(event)
    journal.close()
    monkeypatch.undo()
    reader = Reader(tmp_path / "resumed")
    reader.refresh()
    figure = charts.workers_chart(reader, link)
    assert "Trials at the same time: 1" in figure
    widths = sorted(float(width) for width in re.findall(r'<rect[^>]* width="([\d.]+)"', figure))
    assert widths[0] < 0.02 * 600


def test_an_open_trial_may_run_or_not() -> None:
    state = replay([header(), *trial(0), *trial(1, "running")])
    assert charts.summary(state.trials[1]) == "trial 1, unfinished"


def test_options_with_the_same_beginning_have_lines_of_their_own() -> None:
    names = tuple(f"my_project.blocks.convolutions:{name}" for name in ("Wide", "Deep", "Thin"))
    space = SearchSpace("blocks", (Decision("model.block", Choice(names)),))
    events: list[Event] = [header(space=space.to_json())]
    for number in range(12):
        proposal = Measure(space.point({"model.block": names[number % 3]}))
        events += [Asked(number, proposal), Checked(number, {}, "rejected"), Told(number, Result("rejected", {}))]
    figure = survival_chart(replay(events), "model.block")
    assert all(f":{name}</li>" in figure for name in ("Wide", "Deep", "Thin"))


def test_ticks_differ_from_each_other() -> None:
    figure = Plot("p", Axis.of("x", [1_001_000.0, 1_004_000.0]), Axis.of("y", [0.0, 1.0])).svg()
    across = [text for text in ticks(figure) if "M" in text]
    assert len(across) == len({*across}) > 3 and "1.002M" in across


def test_a_number_that_is_rounded_up_gets_the_next_unit() -> None:
    assert [number_text(x) for x in (999_700, 999_400, 999_960_000, 1234, 40e6)] == ["1M", "999k", "1G", "1.23k", "40M"]
    assert bytes_text(999_999) == "1 MB" and SPACE.name == "made"
