"""What evaluators, strategies and checks must not say: a failed trial or one clear error, never a spoilt folder."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from expecting import raises

from nasforge.api.listing import listing
from nasforge.cli.app import main
from nasforge.core.architecture import Architecture
from nasforge.core.errors import DataError, JournalError, SearchError
from nasforge.core.layout import JOURNAL
from nasforge.core.trial import Artifact, Charge, Failure, Measure, Origin, Proposal, Result
from nasforge.experiment.experiment import Experiment
from nasforge.experiment.journal import read_events
from nasforge.experiment.state import load_state
from nasforge.runners.local import run
from nasforge.testing.toys import Planted, toy_config, toy_experiment

FINE = {"val/accuracy": 0.5}


def _answering(answer: Any) -> Callable[[Proposal, Any], Any]:
    return lambda proposal, report: answer if report.number % 2 else Result("finished", FINE, steps_done=3)


def _reporting(*arguments: Any) -> Callable[[Proposal, Any], Any]:
    def evaluator(proposal: Proposal, report: Any) -> Result:
        report(1, FINE)
        if report.number % 2:
            report(*arguments)
        return Result("finished", FINE, steps_done=3)

    return evaluator


def _heedless(proposal: Proposal, report: Any) -> Result:
    try:
        report("one", FINE)
    except Exception:  # as many trainings have it
        assert not report(2, FINE)
    return Result("finished", FINE, steps_done=3)


@pytest.mark.parametrize(
    ("evaluator", "says"),
    [
        (_answering(Result("great", FINE)), "status must be one of"),  # type: ignore[arg-type]
        (_answering(Result("failed")), "with no error"),
        (_answering(Result("failed", error=Failure("gremlins", "x"))), "cause must be one of"),  # type: ignore[arg-type]
        (_answering(Result("rejected", {"constraint/violation": 1.0})), "'rejected' of a proposal that was accepted"),
        (_answering(Result("finished", FINE, charged=Charge(-5.0))), "worker_seconds must be a finite"),
        (_answering(Result("finished", FINE, charged=Charge(math.nan))), "worker_seconds must be a finite"),
        (_answering(Result("finished", {**FINE, "note": "good"})), "metrics.note must be a number"),  # type: ignore[dict-item]
        (_answering(Result("finished", FINE, steps_done=1.5)), "steps_done must be"),  # type: ignore[arg-type]
        (_answering(Result("pruned", FINE, (1.0, 2.0))), "2 values of 1 objective"),
        (_answering(Result("finished", FINE, artifacts={"w": Artifact("/etc/passwd", "", 1)})), "below artifacts/"),
        (_answering({"val/accuracy": 1.0}), "must be a nasforge.core.trial.Result, got dict"),
        (_reporting("2", FINE), "step must be a whole number"),
        (_reporting(1.5, FINE), "step must be a whole number"),
        (_reporting(0, FINE), "step 0 after step 1"),
        (_reporting(2, {"time/worker_s": math.nan}), "time/worker_s must be a finite"),
        (_reporting(2, {"val/accuracy": None}), "metrics.val/accuracy must be a number"),
        (_reporting(2, {7: 0.5}), "metrics needs texts"),
        (_reporting(2, FINE, {"model.width": "wide"}), "alphas.model.width must be a list"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_evaluators_wrong_word_is_a_failed_trial(tmp_path: Path, evaluator: Any, says: str) -> None:
    config = toy_config(tmp_path, budget={"trials": 4})
    with toy_experiment(config) as experiment:
        run(experiment, evaluator)
        charged = experiment.state.charged.worker_seconds
    state = load_state(config.folder)
    assert [trial.status for trial in state.trials.values()] == ["finished", "failed"] * 2
    error = state.trials[1].result and state.trials[1].result.error
    assert error and error.cause == "error" and says in error.message, error
    assert state.charged.worker_seconds == charged >= 0
    with toy_experiment(toy_config(tmp_path, budget={"trials": 6})) as experiment:
        run(experiment, Planted())
        assert experiment.state.counts()["finished"] == 4


def test_a_wrong_word_counts_even_where_the_evaluator_does_not_heed_it(tmp_path: Path) -> None:
    with toy_experiment(toy_config(tmp_path, budget={"trials": 1})) as experiment:
        run(experiment, _heedless)
        trial = experiment.state.trials[0]
    assert trial.status == "failed" and not trial.steps


def test_runners_of_ones_own_meet_the_same_checks(tmp_path: Path) -> None:
    with toy_experiment(toy_config(tmp_path, budget={"trials": 2})) as experiment:
        job = experiment.next()
        assert job is not None and experiment.report(0, 1, np.int64(1), {"val/accuracy": np.float32(0.5)})  # type: ignore[arg-type]
        assert not experiment.report(0, 1, 2, {"time/worker_s": -1.0})
        assert experiment.closed(0) and experiment.next() is not None
        experiment.tell(1, 1, "done")  # type: ignore[arg-type]
        states = [trial.status for trial in experiment.state.trials.values()]
    assert states == ["failed", "failed"]
    assert load_state(tmp_path / "toy").trials[0].steps[0].metrics == {"val/accuracy": 0.5}


def test_numpy_numbers_are_plain_numbers(tmp_path: Path) -> None:
    def evaluator(proposal: Proposal, report: Any) -> Result:
        for step in np.arange(1, 4):
            report(step, {"val/accuracy": np.float32(0.5), "time/worker_s": np.int64(step)})
        return Result("finished", {"val/accuracy": np.float64(0.5)}, steps_done=step, charged=Charge(np.float32(3)))  # type: ignore[arg-type]

    with toy_experiment(toy_config(tmp_path, budget={"trials": 2})) as experiment:
        run(experiment, evaluator)
    assert load_state(tmp_path / "toy").counts()["finished"] == 2


class _Asking:
    """A strategy that asks for the same thing again and again."""

    def __init__(self, proposal: Any) -> None:
        self.proposal = proposal

    def ask(self, number: int) -> Any:
        return self.proposal

    def recall(self, number: int, proposal: Proposal) -> None: ...

    def tell(self, number: int, result: Result) -> None: ...


def _asking(folder: Path, proposal: Any) -> Experiment:
    config = toy_config(folder)
    header = read_header(folder)
    return Experiment(config.folder, header, _Asking(proposal), check=lambda proposal: {})


def read_header(folder: Path) -> Any:
    with toy_experiment(toy_config(folder)) as experiment:
        return experiment.state.header


@pytest.mark.parametrize(
    ("proposal", "says"),
    [
        ("random", "a Measure"),
        (Measure(Architecture({"model.width": np.int64(8)})), "architecture.model.width"),  # type: ignore[dict-item]
        (Measure(Architecture({"model.width": 8}), rung=2), "rung 2, but the ladder has 2"),
        (Measure(Architecture({"model.width": 8}), weights=Artifact("../../x", "", 1)), "below artifacts/"),
        (Measure(Architecture({"model.width": 8}), origin=Origin((3,))), "parents 3"),
    ],
    ids=str,
)
def test_a_strategys_wrong_word_is_one_clear_error(tmp_path: Path, proposal: Any, says: str) -> None:
    with _asking(tmp_path, proposal) as experiment, raises(SearchError, "invalid", "strategy", "trial 0", says):
        experiment.next()
    assert len(read_events(tmp_path / "toy")) == 1
    with toy_experiment(toy_config(tmp_path, budget={"trials": 2})) as experiment:
        run(experiment, Planted())
        assert experiment.state.counts()["finished"] == 2


@pytest.mark.parametrize(
    "costs", [{}, {"cost/params": math.nan}, {"cost/params": "few"}, {"cost/params": None}, None, 3]
)
def test_a_check_that_gives_no_costs_fails_its_trials(tmp_path: Path, costs: Any) -> None:
    config = toy_config(tmp_path, constraints=["params<=10"])
    unchecked = toy_experiment(config, check=lambda proposal: costs, max_unbuildable_in_a_row=3)
    with unchecked as experiment, raises(SearchError, "empty", "evaluator", 3):
        experiment.next()
    with toy_experiment(config, check=lambda proposal: {"cost/params": 1.0}) as experiment:
        run(experiment, Planted())
    assert load_state(config.folder).counts()["finished"] == 12


def test_a_long_message_is_written_once_and_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def evaluator(proposal: Proposal, report: Any) -> Result:
        raise ValueError("x" * 5_000_000)

    config = toy_config(tmp_path)
    with toy_experiment(config) as experiment, pytest.raises(SearchError) as error:
        run(experiment, evaluator)
    assert len(str(error.value)) < 20_000
    assert (config.folder / JOURNAL).stat().st_size < 100_000
    assert main(["show", "toy", "--runs-dir", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out) < 200_000


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "mine"
    outside.mkdir()
    (outside / "checkpoint.pt").write_text("mine")
    config = toy_config(tmp_path / "runs", budget={"trials": 1})
    with toy_experiment(config) as experiment:
        job = experiment.next()
        assert job is not None
        (config.folder / "artifacts").mkdir()
        (config.folder / "artifacts" / "0").symlink_to(outside)
        with raises(DataError, "untrusted", None, "artifacts/0"):
            experiment.tell(0, 1, Result("finished", FINE, steps_done=3))
    assert (outside / "checkpoint.pt").read_text() == "mine"
    assert load_state(config.folder).counts()["finished"] == 1


@pytest.mark.parametrize("path", ["../../mine", "artifacts/../../../mine", "ABSOLUTE"])
def test_a_journal_deletes_no_file_outside_its_artifacts(tmp_path: Path, path: str) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    path = str(mine) if path == "ABSOLUTE" else path
    config = toy_config(tmp_path / "runs")
    with toy_experiment(config) as experiment:
        for number in range(8):
            job = experiment.next()
            assert job is not None
            kept = {"weights": Artifact(f"artifacts/{number}/w", "", 1)}
            experiment.tell(number, 1, Result("finished", FINE, steps_done=3, artifacts=kept))
    journal = config.folder / JOURNAL
    journal.write_text(journal.read_text().replace("artifacts/0/w", path))
    for opened in (lambda: toy_experiment(config), lambda: load_state(config.folder)):
        with raises(JournalError, "unreadable", "artifacts.weights.path", "journal.jsonl:5:"):
            opened()
    assert mine.read_text() == "mine"


def test_one_bad_folder_is_one_bad_row(tmp_path: Path) -> None:
    for name in ("good", "bad", "worse", "empty", "bytes"):
        with toy_experiment(toy_config(tmp_path, name=name, budget={"trials": 1})) as experiment:
            run(experiment, Planted())
    for name, old, new in (("bad", '"steps_done":3', '"steps_done":"3"'), ("worse", '"name":"random"', '"name":7')):
        journal = tmp_path / name / JOURNAL
        journal.write_text(journal.read_text().replace(old, new))
    (tmp_path / "empty" / JOURNAL).write_text("")
    (tmp_path / "bytes" / JOURNAL).write_bytes(b"\xff\xfe\n")
    rows = {row["name"]: row["problem"] for row in listing(tmp_path)}
    assert rows["good"] == "" and "journal.jsonl:8: " in rows["bad"] and "journal.jsonl:1: " in rows["worse"]
    assert "empty" in rows["empty"] and "journal.jsonl:1: " in rows["bytes"]


def test_a_copy_is_called_by_its_folders_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with toy_experiment(toy_config(tmp_path, name="a", budget={"trials": 1})) as experiment:
        run(experiment, Planted())
    (tmp_path / "a").rename(tmp_path / "b")
    assert main(["show", "b", "--runs-dir", str(tmp_path)]) == 0
    assert "\nb: 1 finished" in capsys.readouterr().out


def test_a_strategy_that_cannot_follow_its_journal_names_the_line(tmp_path: Path) -> None:
    config = toy_config(tmp_path, budget={"trials": 2}, strategy="evolution")
    with toy_experiment(config) as experiment:
        run(experiment, Planted())
    journal = config.folder / JOURNAL
    journal.write_text(journal.read_text().replace('"kind":"measure"', '"kind":"measured"'))
    with raises(JournalError, "unreadable", None, "journal.jsonl:2:"):
        toy_experiment(config)


def test_a_check_that_failed_before_a_kill_and_passes_after_it(tmp_path: Path) -> None:
    config = toy_config(tmp_path, budget={"trials": 2})
    with toy_experiment(config) as experiment:
        run(experiment, Planted())
    journal = config.folder / JOURNAL
    lines = journal.read_text().splitlines(keepends=True)
    failed = next(index for index, line in enumerate(lines) if '"checked","number":1' in line)
    journal.write_text(
        "".join(lines[: failed + 1]).replace('1,"costs":{},"verdict":"accepted"', '1,"costs":{},"verdict":"failed"')
    )
    with toy_experiment(config) as experiment:
        run(experiment, Planted())
    assert load_state(config.folder).trials[1].status == "failed"
    assert load_state(config.folder).counts()["finished"] == 2
