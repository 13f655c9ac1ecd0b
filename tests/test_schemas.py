"""Schema 2: times, origins, alphas, reasons; a journal of schema 1 is read, continued, and stays what it is."""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from expecting import raises

from nasforge.api.search import search
from nasforge.cli.app import main
from nasforge.core.about import About
from nasforge.core.errors import JournalError
from nasforge.core.layout import JOURNAL
from nasforge.core.trial import Measure, Origin, Proposal, Result
from nasforge.experiment.experiment import Experiment
from nasforge.experiment.journal import read_events, read_lines
from nasforge.experiment.state import load_state
from nasforge.runners.local import run
from nasforge.testing.journals import comparable_events
from nasforge.testing.toys import Planted, nested_space, toy_config, toy_experiment


def deep_is_dear(proposal: Proposal) -> Mapping[str, float]:
    assert isinstance(proposal, Measure)
    return {"cost/params": 1000.0 * int(proposal.architecture.values["model.depth"])}


def searched(runs: Path, trials: int, **settings: Any) -> Path:
    evolution = {"name": "evolution", "population": 20}  # by default it follows the budget, which differs here
    settings = {"strategy": evolution, "constraints": ["params<=6k"], **settings}
    config = toy_config(runs, budget={"trials": trials}, **settings)
    with toy_experiment(config, check=deep_is_dear) as experiment:
        run(experiment, Planted())
    return config.folder


def to_schema_1(folder: Path) -> Path:
    """What the version before would have written."""
    path = folder / JOURNAL
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        del line["at"]
        line.get("proposal", {}).pop("origin", None)
        line.get("result", {}).pop("violations", None)
    lines[0]["schema"] = 1
    path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    return folder


def test_every_line_says_when_it_was_written(tmp_path: Path) -> None:
    before = round(time.time(), 3)
    lines = read_lines(searched(tmp_path, 3))
    times = [line.at for line in lines]
    assert None not in times and times == sorted(times) and before <= times[0] <= times[-1] <= time.time() + 0.001
    assert [line.event for line in lines] == read_events(tmp_path / "toy")
    for text in (tmp_path / "toy" / JOURNAL).read_text().splitlines():
        assert list(json.loads(text))[-1] == "at"


@pytest.mark.parametrize("at", ["noon", None, [], {}])
def test_times_of_a_file_are_checked(tmp_path: Path, at: Any) -> None:
    path = searched(tmp_path, 1) / JOURNAL
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], json.dumps({**json.loads(lines[1]), "at": at}), *lines[2:], ""]))
    if at is None:
        assert read_lines(path.parent)[1].at is None
    else:
        with raises(JournalError, "unreadable", "at", f"{JOURNAL}:2:"):
            read_lines(path.parent)


def test_a_journal_of_schema_1_is_continued_as_one(tmp_path: Path) -> None:
    whole = searched(tmp_path / "whole", 30)
    old = to_schema_1(searched(tmp_path / "old", 22))
    before = (old / JOURNAL).read_bytes()
    assert load_state(old).counts()["finished"] == 22 and {line.at for line in read_lines(old)} == {None}
    assert searched(tmp_path / "old", 30) == old
    after = (old / JOURNAL).read_bytes()
    assert after.startswith(before)
    new = [json.loads(line) for line in after[len(before) :].splitlines()]
    assert any("proposal" in line for line in new) and any(line.get("verdict") == "rejected" for line in new)
    assert not any(word in json.dumps(new) for word in ('"at"', '"origin"', '"violations"', '"alphas": {'))
    # All else is as if it had been written by this version without a stop.
    assert comparable_events(to_schema_1(whole)) == comparable_events(old)


def test_a_stopped_search_is_as_one_that_ran_through(tmp_path: Path) -> None:
    whole = comparable_events(searched(tmp_path / "whole", 30))
    searched(tmp_path / "pieces", 9)
    searched(tmp_path / "pieces", 23)
    assert comparable_events(searched(tmp_path / "pieces", 30)) == whole
    assert "attempt" not in json.dumps(whole) and "worker_seconds" not in json.dumps(whole)


def test_origins_do_not_make_proposals_differ() -> None:
    point = nested_space().default_point()
    plain, child = Measure(point), Measure(point, origin=Origin((3, 5), "crossover"))
    assert plain == child and hash(plain) == hash(child)
    assert child.to_json()["origin"] == {"parents": [3, 5], "operator": "crossover"}
    assert "origin" not in plain.to_json() and "origin" not in replace(plain, origin=Origin()).to_json()


@pytest.mark.parametrize(
    ("strategy", "operators"),
    [
        ("random", {"sampled"}),
        ({"name": "evolution", "population": 4}, {"start", "mutation"}),
        ({"name": "nsga2", "population": 4, "starts": 3}, {"start", "crossover", "mutation"}),
        ({"name": "local_search", "starts": 2}, {"start", "neighbour"}),
        ("reinforce", {"policy"}),
        ({"name": "joint", "model": "random", "recipe": "random"}, {"sampled", "revisit"}),
    ],
    ids=lambda value: "-".join(sorted(value)) if isinstance(value, set) else str(value),
)
def test_strategies_say_their_origins(tmp_path: Path, strategy: Any, operators: set[str]) -> None:
    with toy_experiment(toy_config(tmp_path, strategy=strategy, budget={"trials": 24})) as experiment:
        run(experiment, Planted())
    origins = {}
    for number, trial in load_state(tmp_path / "toy").trials.items():
        assert isinstance(trial.proposal, Measure) and trial.proposal.origin is not None
        origins[number] = trial.proposal.origin
    assert {origin.operator for origin in origins.values()} <= operators
    assert {origin.operator for origin in origins.values()} >= operators - {"mutation"}
    for origin in origins.values():
        inner = "random" if "joint" in str(strategy) else ""
        assert origin.strategy == inner
        parents = {"crossover": 2, "mutation": 1, "neighbour": 1, "revisit": 1}
        assert len(origin.parents) == parents.get(origin.operator, 0)
        if origin.operator == "neighbour":
            assert origin.start is not None and origins[origin.start].operator == "start"


@pytest.mark.parametrize("strategy", ["reinforce", "ppo"])
def test_policies_are_noted_at_the_first_asks_and_at_every_tenth(tmp_path: Path, strategy: str) -> None:
    searched(tmp_path / "pieces", 60, strategy=strategy)
    stopped = searched(tmp_path / "pieces", 125, strategy=strategy)
    whole = searched(tmp_path / "whole", 125, strategy=strategy)
    assert comparable_events(stopped) == comparable_events(whole)
    state = load_state(whole)
    noted = {number: trial.proposal.origin.policy for number, trial in state.trials.items() if trial.proposal.origin}
    assert [number for number, policy in noted.items() if policy] == [*range(100), *range(100, len(noted), 10)]
    for number, policy in noted.items():
        point = state.trials[number].architecture
        for key, chances in (policy or {}).items():
            assert point is not None and key in point.values and sum(chances) == pytest.approx(1, abs=0.01)
    assert {len(set(noted[0][key])) for key in noted[0]} == {1}, "the first policy is uniform"
    assert any(len(set(noted[120][key])) > 1 for key in noted[120]), "the policy has learnt nothing"
    old = to_schema_1(whole)
    assert load_state(old).counts() == state.counts()


def test_a_predictor_notes_its_forecast_and_a_continued_search_the_same(tmp_path: Path) -> None:
    strategy = {"name": "predictor", "starts": 4}
    searched(tmp_path / "pieces", 13, strategy=strategy)
    stopped = searched(tmp_path / "pieces", 20, strategy=strategy)
    whole = searched(tmp_path / "whole", 20, strategy=strategy)
    assert comparable_events(stopped) == comparable_events(whole)
    origins = [trial.proposal.origin for trial in load_state(whole).trials.values()]
    assert {origin.operator for origin in origins if origin.forecast} == {"predicted"}
    assert not any(origin.forecast for origin in origins if origin.operator == "start")
    forecasts = [origin.forecast for origin in origins if origin.forecast]
    assert all(-4 < forecast.mean < 4 and forecast.deviation >= 0 for forecast in forecasts)
    assert not any(forecast.weights for forecast in forecasts)
    several = searched(tmp_path / "several", 12, strategy=strategy, objectives=["val/accuracy", "cost/params"])
    origins = [trial.proposal.origin for trial in load_state(several).trials.values()]
    forecasts = [origin.forecast for origin in origins if origin.forecast]
    assert {origin.operator for origin in origins if origin.forecast} == {"predicted"}
    assert all(len(one.weights) == 2 and sum(one.weights) == pytest.approx(1, abs=1e-5) for one in forecasts)
    assert len({one.weights for one in forecasts}) == len(forecasts) > 2


def test_a_rejection_says_which_constraint_and_by_how_much(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = searched(tmp_path, 12)
    rejected = [trial for trial in load_state(folder).trials.values() if trial.status == "rejected"]
    assert rejected
    for trial in rejected:
        excess = trial.costs["cost/params"] / 6000 - 1
        assert trial.result and trial.result.violations == {"params<=6000": pytest.approx(excess)}
    assert main(["show", "toy", "--runs-dir", str(tmp_path), "--trial", str(rejected[0].number)]) == 0
    assert "Rejected: params<=6k is exceeded by" in capsys.readouterr().out


class _Learning:
    """Reports alphas with every step."""

    about = About(instant=True)

    def __call__(self, proposal: Proposal, report: Any) -> Result:
        for step in (1, 2):
            report(step, {"val/accuracy": 0.5}, {"model.width": [0.1 * step, 0.2]})
        return Result("finished", {"val/accuracy": 0.5}, steps_done=2)


@pytest.mark.parametrize("runner", ["local", "simulated"])
def test_alphas_come_with_the_reports(tmp_path: Path, runner: str) -> None:
    from nasforge import registry

    evaluator = _Learning()
    with toy_experiment(toy_config(tmp_path, budget={"trials": 1})) as experiment:
        registry.make("runner", runner, {}, experiment, evaluator)
    alphas = [event.alphas for event in read_events(tmp_path / "toy") if event.kind == "reported"]
    assert alphas == [{"model.width": (0.1, 0.2)}, {"model.width": (0.2, 0.2)}]


def test_other_versions_and_changed_modules_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_evaluator_of_notes.py").write_text(
        "from nasforge.core.about import About\n"
        "from nasforge.core.trial import Result\n"
        "class Judge:\n"
        "    about = About()\n"
        "    def __init__(self, spec):\n"
        "        pass\n"
        "    def __call__(self, proposal, report):\n"
        "        return Result('finished', {'val/accuracy': 0.5}, steps_done=3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def searching(trials: int) -> list[str]:
        messages: list[str] = []
        config = toy_config(tmp_path, evaluator="my_evaluator_of_notes:Judge", budget={"trials": trials})
        search(config, say=messages.append)
        return [text for text in messages if "began" in text]

    assert searching(1) == [] and searching(2) == []
    with (tmp_path / "my_evaluator_of_notes.py").open("a") as file:
        file.write("# changed\n")
    path = tmp_path / "toy" / JOURNAL
    path.write_text(path.read_text().replace('"torch":"', '"torch":"0.').replace('"mlflow":"', '"mlflow":"0.'))
    packages, modules = searching(3)
    assert "began with torch 0." in packages and "(now " in packages and "mlflow" not in packages
    assert "my_evaluator_of_notes has changed" in modules


def test_reopening_keeps_the_schema(tmp_path: Path) -> None:
    from nasforge.experiment.experiment import reopen

    folder = to_schema_1(searched(tmp_path, 2))
    with reopen(folder) as experiment:
        assert isinstance(experiment, Experiment) and experiment.journal.schema == 1
        experiment.open_test("best", lambda: {"test/accuracy": 0.5})
    assert '"at"' not in (folder / JOURNAL).read_text()
    assert load_state(folder).tests == {"best": {"test/accuracy": 0.5}}
