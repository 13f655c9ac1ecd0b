"""Plug-ins that fail: one sentence with the place, a journal that stays whole, and a search that goes on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from expecting import raises

import nasforge
from nasforge import registry
from nasforge.api.search import search
from nasforge.core.about import About, about_of
from nasforge.core.errors import ConfigError, DataError, SearchError
from nasforge.core.protocols import Report
from nasforge.core.trial import Proposal, Result
from nasforge.data.decoded import Decoded, Source, malformed
from nasforge.data.sources import find
from nasforge.experiment.state import load_state
from nasforge.models.textbook import reference_named
from nasforge.settings.experiment import DataConfig, resolve
from nasforge.testing.toys import Planted, toy_config
from nasforge.training.scoring import score

PLUGINS = '''
from random import Random

from nasforge.core.architecture import Architecture
from nasforge.core.trial import Measure
from nasforge.models.textbook import Textbook


class Draws:
    """Draws at random; `broken` says where it fails."""

    broken = ""
    outside = {}

    def __init__(self, spec):
        self.space = spec.space

    def ask(self, number):
        if self.broken == "ask" and number == 1:
            raise SystemExit(3)
        point = self.space.sample(Random(number))
        return Measure(Architecture({**point.values, **self.outside}) if number == 1 else point)

    def recall(self, number, proposal):
        if self.broken == "recall" and number == 0:
            raise LookupError("lost")

    def tell(self, number, result):
        result.metrics["val/accuracy"] = 99.0
        if self.broken == "tell" and number == 1:
            raise KeyError("planted")

    def withdraw(self, number):
        pass


class Stops:
    """Answers what it is told to."""

    answer = False

    def __init__(self, spec):
        pass

    def prune(self, history, number, step):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


OTHER = Textbook("other", "Other", None)
'''


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "failing_plugins.py").write_text(PLUGINS)
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("failing_plugins", None)
    yield registry.get("strategy", "failing_plugins:Draws").__module__ and sys.modules["failing_plugins"]
    sys.modules.pop("failing_plugins")


def run(folder: Path, **settings: Any) -> Any:
    config = toy_config(folder, **{"strategy": "failing_plugins:Draws", "budget": {"trials": 4}, **settings})
    return search(config, made_evaluator=Planted(), say=lambda text: None)


@pytest.mark.parametrize(("where", "says"), [("ask", "SystemExit: 3"), ("tell", "KeyError: 'planted'")])
def test_a_strategy_that_fails_ends_the_search_and_not_its_journal(
    plugins: Any, tmp_path: Path, where: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins.Draws, "broken", where)
    for _ in range(2):
        with raises(SearchError, "failed", "strategy", "trial 1", says, "failing_plugins.py:", "journal is whole"):
            run(tmp_path)
    monkeypatch.setattr(plugins.Draws, "broken", "")
    assert run(tmp_path).counts()["finished"] == 4


@pytest.mark.parametrize(
    ("outside", "says"), [({"model.width": 13}, "got 13"), ({"model.kernel": 3}, "no decision 'model.kernel'")], ids=str
)
def test_a_strategy_proposes_points_of_the_space_alone(
    plugins: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outside: dict[str, int], says: str
) -> None:
    monkeypatch.setattr(plugins.Draws, "outside", outside)
    with raises(SearchError, "invalid", "strategy", "trial 1 is invalid", says):
        run(tmp_path)
    assert load_state(tmp_path / "toy").counts()["finished"] == 1


def test_a_strategy_that_cannot_recall_does_not_make_the_journal_corrupt(
    plugins: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path)
    monkeypatch.setattr(plugins.Draws, "broken", "recall")
    with raises(SearchError, "failed", "strategy", "recalled trial 0", "LookupError: lost"):
        run(tmp_path, budget={"trials": 5})


def test_a_strategy_cannot_change_what_was_measured(plugins: Any, tmp_path: Path) -> None:
    state = run(tmp_path)
    best = state.best.metrics["val/accuracy"]
    assert best < 1 and load_state(tmp_path / "toy").best.metrics["val/accuracy"] == best
    assert repr(state) == f"<State of 'toy': 4 finished, best: trial {state.best.number}>"


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [("no", "type", "'no', expected True or False"), (IndexError("far"), "failed", "IndexError: far")],
)
def test_a_pruner_that_fails_ends_the_search(
    plugins: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any, kind: str, says: str
) -> None:
    monkeypatch.setattr(plugins.Stops, "answer", answer)
    with raises(SearchError, kind, "pruner", says):
        run(tmp_path, pruner="failing_plugins:Stops")
    assert load_state(tmp_path / "toy").trials[0].kills == 0
    monkeypatch.setattr(plugins.Stops, "answer", np.bool_(True))
    assert run(tmp_path, pruner="failing_plugins:Stops").counts()["pruned"] == 4


def test_an_infinite_objective_does_not_win(tmp_path: Path) -> None:
    class Infinite(Planted):
        def __call__(self, proposal: Proposal, report: Report) -> Result:
            result = super().__call__(proposal, report)
            if report.number == 1:
                return Result("finished", {"val/accuracy": float("inf")}, steps_done=3)
            return result

    state = search(toy_config(tmp_path, budget={"trials": 3}), made_evaluator=Infinite(), say=lambda text: None)
    assert state.trials[1].result.error.cause == "diverged" and state.best.number != 1


def test_what_fails_in_the_facts_of_an_evaluator_is_said() -> None:
    class Typo:
        @property
        def about(self) -> About:
            return self.missing  # type: ignore[attr-defined,no-any-return]

    with raises(ConfigError, "failed", "about", "Typo", "'missing'", "test_failing_plugins.py:"):
        about_of(Typo())
    with raises(ConfigError, "type", "about", "no attribute 'about'"):
        about_of(object())


def decoded(**changes: Any) -> Decoded:
    images, labels = np.zeros((6, 1, 8, 8), np.uint8), np.arange(6) % 3
    content = {"images": images, "labels": labels, "sizes": {"train": 6}, "class_names": ("a", "b", "c"), **changes}
    return Decoded(**content)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, ""),
        ({"images": np.zeros((6, 1, 8, 8), np.float32)}, "float32 of shape (6, 1, 8, 8), expected uint8"),
        ({"images": np.zeros((6, 8, 8, 1), np.uint8)}, "the channels come second"),
        ({"labels": [0, 1, 2, 0, 1, 2]}, "labels are list, expected int64"),
        ({"labels": np.arange(6) % 3 + 1}, "from 1 to 3, expected 0 to 2"),
        ({"sizes": {"train": 11}}, "add up to 6"),
    ],
)
def test_a_data_set_of_another_form_is_refused(
    changes: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert says in malformed(decoded(**changes)) and bool(says) == bool(malformed(decoded(**changes)))
    monkeypatch.setattr(registry, "names", lambda kind: ["own"])
    monkeypatch.setattr(
        registry, "get", lambda kind, name: lambda config: Source(None, lambda allocate: decoded(**changes))
    )
    source = find(DataConfig("own"))
    if not says:
        assert len(source.read(np.empty).images) == 6
    else:
        with raises(DataError, "invalid", "data.source", "own", says):
            source.read(np.empty)
    monkeypatch.setattr(registry, "get", lambda kind, name: lambda config: None)
    with raises(DataError, "type", "data.source", "own", "NoneType"):
        find(DataConfig("own"))


def test_a_data_set_that_is_not_registered_is_said_to_need_that() -> None:
    with raises(ConfigError, "unknown", None, "entry point"):
        resolve({"space": "tiny", "data": "mine:find"})


def test_a_metric_of_a_task_must_be_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        def scores(self, answers: Any, extra: Any = ()) -> Any:
            return {"kappa": None}

    monkeypatch.setattr("nasforge.training.scoring.answers", lambda *arguments, **settings: None)
    with raises(ConfigError, "type", "task", "Wrong", "'kappa' is None"):
        score(None, None, task=Wrong())  # type: ignore[arg-type]


def test_a_textbook_must_be_found_by_its_name(plugins: Any) -> None:
    with raises(ConfigError, "mismatch", "reference", "other", "failing_plugins:OTHER"):
        reference_named("failing_plugins:OTHER")


def test_public_names_are_completed() -> None:
    assert {"search", "fit", "retrain"} <= {*dir(nasforge)}


class _Watts(Planted):
    """An evaluator with a cost of its own."""

    about = About(metrics=("val/accuracy",), costs=("cost/watts",))

    def __init__(self, spec: Any, **options: Any) -> None:
        super().__init__(**options)

    def check(self, proposal: Proposal) -> dict[str, float]:
        return {"cost/watts": float(proposal.architecture.values["model.width"])}


def test_a_users_evaluator_has_costs_that_limit_and_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watts", type(sys)("watts"))
    sys.modules["watts"].Watts = _Watts  # type: ignore[attr-defined]
    settings = {"evaluator": "watts:Watts", "strategy": "random", "budget": {"trials": 6}}
    config = toy_config(tmp_path, **settings, constraints=["cost/watts<=8"], objectives=["max:val/accuracy"])
    state = search(config, say=lambda text: None)
    assert {trial.costs["cost/watts"] <= 8 for trial in state.finished()} == {True} and state.counts()["rejected"]
    with raises(ConfigError, "unknown", "cost/joules", "cost/watts"):
        search(toy_config(tmp_path, name="other", **settings, constraints=["cost/joules<=8"]), say=lambda text: None)


def test_the_metrics_of_an_evaluator_are_a_tuple() -> None:
    with raises(ConfigError, "type", "metrics", "('val/accuracy',)"):
        About(metrics="val/accuracy")  # type: ignore[arg-type]
