"""Whole searches that MLflow watches: where their runs go, how they end, and that no password stays behind."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from expecting import raises
from test_mlflow import runs_of

from nasforge.api.search import search
from nasforge.core.about import About
from nasforge.core.errors import SearchError, StopNow
from nasforge.core.tracking_uri import VARIABLE
from nasforge.core.trial import Charge, Measure, Result
from nasforge.testing.toys import Planted, toy_config


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


class Breaking:
    """Asks twice, then raises."""

    def __init__(self, spec: Any) -> None:
        self.space = spec.space

    def ask(self, number: int) -> Measure:
        if number == 2:
            raise RuntimeError("this strategy is broken")
        return Measure(self.space.default_point())

    def recall(self, number: int, proposal: Any) -> None: ...
    def tell(self, number: int, result: Any) -> None: ...
    def withdraw(self, number: int) -> None: ...


class OddNames:
    """Reports metrics under names that MLflow refuses."""

    about = About()

    def __call__(self, proposal: Any, report: Any) -> Result:
        metrics: Mapping[str, float] = {"val/accuracy": 0.5, "val/top-5/": 1.0, "n" * 400: 1.0, "": 2.0}
        report(1, metrics)
        return Result("finished", metrics, steps_done=1, charged=Charge(1.0, 1.0))


def test_a_strategy_that_raises_leaves_a_failed_run(runs_dir: Path) -> None:
    config = toy_config(
        runs_dir, tracking_uri=f"sqlite:///{runs_dir}/mlflow.db", strategy=f"{__name__}:Breaking", epochs=1, ladder=None
    )
    messages: list[str] = []
    with raises(SearchError, "failed", "strategy", "RuntimeError: this strategy is broken"):
        search(config, made_evaluator=Planted(epochs=1), say=messages.append)
    parents, children = runs_of(runs_dir)
    assert [run.info.status for run in parents] == ["FAILED"]
    assert [run.info.status for run in children.values()] == ["FINISHED", "FINISHED"]
    assert messages == []


def test_a_search_that_ends_for_want_of_networks_leaves_a_failed_run(runs_dir: Path) -> None:
    config = toy_config(runs_dir, tracking_uri=f"sqlite:///{runs_dir}/mlflow.db")
    with pytest.raises(SearchError):
        search(config, made_evaluator=Planted(epochs=3, fail=tuple(range(12))), say=lambda text: None)
    assert [run.info.status for run in runs_of(runs_dir)[0]] == ["FAILED"]


class Interrupted(Planted):
    """Sends Ctrl-C to its process in trial 3."""

    def __call__(self, proposal: Any, report: Any) -> Result:
        if report.number == 3:
            signal.raise_signal(signal.SIGINT)
        return super().__call__(proposal, report)


def test_a_search_that_one_ctrl_c_has_stopped_leaves_a_killed_run(runs_dir: Path) -> None:
    config = toy_config(runs_dir, tracking_uri=f"sqlite:///{runs_dir}/mlflow.db")
    with pytest.raises(StopNow, match="stopped at 4 of 12 trials"):
        search(config, made_evaluator=Interrupted(epochs=3), say=lambda text: None)
    parents, children = runs_of(runs_dir)
    assert [run.info.status for run in parents] == ["KILLED"] and len(children) == 4
    search(config, made_evaluator=Planted(epochs=3), say=lambda text: None)
    parents, children = runs_of(runs_dir)
    assert [run.info.status for run in parents] == ["FINISHED"] and len(children) == 12


def test_names_that_mlflow_refuses_do_not_keep_a_trial_open(runs_dir: Path) -> None:
    config = toy_config(runs_dir, tracking_uri=f"sqlite:///{runs_dir}/mlflow.db", budget={"trials": 1})
    messages: list[str] = []
    search(config, made_evaluator=OddNames(), say=messages.append)
    parents, children = runs_of(runs_dir)
    assert [run.info.status for run in (*parents, *children.values())] == ["FINISHED", "FINISHED"]
    assert children["0"].data.metrics["val/accuracy"] == 0.5
    assert children["0"].data.metrics["val/top-5"] == 1.0
    assert len(messages) == 1 and "val/top-5/" in messages[0]


def test_the_variable_says_where_runs_go(runs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "100% mine #1?"
    runs_dir.rename(place)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "sqlite:///100%25 mine #1%3F/mlflow.db")
    config = toy_config(tmp_path / "runs", tracking_uri=None, budget={"trials": 1})
    messages: list[str] = []
    search(config, made_evaluator=Planted(epochs=3), say=messages.append)
    assert messages == []
    assert not (tmp_path / "runs" / "mlflow.db").exists()
    assert len(runs_of(place, config.tracking_uri)[1]) == 1


def test_no_password_stays_behind(tmp_path: Path) -> None:
    config = toy_config(tmp_path, tracking_uri="http://me:s3cr3t@127.0.0.1:9", budget={"trials": 1})
    messages: list[str] = []
    search(config, made_evaluator=Planted(epochs=3), say=messages.append)
    assert "s3cr3t" not in "".join(messages)
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"s3cr3t" not in file.read_bytes(), file
