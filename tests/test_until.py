"""A search that ends when it is good enough: `until` in files, journals, commands and resumed searches."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from expecting import raises

sys.path.append(str(Path(__file__).parent / "evaluators/table"))

from made_tables import config_of, flat, searched, space, written

import nasforge
from nasforge.api.assembly import make_evaluator
from nasforge.api.search import search
from nasforge.cli.app import main
from nasforge.core.errors import ConfigError
from nasforge.core.events import header_of
from nasforge.core.goals import Budget, Objective
from nasforge.core.space import Choice, Decision
from nasforge.core.trial import Artifact, Charge, Measure, Result
from nasforge.experiment.journal import read_events
from nasforge.experiment.state import load_state
from nasforge.runners import local
from nasforge.settings.experiment import ExperimentConfig, resolve
from nasforge.testing.toys import Planted, toy_config, toy_experiment

RISING = "x,accuracy,loss,size\n" + "".join(f"{n},{n / 20},{1 - n / 20},{n}\n" for n in range(20))


def line() -> Any:
    return space(Decision("model.x", Choice(tuple(range(20)))))


def looked_up(folder: Path, until: Any, evaluator: Any = None, trials: int = 20, **settings: Any) -> Any:
    budget = {"trials": trials, "until": until}
    return searched(folder, line(), written(folder, RISING), evaluator, budget=budget, **settings)


def first_at_least(state: Any, key: str, value: float, sign: float = 1) -> int:
    return next(n for n, trial in state.trials.items() if sign * trial.metrics[key] >= sign * value)


def test_it_ends_with_the_first_trial_that_reaches_the_value(tmp_path):
    state = looked_up(tmp_path, {"val/accuracy": 0.7})
    assert state.reached_by == len(state.trials) - 1 == first_at_least(state, "val/accuracy", 0.7) < 19
    assert state.spent and state.budget.until == {"max:val/accuracy": 0.7}
    assert header_of(read_events(tmp_path / "runs" / "t")).config["budget"]["until"] == {"max:val/accuracy": 0.7}


def test_the_direction_is_the_objectives_or_the_names(tmp_path):
    state = looked_up(tmp_path, {"val/loss": 0.3}, {"signal": "loss"})
    assert state.reached_by == len(state.trials) - 1 == first_at_least(state, "val/loss", 0.3, -1) < 19
    odd = {"signal": "accuracy", "metric": "val/odd"}
    state = looked_up(tmp_path, {"val/odd": 0.1}, odd, objectives=["min:val/odd"], name="odd")
    assert state.reached_by == len(state.trials) - 1 and state.best.metrics["val/odd"] <= 0.1
    both = {"val/accuracy": 0.5, "cost/params": 15}
    state = looked_up(tmp_path, both, {"costs": {"params": "size"}}, name="both")
    reached = state.trials[state.reached_by].metrics
    assert reached["val/accuracy"] >= 0.5 and reached["cost/params"] <= 15


def test_what_is_not_reached_leaves_the_limits_alone(tmp_path):
    state = looked_up(tmp_path, {"val/accuracy": 0.95}, trials=3)
    assert len(state.trials) == 3 and state.reached_by in (None, 2)
    assert resolve({"space": "tiny", "data": "digits", "budget": {"until": {"val/accuracy": 1}}}).budget.trials == 20


@pytest.mark.parametrize(
    ("evaluator", "settings", "metric", "best"),
    [
        (None, {}, "max:val/accuracy", 0.95),
        ({"signal": "loss"}, {}, "min:val/loss", 0.05),
        ({"costs": {"params": "size"}}, {"constraints": ["params<=7"]}, "max:val/accuracy", 0.35),
    ],
)
def test_until_the_optimum_of_a_table(tmp_path, evaluator, settings, metric, best):
    state = looked_up(tmp_path, "optimum", evaluator, trials=100, **settings)
    assert state.budget.until == {metric: pytest.approx(best)}
    assert state.best.number == state.reached_by == len(state.trials) - 1


@pytest.mark.parametrize(
    ("until", "settings", "expected"),
    [
        ({"val/accuracy": 0.96}, {}, ("range", "until", 0.95)),
        ({"val/acuracy": 0.9}, {}, ("missing", "budget.until", "max:val/acuracy")),
        ({"max:val/acuracy": 0.9}, {}, ("unknown", "val/acuracy", "'val/accuracy'")),
        ({"val/accuracy": "high"}, {}, ("type", "budget.until", "val/accuracy")),
        ({"val/accuracy": True}, {}, ("type", "budget.until", "val/accuracy")),
        ({"val/accuracy": float("nan")}, {}, ("type", "budget.until", "val/accuracy")),
        ({"val/accuracy": 0.5, "max:val/accuracy": 0.6}, {}, ("duplicate", "budget.until", "max:val/accuracy")),
        ("best", {}, ("type", "budget.until", "best")),
        (0.9, {}, ("type", "budget.until", 0.9)),
        ("optimum", {"objectives": ["cost/params"]}, ("missing", "until", "--until")),
        ("optimum", {"targets": ["params<=3"]}, ("missing", "until", "soft targets")),
    ],
)
def test_mistakes(tmp_path, until, settings, expected):
    with raises(ConfigError, *expected):
        looked_up(tmp_path, until, {"costs": {"params": "size"}}, **settings)
    assert not (tmp_path / "runs" / "t").exists()


def test_an_evaluator_without_a_table_has_no_optimum(tmp_path):
    config = resolve({"space": "tiny", "data": "digits", "budget": {"until": "optimum"}, "runs_dir": tmp_path})
    with raises(ConfigError, "missing", None, "--until val/accuracy=VALUE"):
        search(config)


def test_it_goes_on_to_a_higher_value_and_not_beyond_a_lower_one(tmp_path):
    first = looked_up(tmp_path, {"val/accuracy": 0.5})
    again = looked_up(tmp_path, {"val/accuracy": 0.5})
    assert len(again.trials) == len(first.trials), "nothing is asked that is not needed"
    higher = looked_up(tmp_path, {"val/accuracy": 0.95})
    assert higher.reached_by == len(higher.trials) - 1 > first.reached_by
    whole = looked_up(tmp_path, {"val/accuracy": 0.95}, name="whole")
    assert [trial.proposal for trial in higher.trials.values()] == [trial.proposal for trial in whole.trials.values()]
    lower = looked_up(tmp_path, {"val/accuracy": 0.5})
    assert len(lower.trials) == len(higher.trials) and lower.reached_by == first.reached_by
    assert load_state(tmp_path / "runs" / "t").reached_by == first.reached_by


class Depths(Planted):
    def metrics_of(self, values, seed, step):
        return {**super().metrics_of(values, seed, step), "val/accuracy": values["model.depth"] / 8}


def test_pruned_trials_and_lower_rungs_do_not_count(tmp_path):
    with toy_experiment(toy_config(tmp_path, budget={"trials": 40, "until": {"val/accuracy": 1.0}})) as experiment:
        local.run(experiment, Depths())
        state = experiment.state
    assert state.reached_by == len(state.trials) - 1 < 39
    trial = state.trials[state.reached_by]
    pieces = [
        Measure(trial.architecture, rung=0),
        Measure(trial.architecture, weights=Artifact("artifacts/9/weights.safetensors", "", 0)),
    ]
    for proposal in pieces:
        assert not state._reaches(type(trial)(99, proposal, verdict="accepted", result=trial.result))
    pruned = Result("pruned", trial.metrics, trial.result.values, 1, Charge())
    assert not state._reaches(type(trial)(99, trial.proposal, verdict="accepted", result=pruned))


def test_several_virtual_workers_finish_what_runs(tmp_path):
    runner = {"name": "simulated", "max_concurrent_trials": 4}
    state = looked_up(tmp_path, {"val/accuracy": 0.7}, runner=runner)
    assert state.reached_by is not None and state.counts()["running"] == 0 and len(state.trials) < 20


def test_a_budget_is_kept_as_it_is_written():
    budget = Budget(trials=5, until={"val/loss": 1}).with_directions([Objective("val/loss", True)])
    assert budget.to_json() == {"trials": 5, "until": {"max:val/loss": 1.0}}
    assert Budget(**budget.to_json()) == budget and budget.with_directions([]) == budget
    assert Budget(trials=5).to_json() == {"trials": 5}, "as journals had it before there was a goal"


def test_the_command(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, RISING)
    written(tmp_path, "name: line\ndecisions: {model: {x: {int: [0, 19]}}}\n", "line.yaml")
    keys = [f"evaluator.{option}" for option in ("path=table.csv", "signal=accuracy")]
    words = ["search", "line.yaml", "--evaluator", "lookup_table", "--runner", "local", "--tracking-uri", "none"]
    words += ["--strategy", "random", "--max-trials", "200", *(word for text in keys for word in ("--set", text))]
    assert main([*words, "--until", "val/accuracy=0.8", "--name", "a", "--json"]) == 0
    printed = json.loads(capfd.readouterr().out)
    assert printed["until"] == {"max:val/accuracy": 0.8} and printed["best"]["metrics"]["val/accuracy"] >= 0.8
    assert main([*words, "--until", "optimum", "--name", "b"]) == 0
    out = capfd.readouterr().out
    assert "reached the goal: max:val/accuracy 0.95" in out
    assert main(["show", "b"]) == 0
    assert "until max:val/accuracy" in capfd.readouterr().out
    assert main([*words[:-4], "--max-trials", "2", *words[-4:], "--until", "val/accuracy=0.94", "--name", "c"]) == 0
    assert "No trial reached the goal within the budget" in capfd.readouterr().out
    for wrong in (["val/accuracy"], ["optimum", "val/accuracy=1"], ["val/accuracy=1", "val/accuracy=2"]):
        assert main([*words, "--name", "d", *(w for text in wrong for w in ("--until", text))]) == 2
        assert "must look like val/accuracy=0.95" in capfd.readouterr().err


@pytest.mark.slow
def test_a_campaign_until_the_optimum(tmp_path):
    config = config_of(tmp_path, line(), written(tmp_path, RISING))
    options = dict(config.evaluator.options)
    settings: dict[str, Any] = {"space": line(), "evaluator": {"name": "lookup_table", **options}}
    budget = {"trials": 60, "until": "optimum"}
    call = {"strategies": "evolution", "seeds": 3, "name": "c", "runs_dir": tmp_path / "runs", "tracking_uri": "none"}
    comparison = nasforge.compare(**call, budget=budget, **settings)
    assert comparison.end == 60, "who has found it has nothing more to look for: its best stands to the end"
    assert all(one.found == 1 for one in comparison.to_optimum)
    lengths = {path: path.stat().st_size for path in (tmp_path / "runs").glob("c/*/journal.jsonl")}
    nasforge.compare(**call, budget=budget, **settings)
    assert lengths == {path: path.stat().st_size for path in lengths}


def test_old_headers_have_no_goal(tmp_path):
    looked_up(tmp_path, {}, trials=2)
    header = header_of(read_events(tmp_path / "runs" / "t"))
    assert header.config["budget"] == {"trials": 2}
    assert ExperimentConfig.of_journal(header, tmp_path / "runs" / "t").budget.until == {}
    assert make_evaluator(config_of(tmp_path, flat(), written(tmp_path, "width,rate,accuracy\n8,1,1\n")))
