"""The optimum that a comparison counts trials to: of the objective, within the limits, at the ladder's last rung."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from expecting import raises
from made_tables import flat, space, table, written

from nasforge.api.compare import compare
from nasforge.core.errors import ConfigError
from nasforge.core.goals import Constraint
from nasforge.core.space import Choice, Decision
from nasforge.views.comparison_records import Comparison

ROWS = "width,rate,accuracy,loss,size\n8,0.1,0.5,0.4,4\n16,0.1,0.75,0.2,9\n8,1,0.25,0.1,5\n16,1.0,0.6,0.3,\n"


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasforge.views.comparison_page.write_picture", lambda comparison, path: None)


def compared(folder: Path, **settings: Any) -> Comparison:
    options = {"path": written(folder, ROWS), "signal": "accuracy", "metrics": {"val/loss": "loss"}}
    evaluator = {"name": "lookup_table", **options, "costs": {"params": "size"}}
    return compare(
        strategies="random", space=flat(), evaluator=evaluator, epochs=1, budget={"trials": 4}, seeds=2,
        tracking_uri="none", runs_dir=folder / "runs", name="camp", **settings,
    )  # fmt: skip


def test_the_optimum_of_another_metric_is_none(tmp_path: Path) -> None:
    comparison = compared(tmp_path, objectives=["val/loss"])
    assert comparison.optimum is None and comparison.to_optimum == []
    assert any("val/accuracy" in note and "val/loss" in note for note in comparison.notes)
    other = tmp_path / "other"
    other.mkdir()
    assert compared(other, objectives=["val/accuracy"]).optimum == 0.75


def test_the_optimum_keeps_the_constraints(tmp_path: Path) -> None:
    comparison = compared(tmp_path, constraints=["params<=5"])
    assert comparison.optimum == 0.5
    assert [one.found for one in comparison.to_optimum] == [1.0]


def test_targets_leave_no_optimum(tmp_path: Path) -> None:
    """A better network that misses a target may be the best so far of a search that has met none yet."""
    comparison = compared(tmp_path, targets=["params<=5"])
    assert comparison.optimum is None and any("soft targets" in note for note in comparison.notes)


def test_best_within_limits(tmp_path: Path) -> None:
    evaluator = table(flat(), written(tmp_path, ROWS), costs={"params": "size", "flops": "size"})
    assert evaluator.optimum() == 0.75
    assert evaluator.optimum([Constraint("cost/params", 8)]) == 0.5, "a cost that is not known keeps no limit"
    assert evaluator.optimum([Constraint("cost/params", 9), Constraint("cost/flops", 4)]) == 0.5
    assert evaluator.optimum([Constraint("cost/params", 1)]) is None
    with raises(ConfigError, "missing", "cost/latency_ms"):
        evaluator.optimum([Constraint("cost/latency_ms", 1)])


def cell(values: dict[str, Any]) -> str:
    return f"[{values['op']}]"


def test_rows_outside_the_space_are_not_its_optimum(tmp_path: Path) -> None:
    path = written(tmp_path, "cell,accuracy\n[conv],0.5\n[pool],0.25\n[wide],0.75\n")
    for options, best in ((("conv", "pool"), 0.5), (("conv", "wide"), 0.75), (("pool", "unknown"), 0.25)):
        where = space(Decision("model.op", Choice(options)), text=f"{__name__}:cell")
        assert table(where, path, key="cell").optimum() == best


def test_the_optimum_is_of_the_last_rung_and_of_what_gets_there(tmp_path: Path) -> None:
    path = written(tmp_path, "width,rate,e1,e3,e9\n8,0.1,1,2,9\n16,0.1,2,3,4\n8,1,,7,20\n")
    assert table(flat(), path, (1, 3), signal="e{epochs}").optimum() == 3
    assert table(flat(), path, (1, 3, 9), signal="e{epochs}").optimum() == 9


@pytest.mark.parametrize(
    ("settings", "best", "worst"),
    [({}, 0.75, 0.25), ({"constraints": ["params<=5"]}, 0.5, 0.25), ({"objectives": ["min:val/accuracy"]}, 0.25, 0.75)],
)
def test_the_normalised_regret(tmp_path: Path, settings: Any, best: float, worst: float) -> None:
    """0 where the best was found, which four trials of four points do; 1 at the table's worst."""
    comparison = compared(tmp_path, at=[1.0, 3.0], **settings)
    assert (comparison.optimum, comparison.worst) == (best, worst)
    signal = {row.at: row.values for row in comparison.rows if row.quantity == "signal"}
    regret = {row.at: row for row in comparison.rows if row.quantity == "regret"}
    for at, row in regret.items():
        assert row.values == pytest.approx([abs(best - value) / abs(best - worst) for value in signal[at]])
        assert row.summary.best == min(row.values), "less is better"
    page = (tmp_path / "runs" / "camp" / "comparison.html").read_text()
    assert "normalised regret of the best so far" in page


def test_without_a_range_there_is_no_regret(tmp_path: Path) -> None:
    assert {row.quantity for row in compared(tmp_path, constraints=["params<=4"]).rows} == {"signal"}
