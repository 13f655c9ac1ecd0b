"""Figures of searches made by hand: what is drawn, where the axes end, and what the lines are called."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "mlflow"))
from made_journal import SPACE, header, point, trial

from nasforge.core.events import Asked, Checked, Event, Interrupted, Reported, Started, Told
from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.core.trial import Charge, Measure, Result
from nasforge.experiment.journal import Journal
from nasforge.experiment.state import State, replay
from nasforge.views import charts
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
