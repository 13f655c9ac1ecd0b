"""The rules of a search: budget, constraints, retries, pruning, resume, finalists."""

import errno
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import at_rung
import pytest
from expecting import raises

from nasforge.api.search import search
from nasforge.core.about import About
from nasforge.core.errors import BuildError, JournalError, RecipeError, SearchError
from nasforge.core.events import (
    Asked,
    Checked,
    Event,
    Interrupted,
    Reported,
    Started,
    Told,
)
from nasforge.core.goals import Budget
from nasforge.core.layout import JOURNAL
from nasforge.core.protocols import Report
from nasforge.core.trial import Artifact, Charge, Measure, Proposal, Result
from nasforge.experiment.experiment import Experiment, reopen
from nasforge.experiment.job import Job
from nasforge.experiment.journal import read_events
from nasforge.experiment.state import load_state
from nasforge.runners.local import run
from nasforge.runners.work import perform
from nasforge.testing.toys import Planted, toy_config, toy_experiment


def proposals(folder: Path) -> list[Any]:
    return [event.proposal.to_json() for event in read_events(folder) if isinstance(event, Asked)]


def finished(value: float, steps: int = 3, **more: Any) -> Result:
    return Result("finished", {"val/accuracy": value}, steps_done=steps, **more)


def accuracy(number: int) -> float:
    return (number * 37 % 100) / 100


def work(experiment: Experiment, limit: float = math.inf) -> None:
    """A runner without an evaluator."""
    while limit > 0 and (job := experiment.next()) is not None:
        experiment.tell(job.number, job.attempt, finished(accuracy(job.number), charged=Charge(1.0, 10.0)))
        limit -= 1


def test_events_of_one_trial_in_order(tmp_path: Path) -> None:
    config = toy_config(tmp_path, budget={"trials": 1})
    with toy_experiment(config) as experiment:
        run(experiment, Planted(epochs=2))
    kinds = [event.kind for event in read_events(config.folder)]
    assert kinds == ["header", "asked", "checked", "started", "reported", "reported", "told"]


@pytest.mark.parametrize(
    ("limit", "trials"), [({"trials": 5}, 5), ({"worker_seconds": 7}, 7), ({"multiply_adds": 40}, 4)]
)
def test_budget_is_charged_from_the_journal(tmp_path: Path, limit: dict[str, float], trials: int) -> None:
    config = toy_config(tmp_path, budget=limit)
    with toy_experiment(config) as experiment:
        work(experiment)
        assert experiment.state.counts()["finished"] == trials
        assert experiment.next() is None


def test_running_trials_charge_what_they_reported(tmp_path: Path) -> None:
    with toy_experiment(toy_config(tmp_path, budget={"worker_seconds": 10})) as experiment:
        first = experiment.next()
        assert first is not None
        experiment.report(first.number, 1, 1, {"val/accuracy": 0.5, "time/worker_s": 11.0})
        assert experiment.next() is None
        assert experiment.running == 1


def test_rejections_are_told_uncharged_and_cost_nothing(tmp_path: Path) -> None:
    def check(proposal: Proposal) -> Mapping[str, float]:
        assert isinstance(proposal, Measure)
        return {"cost/params": 1000.0 * int(proposal.architecture.values["model.depth"])}

    config = toy_config(tmp_path, constraints=["params<=4k"], budget={"trials": 8})
    with toy_experiment(config, check=check) as experiment:
        work(experiment)
        state = experiment.state
    counts = state.counts()
    assert counts["finished"] == 8 and counts["rejected"] > 0
    for trial in state.trials.values():
        excess = trial.costs["cost/params"] / 4000 - 1
        assert (trial.status == "rejected") == (excess > 0)
        if trial.status == "rejected":
            assert trial.metrics["constraint/violation"] == pytest.approx(excess)
            assert trial.attempts == 0 and trial.result is not None and trial.result.charged == Charge()


def test_cap_on_rejections_says_what_to_relax(tmp_path: Path) -> None:
    config = toy_config(tmp_path, constraints=["params<=10"])
    costly = toy_experiment(config, check=lambda p: {"cost/params": 1234.0}, max_rejections_in_a_row=20)
    with costly as experiment, raises(SearchError, "empty", "constraints", 20, "params<=10", "1,234"):
        experiment.next()
    with toy_experiment(config, check=lambda p: {"cost/params": 1.0}, max_rejections_in_a_row=20) as experiment:
        assert experiment.next() is not None, "a continued search may try again"


def test_network_that_cannot_be_built_fails_and_the_search_goes_on(tmp_path: Path) -> None:
    def check(proposal: Proposal) -> Mapping[str, float]:
        if isinstance(proposal, Measure) and proposal.architecture.values["model.block"] == "identity":
            raise BuildError("identity cannot change the number of channels")
        return {}

    with toy_experiment(toy_config(tmp_path, budget={"trials": 5}), check=check) as experiment:
        work(experiment)
        failures = experiment.state.failures()
        assert experiment.state.counts()["finished"] == 5 and failures
        assert all(t.result and t.result.error and t.result.error.cause == "invalid_shape" for t in failures)
    with (
        toy_experiment(
            toy_config(tmp_path, name="none"),
            check=lambda p: (_ for _ in ()).throw(BuildError("no")),
            max_unbuildable_in_a_row=9,
            max_rejections_in_a_row=5,  # of those that violate a constraint
        ) as experiment,
        raises(SearchError, "empty", "space", 9, "built"),
    ):
        experiment.next()


@pytest.mark.parametrize("cause", ["crash", "preempted"])
def test_lost_worker_is_tried_again_then_fails(tmp_path: Path, cause: Any) -> None:
    with toy_experiment(toy_config(tmp_path, budget={"trials": 1})) as experiment:
        first = experiment.next()
        assert first is not None and first.attempt == 1
        experiment.tell(0, 1, Result.failed(cause, "gone"))
        second = experiment.next()
        assert second is not None and (second.number, second.attempt) == (0, 2)
        assert second.seed == first.seed and second.proposal == first.proposal
        assert second.checkpoint == first.checkpoint and second.folder != first.folder
        experiment.tell(0, 2, Result.failed(cause, "gone again"))
        assert experiment.next() is None
        error = experiment.state.trials[0].result
        assert error and error.error and error.error.cause == "crash" and "2 attempts" in error.error.message


@pytest.mark.parametrize("cause", ["diverged", "out_of_memory", "invalid_shape", "timeout", "error"])
def test_other_failures_are_not_tried_again(tmp_path: Path, cause: Any) -> None:
    with toy_experiment(toy_config(tmp_path, budget={"trials": 1})) as experiment:
        experiment.next()
        experiment.tell(0, 1, Result.failed(cause, "so it is", "do that"))
        assert experiment.next() is None and experiment.state.counts()["failed"] == 1


def test_attempts_that_reported_do_not_count_against_the_trial(tmp_path: Path) -> None:
    with toy_experiment(toy_config(tmp_path, budget={"trials": 1})) as experiment:
        for attempt in range(1, 6):
            job = experiment.next()
            assert job is not None and job.attempt == attempt
            experiment.report(0, attempt, attempt, {"val/accuracy": 0.5})
            experiment.tell(0, attempt, Result.failed("preempted", "gone"))
        assert experiment.state.trials[0].result is None


def test_a_state_is_read_from_a_path_or_a_text(tmp_path: Path) -> None:
    config = toy_config(tmp_path, budget={"trials": 2})
    with toy_experiment(config) as experiment:
        run(experiment, Planted())
    for folder in (config.folder, str(config.folder)):
        state = load_state(folder)
        assert state.counts()["finished"] == 2


def test_many_faults_in_a_row_end_the_search(tmp_path: Path) -> None:
    config = toy_config(tmp_path, budget={"trials": 50})
    with toy_experiment(config) as experiment, raises(SearchError, "failed", None, 6, "planted failure"):
        run(experiment, Planted(fail=tuple(range(50))))
    state = load_state(config.folder)
    assert state.counts()["failed"] == 6
    with toy_experiment(config) as experiment:
        run(experiment, Planted())
        assert experiment.state.counts()["finished"] == 44, "the same command goes on once the cause is mended"


def test_of_many_faults_only_trials_that_ran_are_named(tmp_path: Path) -> None:
    def check(proposal: Proposal) -> Mapping[str, float]:
        if len(experiment.state.trials) == 6:
            raise BuildError("cannot be built at all", kind="failed")
        return {}

    experiment = toy_experiment(toy_config(tmp_path, budget={"trials": 50}), check=check)
    with experiment, pytest.raises(SearchError) as caught:
        run(experiment, Planted(fail=tuple(range(50))))
    assert "planted failure" in str(caught.value) and "cannot be built" not in str(caught.value)


def test_what_cannot_be_built_is_no_rejection(tmp_path: Path) -> None:
    def check(proposal: Proposal) -> Mapping[str, float]:
        if len(experiment.state.trials) % 2:
            raise BuildError("too small", kind="failed")
        return {"cost/params": 99.0}

    experiment = toy_experiment(
        toy_config(tmp_path, constraints=["params<=10"]), check=check, max_rejections_in_a_row=20
    )
    with experiment, raises(SearchError, "empty", "constraints", "20 proposals in a row", "99"):
        experiment.next()
    assert experiment.state.counts()["rejected"] == 20


def test_an_error_of_the_search_counts_against_no_trial(tmp_path: Path) -> None:
    def full(proposal: Proposal, report: Report) -> Result:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    full.about = About()  # type: ignore[attr-defined]
    config = toy_config(tmp_path, budget={"trials": 2})
    for _ in range(12):
        with raises(SearchError, "failed", None, "no space left", "trial 0"):
            search(config, made_evaluator=full, say=lambda text: pytest.fail(text))
    state = load_state(config.folder)
    assert (state.trials[0].kills, state.trials[0].idle_attempts, state.trials[0].attempts) == (0, 0, 12)
    assert search(config, made_evaluator=Planted()).counts()["finished"] == 2


def test_crashes_count_although_their_driver_was_killed(tmp_path: Path) -> None:
    config = toy_config(tmp_path, budget={"trials": 1})
    for attempt in (1, 2):
        with toy_experiment(config) as experiment:
            job = experiment.next()
            assert job is not None and job.attempt == attempt
            experiment.tell(0, attempt, Result.failed("crash", "gone"))
    state = load_state(config.folder)
    assert state.trials[0].status == "failed" and state.trials[0].kills == 0
    assert [e.cause for e in read_events(config.folder) if isinstance(e, Interrupted)] == ["fault"]


def test_what_was_charged_stays_charged(tmp_path: Path) -> None:
    config = toy_config(tmp_path, budget={"worker_seconds": 9})
    with toy_experiment(config) as experiment:
        assert experiment.next() is not None
        experiment.report(0, 1, 1, {"val/accuracy": 0.5, "time/worker_s": 10.0, "work/multiply_adds": 5.0})
        experiment.tell(0, 1, Result.failed("crash", "gone"))
        assert experiment.next() is not None
        experiment.report(0, 2, 2, {"val/accuracy": 0.5, "time/worker_s": 2.0, "work/multiply_adds": 9.0})
        assert experiment.state.charged == Charge(10.0, 9.0)
        experiment.tell(0, 2, finished(0.5, charged=Charge(3.0, 9.0)))
        assert experiment.state.charged == Charge(10.0, 9.0)
        assert experiment.next() is None
    assert load_state(config.folder).charged == Charge(10.0, 9.0)


def test_a_recipe_that_cannot_be_is_a_failed_trial_not_the_end(tmp_path: Path) -> None:
    def check(proposal: Proposal) -> Mapping[str, float]:
        if proposal.architecture.values["model.depth"] % 2:
            raise RecipeError("one average is kept")
        return {}

    config = toy_config(tmp_path, budget={"trials": 12})
    with toy_experiment(config, check=check) as experiment:
        run(experiment, Planted())
        assert experiment.next() is None
    state = load_state(config.folder)
    failed = [trial for trial in state.trials.values() if trial.status == "failed"]
    assert state.counts()["finished"] == 12 == state.accepted and failed  # what never started is not charged
    assert {trial.result.error.cause for trial in failed if trial.result and trial.result.error} == {"error"}

    def refusing(proposal: Proposal, report: Any) -> Result:
        raise RecipeError("the network has 4 parts before its head")

    job = Job(0, 1, state.trials[0].proposal, 0, {}, tmp_path)
    result = perform(refusing, job, lambda step, metrics: True)
    assert result.error and result.error.cause == "error" and "4 parts" in result.error.message


def test_second_tell_is_refused(tmp_path: Path) -> None:
    with toy_experiment(toy_config(tmp_path)) as experiment:
        experiment.next()
        experiment.tell(0, 1, finished(0.5))
        with raises(SearchError, "duplicate"):
            experiment.tell(0, 1, finished(0.6))


def test_strategy_hears_what_the_journal_says(tmp_path: Path) -> None:
    heard = []

    class Listening:
        def __init__(self, inner: Any) -> None:
            self.inner = inner
            self.ask, self.recall = inner.ask, inner.recall

        def tell(self, number: int, result: Result) -> None:
            heard.append((number, result))
            self.inner.tell(number, result)

    config = toy_config(tmp_path, objectives=["val/accuracy", "cost/flops"], budget={"trials": 3})
    with toy_experiment(config) as experiment:
        experiment._strategy = Listening(experiment._strategy)
        run(experiment, Planted())
    told = [(event.number, event.result) for event in read_events(config.folder) if isinstance(event, Told)]
    assert heard == told
    for _, result in told:
        assert result.values == (result.metrics["val/accuracy"], -result.metrics["cost/flops"])


def test_missing_or_nan_objective_is_a_failure(tmp_path: Path) -> None:
    with toy_experiment(toy_config(tmp_path, objectives=["val/precision"])) as experiment:
        experiment.next()
        experiment.tell(0, 1, finished(0.5))
        experiment.next()
        experiment.tell(1, 1, Result("finished", {"val/precision": math.nan}))
        errors = [trial.result.error for trial in experiment.state.failures() if trial.result]
        assert [error.cause for error in errors if error] == ["missing_metric", "diverged"]
        assert "it reports val/accuracy" in errors[0].message  # type: ignore[union-attr]


class PruneAfterFirst:
    def prune(self, history: Mapping[int, Mapping[int, tuple[float, ...]]], number: int, step: int) -> bool:
        return number % 2 == 1 and step == 1 and history[number][step] is not None


def test_pruned_trials_are_closed_with_their_last_report(tmp_path: Path) -> None:
    with toy_experiment(toy_config(tmp_path, budget={"trials": 6}), pruner=PruneAfterFirst()) as experiment:
        run(experiment, Planted())
        state = experiment.state
    assert state.counts() == {"finished": 3, "pruned": 3, "failed": 0, "rejected": 0, "running": 0}
    for trial in state.trials.values():
        if trial.status == "pruned":
            assert trial.result and trial.result.steps_done == 1 and trial.result.values == trial.steps[-1].values
            assert trial.result.charged == Charge(0.01, 100.0)


@pytest.mark.parametrize("rung", [0, -3])
def test_a_trial_of_a_named_rung_is_judged_by_its_strategy(tmp_path: Path, rung: int) -> None:
    strategy = {"name": at_rung.NAME, "rung": rung}
    ladder = [{"epochs": epochs} for epochs in (2, 3, 9)]
    config = toy_config(tmp_path, strategy=strategy, ladder=ladder, budget={"trials": 4})
    with toy_experiment(config, pruner=PruneAfterFirst()) as experiment:
        run(experiment, Planted(epochs=2))
        assert experiment.state.counts()["finished"] == 4


def test_last_rung_is_never_pruned(tmp_path: Path) -> None:
    class Always:
        def prune(self, history: Any, number: int, step: int) -> bool:
            return True

    config = toy_config(tmp_path, ladder=[{"epochs": 1}], budget={"trials": 2})
    with toy_experiment(config, pruner=Always()) as experiment:
        run(experiment, Planted(epochs=1))
        assert experiment.state.counts()["finished"] == 2


@pytest.mark.parametrize("strategy", ["random", "evolution", "nsga2", "local_search"])
def test_continued_equals_uninterrupted_wherever_it_was_cut(tmp_path: Path, strategy: str) -> None:
    whole = toy_config(tmp_path, strategy=strategy, name="whole", budget={"trials": 8}, pruner="asha")
    with toy_experiment(whole) as experiment:
        run(experiment, Planted())
    lines = (whole.folder / JOURNAL).read_bytes().splitlines(keepends=True)
    expected = [e for e in read_events(whole.folder) if isinstance(e, (Asked, Told))]
    for cut in range(1, len(lines), 3):
        config = toy_config(tmp_path, strategy=strategy, name=f"cut-{cut}", budget={"trials": 8}, pruner="asha")
        config.folder.mkdir()
        torn = lines[cut][: len(lines[cut]) // 2]
        (config.folder / JOURNAL).write_bytes(b"".join(lines[:cut]) + torn)
        with toy_experiment(config) as experiment:
            assert experiment.resumed
            run(experiment, Planted())
        assert [e for e in read_events(config.folder) if isinstance(e, (Asked, Told))] == expected, f"cut at {cut}"


def test_re_reported_steps_keep_what_was_said_first(tmp_path: Path) -> None:
    with toy_experiment(toy_config(tmp_path)) as experiment:
        experiment.next()
        assert experiment.report(0, 1, 1, {"val/accuracy": 0.5})
        experiment.tell(0, 1, Result.failed("crash", "gone"))
        assert experiment.next().attempt == 2  # type: ignore[union-attr]
        assert experiment.report(0, 2, 1, {"val/accuracy": 0.9})
        assert [step.metrics for step in experiment.state.trials[0].steps] == [{"val/accuracy": 0.5}]


def test_stop_decision_without_tell_is_closed_as_pruned(tmp_path: Path) -> None:
    config = toy_config(tmp_path, budget={"trials": 2})
    experiment = toy_experiment(config)
    experiment.next()
    experiment.journal.append(Reported(0, 1, 1, {"val/accuracy": 0.1}, "stop"))
    experiment.close()
    with toy_experiment(config) as experiment:
        job = experiment.next()
        assert job is not None and job.number == 1
        assert experiment.state.trials[0].status == "pruned"


def test_ask_without_check_is_checked_again_before_anything_runs(tmp_path: Path) -> None:
    config = toy_config(tmp_path, constraints=["params<=5"], budget={"trials": 2})
    with toy_experiment(config, check=lambda p: {"cost/params": 1.0}) as experiment:
        experiment.journal.append(Asked(0, experiment._strategy.ask(0)))  # type: ignore[arg-type]
    with toy_experiment(config, check=lambda p: {"cost/params": 9.0}, max_rejections_in_a_row=3) as experiment:
        with pytest.raises(SearchError):
            experiment.next()
        assert experiment.state.trials[0].status == "rejected"
    kinds = [e.kind for e in read_events(config.folder) if getattr(e, "number", None) == 0]
    assert kinds == ["asked", "checked", "told"]


def test_check_without_tell_of_a_rejection_is_finished(tmp_path: Path) -> None:
    config = toy_config(tmp_path, constraints=["params<=5"], budget={"trials": 1})
    with toy_experiment(config) as experiment:
        experiment.journal.append(Asked(0, experiment._strategy.ask(0)))  # type: ignore[arg-type]
        experiment.journal.append(Checked(0, {"cost/params": 9.0}, "rejected"))
    costs = iter([1.0])  # the first trial's verdict stands; asking again might find another
    with toy_experiment(config, check=lambda p: {"cost/params": next(costs)}) as experiment:
        job = experiment.next()
        assert job is not None and job.number == 1
        assert experiment.state.trials[0].status == "rejected"
        assert experiment.state.accepted == 1


def test_attempts_that_ended_with_their_driver_do_not_count(tmp_path: Path) -> None:
    config = toy_config(tmp_path, budget={"trials": 1})
    for attempt in range(1, 6):
        with toy_experiment(config) as experiment:  # it closes as after a kill: no event says that it ends
            job = experiment.next()
            assert job is not None and job.attempt == attempt
    with toy_experiment(config) as experiment:
        experiment.next()
        experiment.tell(0, 6, Result.failed("crash", "gone"))  # a worker that dies alone counts as before
        assert experiment.next() is not None
        experiment.tell(0, 7, Result.failed("crash", "gone"))
        assert experiment.next() is None and experiment.state.counts()["failed"] == 1


def test_a_trial_that_kills_every_driver_fails_at_last(tmp_path: Path) -> None:
    config = toy_config(tmp_path, budget={"trials": 2})
    for attempt in (1, 2, 3, 4):
        with toy_experiment(config, max_kills=3) as experiment:
            job = experiment.next()
            assert job is not None and (job.number, job.attempt) == (0, attempt)
            if attempt == 2:  # the count begins again
                experiment.report(0, attempt, 1, {"val/accuracy": 0.4})
    with toy_experiment(config, max_kills=3) as experiment:
        job = experiment.next()
        assert job is not None and job.number == 1
        result = experiment.state.trials[0].result
        assert result and result.error and result.error.cause == "crash" and "3 times" in result.error.message


def test_a_journal_of_schema_1_has_no_causes_so_there_a_kill_counts(tmp_path: Path) -> None:
    config = toy_config(tmp_path, budget={"trials": 2})
    with toy_experiment(config) as experiment:
        experiment.next()
    lines = [json.loads(line) for line in (config.folder / JOURNAL).read_text().splitlines()]
    lines[0]["schema"] = 1
    for line in lines:
        del line["at"]
    lines[1]["proposal"].pop("origin", None)
    (config.folder / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with toy_experiment(config) as experiment:
        experiment.next()
    with toy_experiment(config) as experiment:
        job = experiment.next()
        assert job is not None and job.number == 1
    assert not any(isinstance(event, Interrupted) for event in read_events(config.folder))


def test_an_interrupt_on_request_does_not_count(tmp_path: Path) -> None:
    config = toy_config(tmp_path, budget={"trials": 1})
    for attempt in range(1, 6):
        with toy_experiment(config) as experiment:
            job = experiment.next()
            assert job is not None and job.attempt == attempt
            experiment.interrupt()


def stop_while(kind: type[Event], experiment: Experiment) -> None:
    """Stop the search while it writes an event of this kind."""
    append = experiment.journal.append

    def stopped(event: Event) -> Event:
        if isinstance(event, kind):
            experiment.stop_now(KeyboardInterrupt("now"))
        return append(event)

    experiment.journal.append = stopped  # type: ignore[method-assign]


def test_a_stop_while_a_start_is_being_written_does_not_count_either(tmp_path: Path) -> None:
    config = toy_config(tmp_path, budget={"trials": 1})
    for _ in range(3):
        with toy_experiment(config) as experiment:
            stop_while(Started, experiment)
            with pytest.raises(KeyboardInterrupt):
                experiment.next()
            experiment.interrupt()
    with toy_experiment(config) as experiment:
        job = experiment.next()
        assert job is not None and job.attempt == 4, "never closed as crashed"


def test_a_stop_while_a_fault_is_being_written_does_not_take_it_back(tmp_path: Path) -> None:
    config = toy_config(tmp_path, budget={"trials": 1})
    with toy_experiment(config) as experiment:
        experiment.next()
        stop_while(Interrupted, experiment)
        with pytest.raises(KeyboardInterrupt):
            experiment.tell(0, 1, Result.failed("crash", "gone"))
        experiment.interrupt()
    assert [e.cause for e in read_events(config.folder) if isinstance(e, Interrupted)] == ["fault"]
    assert load_state(config.folder).trials[0].idle_attempts == 1


def test_stop_lets_running_work_finish_and_asks_nothing_more(tmp_path: Path) -> None:
    with toy_experiment(toy_config(tmp_path)) as experiment:
        job = experiment.next()
        assert job is not None
        experiment.stop()
        assert experiment.next() is None and experiment.running == 1
        experiment.tell(0, 1, finished(0.4))
        assert experiment.next() is None and experiment.running == 0


def test_budget_may_be_raised_afterwards(tmp_path: Path) -> None:
    with toy_experiment(toy_config(tmp_path, budget={"trials": 3})) as experiment:
        work(experiment)
    with toy_experiment(toy_config(tmp_path, budget={"trials": 5})) as experiment:
        work(experiment)
        assert experiment.state.counts()["finished"] == 5
    state = load_state(tmp_path / "toy")
    assert state.budget == Budget(trials=5)
    whole = toy_config(tmp_path, name="whole", budget={"trials": 5})
    with toy_experiment(whole) as experiment:
        work(experiment)
    assert proposals(tmp_path / "toy") == proposals(whole.folder)


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"seed": 1}, "seed"), ({"strategy": "evolution"}, "strategy.name"), ({"objectives": ["val/loss"]}, "objectives")],
)
def test_other_settings_under_the_same_name_are_refused(tmp_path: Path, settings: dict[str, Any], named: str) -> None:
    with toy_experiment(toy_config(tmp_path)) as experiment:
        work(experiment, 2)
    before = (tmp_path / "toy" / JOURNAL).read_bytes()
    with raises(JournalError, "changed", named, "--name"):
        toy_experiment(toy_config(tmp_path, **settings))
    assert (tmp_path / "toy" / JOURNAL).read_bytes() == before


def test_runner_tracking_and_budget_may_differ(tmp_path: Path) -> None:
    with toy_experiment(toy_config(tmp_path)) as experiment:
        work(experiment, 2)
    other = toy_config(tmp_path, runner="ray_tune", tracking_uri="sqlite:///x.db", budget={"trials": 99})
    with toy_experiment(other) as experiment:
        assert experiment.resumed


def with_weights(folder: Path, number: int) -> dict[str, Artifact]:
    path = folder / "artifacts" / str(number) / "attempt-1" / "weights.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"w")
    (path.parent.parent / "checkpoint.pt").write_bytes(b"c")
    return {"weights": Artifact(str(path.relative_to(folder)), "0", 1)}


def test_retention_keeps_the_best_weights_and_no_checkpoint(tmp_path: Path) -> None:
    config = toy_config(tmp_path, budget={"trials": 9})
    with toy_experiment(config, keep_weights=3) as experiment:
        while (job := experiment.next()) is not None:
            artifacts = with_weights(config.folder, job.number)
            experiment.tell(job.number, 1, finished(accuracy(job.number), artifacts=artifacts))
        best = [trial.number for trial in experiment.state.ranking()[:3]]
    kept = [int(path.parts[-3]) for path in config.folder.rglob("weights.safetensors")]
    assert sorted(kept) == sorted(best)
    assert not list(config.folder.rglob("checkpoint.pt"))


def test_test_part_is_opened_once_per_finalist(tmp_path: Path) -> None:
    config = toy_config(tmp_path)
    with toy_experiment(config) as experiment:
        work(experiment, 3)
    opened = []

    def measure() -> dict[str, float]:
        opened.append(1)
        return {"test/accuracy": 0.9}

    for _ in range(2):
        with reopen(config.folder) as experiment:
            assert experiment.open_test("a-seed0", measure) == {"test/accuracy": 0.9}
    assert len(opened) == 1
    assert load_state(config.folder).tests == {"a-seed0": {"test/accuracy": 0.9}}
    assert len(load_state(config.folder).trials) == 3, "reopening for finalists asks nothing"


def test_jobs_survive_json(tmp_path: Path) -> None:
    with toy_experiment(toy_config(tmp_path)) as experiment:
        job = experiment.next()
    assert job is not None and Job.from_json(job.to_json()) == job


@pytest.mark.parametrize(
    ("change", "key", "says"),
    [
        (lambda lines: lines[:3] + lines[4:], None, "'reported' of trial 0, attempt 1"),
        (lambda lines: lines[:2] + lines[3:], None, "'started' of trial 0, "),
        (lambda lines: lines[:1] + lines[8:], None, "'asked' of trial 1 "),
        (lambda lines: [*lines, lines[-1]], None, "'told' of trial 2, "),
        (lambda lines: [line.replace(b'"number":1', b'"number":"a"') for line in lines], "number", "a whole number"),
    ],
)
def test_lines_that_contradict_each_other_are_refused(tmp_path: Path, change: Any, key: str | None, says: str) -> None:
    config = toy_config(tmp_path, budget={"trials": 3})
    with toy_experiment(config) as experiment:
        run(experiment, Planted())
    path = config.folder / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(change(lines)))
    with raises(JournalError, "unreadable", key, f"{JOURNAL}:", says):
        load_state(config.folder)
    with raises(JournalError, "unreadable", key, says):
        toy_experiment(config)


def test_a_lost_attempt_is_not_listened_to(tmp_path: Path) -> None:
    with toy_experiment(toy_config(tmp_path)) as experiment:
        experiment.next()
        experiment.tell(0, 1, Result.failed("crash", "gone"))
        experiment.next()
        assert not experiment.report(0, 1, 1, {"val/accuracy": 0.9})
        experiment.tell(0, 1, finished(0.9))
        assert experiment.state.trials[0].result is None and not experiment.state.trials[0].steps


def test_a_failure_charges_what_its_reports_said(tmp_path: Path) -> None:
    config = toy_config(tmp_path, budget={"worker_seconds": 50})
    with toy_experiment(config) as experiment:
        while (job := experiment.next()) is not None:
            experiment.report(job.number, 1, 1, {"val/accuracy": 0.5, "time/worker_s": 20.0})
            experiment.tell(job.number, 1, Result.failed("error", "broke after its first epoch"))
        assert experiment.state.charged.worker_seconds == 60 and len(experiment.state.trials) == 3


def test_a_metric_that_nobody_reports_ends_the_search(tmp_path: Path) -> None:
    config = toy_config(tmp_path, objectives=["val/precision"], budget={"trials": 40})
    with toy_experiment(config) as experiment, raises(SearchError, "failed", None, 6, "val/precision"):
        run(experiment, Planted())


def test_retention_follows_the_ranking_with_targets(tmp_path: Path) -> None:
    config = toy_config(tmp_path, budget={"trials": 9}, targets=["params<=4"])
    check = lambda proposal: {"cost/params": float(proposal.architecture.values["model.depth"])}  # noqa: E731
    with toy_experiment(config, keep_weights=2, check=check) as experiment:
        while (job := experiment.next()) is not None:
            artifacts = with_weights(config.folder, job.number)
            experiment.tell(job.number, 1, finished(accuracy(job.number), artifacts=artifacts))
        best = experiment.state.ranking()[0]
        highest = max(experiment.state.finished(), key=lambda trial: trial.metrics["val/accuracy"])
    assert best.costs["cost/params"] <= 4 and best.number != highest.number, "the case must tell the two orders apart"
    assert (config.folder / best.result.artifacts["weights"].path).exists()  # type: ignore[union-attr]


def test_a_signal_waits_for_the_event_that_is_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    config = toy_config(tmp_path, budget={"trials": 3})
    with toy_experiment(config) as experiment:
        experiment.next()
        really = os.fsync

        def interrupted(handle: int) -> None:
            really(handle)
            experiment.stop_now(KeyboardInterrupt("now"))

        monkeypatch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            experiment.tell(0, 1, finished(0.5))
        monkeypatch.undo()
        assert experiment.closed(0)
        experiment.interrupt()
    kinds = [event.kind for event in read_events(config.folder)]
    assert kinds == ["header", "asked", "checked", "started", "told"]


def test_a_broken_tracker_is_dropped_and_the_search_goes_on(tmp_path: Path) -> None:
    class Broken:
        heard = 0

        def on_event(self, event: Any) -> None:
            self.heard += 1
            raise RuntimeError("tracker broke")

    broken = Broken()
    config = toy_config(tmp_path, budget={"trials": 3})
    with pytest.warns(UserWarning, match="tracker broke"), toy_experiment(config, trackers=[broken]) as experiment:
        run(experiment, Planted())
        assert experiment.state.counts()["finished"] == 3
    assert broken.heard == 1


def test_a_crash_while_the_test_split_is_open_stays_on_record(tmp_path: Path) -> None:
    config = toy_config(tmp_path)
    with toy_experiment(config) as experiment:
        work(experiment, 1)
    with reopen(config.folder) as experiment, pytest.raises(MemoryError):
        experiment.open_test("a-seed0", lambda: (_ for _ in ()).throw(MemoryError()))
    assert load_state(config.folder).tests == {"a-seed0": {}}, "opened, and nobody knows what was seen"
    with reopen(config.folder) as experiment:
        assert experiment.open_test("a-seed0", lambda: {"test/accuracy": 0.5}) == {"test/accuracy": 0.5}


def test_trial_numbers_and_attempts_are_the_only_state_of_started(tmp_path: Path) -> None:
    with toy_experiment(toy_config(tmp_path, budget={"trials": 3})) as experiment:
        work(experiment)
    started = [(e.number, e.attempt) for e in read_events(tmp_path / "toy") if isinstance(e, Started)]
    assert started == [(0, 1), (1, 1), (2, 1)]
