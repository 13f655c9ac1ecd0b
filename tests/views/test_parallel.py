"""Parallel coordinates and the survival of options."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "mlflow"))
from made_journal import header, trial

from nasforge.experiment.state import State, replay
from nasforge.views import parallel
from nasforge.views.charts import slice_chart
from nasforge.views.parallel import parallel_chart
from nasforge.views.survival import nothing_to_draw, survival_chart


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


@pytest.mark.parametrize(
    ("statuses", "sentence"),
    [
        ([], "No trial has model.block so far."),
        (["failed"], "model.block is residual in the only trial with this decision. It has not finished."),
        (["failed"] * 3, "model.block is residual in all 3 trials with this decision. Of these none has finished."),
        (["finished"], ""),
        (["failed"] * 4, ""),
    ],
)
def test_one_sentence_stands_for_a_decision_without_any_drawing(statuses: list[str], sentence: str) -> None:
    state = replay([header(), *(event for n, status in enumerate(statuses) for event in trial(n, status))])
    assert nothing_to_draw(state, "model.block") == sentence


def test_what_cannot_be_drawn_of_a_decision_is_said() -> None:
    assert "model.block is residual in the only trial with this decision." in survival_chart(_state(1), "model.block")
    assert "No finished trial has validation ROC AUC and model.block." in slice_chart(
        _state(1), _link, "model.block", "val/roc_auc"
    )
