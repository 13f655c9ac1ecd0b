"""The bridge between Tune and an experiment, where workers die while they start. Tune is played, so no Ray starts."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from expecting import raises
from ray.tune.search import Searcher

from nasforge.core.errors import SearchError
from nasforge.core.trial import Result
from nasforge.experiment.journal import dumps
from nasforge.runners.ray_tune.bridge import Bridge
from nasforge.testing.toys import toy_config, toy_experiment

READY = dumps({"problem": ""})
STOPPED = "STOP"


class Search:
    """A search on workers, of which the test says how each gets on."""

    def __init__(self, experiment: Any, workers: int) -> None:
        self.notes: list[str] = []
        joined = SimpleNamespace(lost="", keep_logs=lambda: Path("/logs"))
        self.bridge = Bridge(experiment, workers, joined, self.notes.append)  # type: ignore[arg-type]
        self.trials = 0

    def ask(self) -> tuple[str, Any]:
        """Return the next trial of Tune, and its config."""
        self.trials += 1
        return str(self.trials), self.bridge.suggest(str(self.trials))

    def start(self) -> str:
        """Start a worker of the warm-up."""
        trial, config = self.ask()
        assert config["number"] < 0
        return trial

    def dies(self) -> None:
        self.bridge.complete(self.start(), None)

    def waits(self, trial: str) -> bool:
        return self.bridge.warm(trial, READY) != STOPPED


@pytest.fixture
def search(tmp_path: Path) -> Any:
    with toy_experiment(toy_config(tmp_path, budget={"trials": 6})) as experiment:
        yield lambda workers: Search(experiment, workers)


def test_five_deaths_in_a_row_end_a_search_in_which_no_worker_has_started(search: Any) -> None:
    played = search(2)
    for _ in range(5):
        assert played.bridge.error is None
        played.dies()
    with raises(SearchError, "failed", None, "5 worker processes", "/logs"):
        raise played.bridge.error


def test_a_worker_that_waits_counts_once(search: Any) -> None:
    """So a node on which every worker dies does not keep the others waiting until the warm-up is over."""
    played = search(3)
    first, second = played.start(), played.start()
    assert played.waits(first) and played.waits(second)
    for _ in range(5):
        assert played.waits(first) and played.waits(second) and not played.notes
        played.dies()
    assert played.bridge.error is None
    assert len(played.notes) == 1 and "2 of 3 workers" in played.notes[0] and "/logs" in played.notes[0]
    assert not played.waits(first), "the search begins"


def test_replacements_that_die_leave_a_working_worker_at_work(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    played = search(2)
    first = played.start()
    assert played.waits(first)
    monkeypatch.setattr("nasforge.runners.ray_tune.bridge.WARM_UP_S", -1.0)
    assert not played.waits(first), "the warm-up is over"
    played.bridge.complete(first, None)
    for _ in range(5):
        played.dies()
    assert played.bridge.error is None and len(played.notes) == 1 and "1 of 2 workers" in played.notes[0]
    done = 0
    while (asked := played.ask())[1] != Searcher.FINISHED:
        assert played.ask()[1] is None, "one worker, one trial at a time"
        played.bridge.complete(asked[0], dumps(Result("finished", {"val/accuracy": 0.5}).to_json()))
        done += 1
    assert played.bridge.error is None and done == 6 and len(played.notes) == 1


def test_deaths_between_workers_that_start_are_not_in_a_row(search: Any) -> None:
    played = search(4)
    for _ in range(3):
        for _ in range(4):
            played.dies()
        assert played.waits(played.start())
    assert played.bridge.error is None and not played.notes
