"""Every verb reads a journal once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from expecting import raises

import nasforge
from nasforge.api.compare.campaign import read_search, run_search
from nasforge.cli.app import main
from nasforge.core.errors import SearchError
from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.experiment import journal
from nasforge.experiment.state import load_state
from nasforge.settings.experiment import resolve
from nasforge.views import reader

SPACE = SearchSpace("small", (Decision("model.width", Choice(tuple(range(20)))),))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Experiment -> how often the second line of its journal was read; headers may be read alone."""
    counts = Counter[str]()
    real = journal.parse

    def parse(path: Path, number: int, line: bytes) -> Any:
        counts[path.parent.name] += number == 2
        return real(path, number, line)

    monkeypatch.setattr(journal, "parse", parse)
    monkeypatch.setattr(reader, "parse", parse)
    return counts


def settings(folder: Path, trials: int, name: str = "first", **more: Any) -> dict[str, Any]:
    table = folder / "table.csv"
    table.write_text("width,accuracy\n" + "".join(f"{width},{width / 20}\n" for width in range(20)))
    evaluator = {"name": "lookup_table", "path": str(table), "signal": "accuracy"}
    place = {"runs_dir": str(folder / "runs"), "tracking_uri": "none", "runner": "local", "name": name}
    return {"space": SPACE, "evaluator": evaluator, "strategy": "random", "budget": {"trials": trials}, **place, **more}


def test_every_verb_reads_a_journal_once(tmp_path: Path, reads: Counter[str]) -> None:
    runs = tmp_path / "runs"
    nasforge.search(**settings(tmp_path, 3))
    assert not reads
    nasforge.search(**settings(tmp_path, 5))
    assert reads.pop("first") == 1
    nasforge.search(**settings(tmp_path, 3, "second", seed=1, start_from=str(runs / "first")))
    assert reads == {"first": 1}
    reads.clear()
    nasforge.compare(experiments=["first", "second"], runs_dir=runs, tracking_uri="none")
    assert reads == {"first": 1, "second": 1}
    reads.clear()
    for words in (["show", "first"], ["show", "first", "--trial", "0", "--rerun"], ["list"]):
        assert main([*words, "--runs-dir", str(runs)]) == 0
        assert reads.pop("first") == 1
    with raises(SearchError, "unsupported"):
        nasforge.retrain(runs / "first")
    assert reads.pop("first") == 1


def test_a_campaign_reads_the_journal_of_a_search_that_it_runs_before_the_search_alone(
    tmp_path: Path, reads: Counter[str]
) -> None:
    config = settings(tmp_path, 3)
    outcome = run_search(resolve(config))
    assert not reads, "a search of its own is known without its journal"
    longer = resolve({**config, "budget": {"trials": 5}})
    extended = run_search(longer)
    assert reads.pop("first") == 2, "once without a lock, whether it is finished, and once to continue it"
    for run, trials in ((outcome, 3), (extended, 5)):
        assert run.trajectory is not None and len(run.trajectory.points) == trials
    assert run_search(longer).trajectory == extended.trajectory == read_search(longer.folder)
    assert reads.pop("first") == 2, "once by each of the two"


def test_the_configuration_of_a_state_is_parsed_once_and_follows_its_events(tmp_path: Path) -> None:
    nasforge.search(**settings(tmp_path, 3))
    folder = tmp_path / "runs" / "first"
    nasforge.search(**settings(tmp_path, 5))
    state = load_state(folder)
    assert state.config is state.config
    assert state.config.folder == folder and state.config.space == SPACE
    assert state.config.budget == state.budget and state.budget.trials == 5
    assert load_state(folder).config == state.config
