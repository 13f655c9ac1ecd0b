"""Virtual workers: the order is the table's clock's, the same every time, also when the search was killed."""

import random
from pathlib import Path
from typing import Any

import pytest
from expecting import raises

from nasforge.api.search import search
from nasforge.core.about import About
from nasforge.core.errors import ConfigError
from nasforge.core.events import Started, Told
from nasforge.core.layout import JOURNAL
from nasforge.core.protocols import Report
from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.core.trial import Charge, Measure, Proposal, Result
from nasforge.experiment.journal import read_events
from nasforge.experiment.state import State
from nasforge.runners.simulated import run as simulate
from nasforge.settings.experiment import resolve
from nasforge.testing.toys import Planted, toy_config, toy_experiment

SPACE = SearchSpace("clocked", tuple(Decision(f"model.{key}", Choice((0, 1, 2, 3))) for key in "abc"))


@pytest.fixture
def table(tmp_path: Path) -> str:
    rng = random.Random(0)
    lines = ["a,b,c,e1,e3,e9,seconds"]
    for number in range(64):
        a, b, c = number // 16, number // 4 % 4, number % 4
        score = a + b + c + rng.random()
        lines.append(f"{a},{b},{c},{score / 3},{score / 2},{score},{rng.choice((9, 18, 90))}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    return str(tmp_path / "table.csv")


def run(folder: Path, table: str, name: str, runner: Any, trials: int = 40, **settings: Any) -> State:
    evaluator = {"name": "lookup_table", "path": table, "signal": "e{epochs}", "seconds": "seconds"}
    defaults = {
        "strategy": {"name": "evolution", "population": 5},
        "epochs": 9,
        "pruner": "asha",
        "seed": 3,
        **settings,
    }
    config = resolve(
        {"space": SPACE, "evaluator": evaluator, "runner": runner, "budget": {"trials": trials}, "name": name}
        | {"runs_dir": folder, "tracking_uri": "none", **defaults}
    )
    return search(config, say=lambda text: None)


def asked(state: State) -> list[Any]:
    return [(trial.architecture, trial.status, trial.result and trial.result.values) for trial in state.trials.values()]


def four(workers: int = 4) -> dict[str, Any]:
    return {"name": "simulated", "max_concurrent_trials": workers}


def test_one_worker_is_the_local_runner(tmp_path: Path, table: str) -> None:
    assert asked(run(tmp_path, table, "one", four(1))) == asked(run(tmp_path, table, "local", "local"))


def test_jobs_end_in_the_order_of_the_clock_and_workers_never_idle(tmp_path: Path, table: str) -> None:
    state = run(tmp_path, table, "four", four(), pruner="none")
    starts, now, running = {}, 0.0, 0
    for event in read_events(tmp_path / "four"):
        if isinstance(event, Started):
            starts[event.number], running = now, running + 1
            assert running <= 4
        elif isinstance(event, Told):
            ended = starts[event.number] + event.result.charged.worker_seconds
            assert ended >= now
            now, running = ended, running - 1
    assert state.counts()["finished"] == 40
    assert state.charged.worker_seconds / 4 <= now < state.charged.worker_seconds / 4 + 90
    order = [event.number for event in read_events(tmp_path / "four") if isinstance(event, Told)]
    assert order != sorted(order), "a long job is overtaken"


def test_a_pruned_trial_frees_its_worker(tmp_path: Path, table: str) -> None:
    state = run(tmp_path, table, "pruned", four())
    assert state.counts()["pruned"] > 5
    assert asked(state) == asked(run(tmp_path, table, "again", four()))


def test_a_journal_cut_anywhere_goes_on_as_it_would_have(tmp_path: Path, table: str) -> None:
    whole = run(tmp_path, table, "whole", four())
    lines = (tmp_path / "whole" / JOURNAL).read_bytes().splitlines(keepends=True)
    for seed in range(12):
        cut = random.Random(seed).randrange(2, len(lines))
        name = f"cut{seed}"
        (tmp_path / name).mkdir()
        header = lines[0].replace(b'"experiment":"whole"', f'"experiment":"{name}"'.encode())
        (tmp_path / name / JOURNAL).write_bytes(header + b"".join(lines[1:cut]))
        assert asked(run(tmp_path, table, name, four())) == asked(whole), f"cut before line {cut + 1}"


class Failing:
    """Reports every ten virtual seconds; every third point fails after its reports, so the failure charges nothing."""

    about = About(metrics=("val/accuracy",), instant=True)

    def __call__(self, proposal: Proposal, report: Report) -> Result:
        assert isinstance(proposal, Measure)
        score = sum(int(value) for value in proposal.architecture.values.values())
        for step in (1, 2, 3):
            metrics = {"val/accuracy": score / 10, "time/worker_s": 10.0 * step + score}
            report(step, metrics)
        if score % 3 == 0:
            raise ValueError("planted")
        return Result("finished", metrics, steps_done=3, charged=Charge(metrics["time/worker_s"]))


def failing(folder: Path, name: str) -> State:
    config = resolve(
        {"space": SPACE, "evaluator": f"{__name__}:Failing", "runner": four(3), "budget": {"trials": 20}, "name": name}
        | {"strategy": {"name": "evolution", "population": 5}, "ladder": [{"epochs": 3}], "pruner": "none", "seed": 3}
        | {"runs_dir": folder, "tracking_uri": "none"}
    )
    return search(config, made_evaluator=Failing(), say=lambda text: None)


def test_a_failure_ends_no_earlier_than_its_reports(tmp_path: Path) -> None:
    whole = failing(tmp_path, "whole")
    assert whole.counts()["failed"] > 2
    starts, now = {}, 0.0
    for event in read_events(tmp_path / "whole"):
        if isinstance(event, Started):
            starts[event.number] = now
        elif isinstance(event, Told):
            ended = starts[event.number] + event.result.charged.worker_seconds
            assert ended >= now
            now = ended
    lines = (tmp_path / "whole" / JOURNAL).read_bytes().splitlines(keepends=True)
    for cut in range(2, len(lines), 7):
        name = f"cut{cut}"
        (tmp_path / name).mkdir()
        header = lines[0].replace(b'"experiment":"whole"', f'"experiment":"{name}"'.encode())
        (tmp_path / name / JOURNAL).write_bytes(header + b"".join(lines[1:cut]))
        assert asked(failing(tmp_path, name)) == asked(whole), f"cut before line {cut + 1}"


def test_what_it_is_not_for(tmp_path: Path, table: str) -> None:
    with raises(ConfigError, "range", "runner.max_concurrent_trials", "max_concurrent_trials"):
        run(tmp_path, table, "none", four(0))
    with toy_experiment(toy_config(tmp_path)) as experiment, raises(ConfigError, "unsupported", "runner", "simulated"):
        simulate(experiment, Planted())
