"""Parallel coordinates and the survival of options."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "mlflow"))
from made_journal import header, trial

from nasforge.experiment.state import State, replay
from nasforge.views import parallel
from nasforge.views.parallel import parallel_chart
from nasforge.views.survival import survival_chart


def _state(trials: int) -> State:
    return replay([header(), *(event for number in range(trials) for event in trial(number))])


def _link(number: int) -> str:
    return f"/made/trial/{number}"


def test_each_trial_is_a_line_over_decisions_and_metrics() -> None:
    drawing = parallel_chart(_state(8), _link, "val/accuracy")
    assert drawing.count("data-trial=") == 8 and "are drawn" not in drawing
    axes = ("model.width", "model.block", "train.learning_rate", "cost/flops", "val/accuracy")
    assert all(f'data-key="{key}"' in drawing for key in axes)
    assert 'data-trial="7" class="q8"' in drawing and 'data-trial="0" class="q0"' in drawing


def test_lower_is_warmer_for_costs() -> None:
    drawing = parallel_chart(_state(8), _link, "cost/flops")
    assert 'data-trial="6" class="q8"' in drawing


def test_a_long_search_is_sampled_and_the_page_tells_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "MOST_LINES", 60)
    drawing = parallel_chart(_state(90), _link, "val/accuracy")
    assert drawing.count("data-trial=") == 60 and "60 of 90 trials are drawn: the best 50" in drawing
    assert all(f'data-trial="{number}"' in drawing for number in (89, 40, 0))


def test_two_trials_are_needed() -> None:
    assert "Fewer than two" in parallel_chart(_state(1), _link, "val/accuracy")


def test_a_range_survives_in_parts() -> None:
    drawing = survival_chart(_state(40), "train.learning_rate")
    assert "0.1778 to 0.4217" in drawing and "residual" in survival_chart(_state(8), "model.block")
