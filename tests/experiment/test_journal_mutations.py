"""A journal with any value changed to any other one is read, or refused with its file and line; nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
from expecting import raises
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nasforge.api.listing import listing
from nasforge.core.architecture import Architecture
from nasforge.core.errors import JournalError
from nasforge.core.events import Ended, Extended, Header, Interrupted, Moved, TestOpened
from nasforge.core.layout import JOURNAL
from nasforge.core.trial import Artifact, Charge, Forecast, Measure, Origin, Proposal, Result, Score, TrainShared
from nasforge.experiment.experiment import Experiment
from nasforge.experiment.journal import read_events
from nasforge.experiment.state import load_state
from nasforge.testing.toys import nested_space, toy_config
from nasforge.views import forecasts, policies, tables

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.just({"$float": "nan"}),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
Place = tuple[str | int, ...]


class _Everything:
    """Asks for one trial of every kind."""

    def __init__(self) -> None:
        space = nested_space()
        point, other = space.default_point(), space.point({**space.default_point().values, "model.depth": 2})
        weights = Artifact("artifacts/0/attempt-1/weights.safetensors", "0" * 64, 3)
        alphas = {"model.width": (0.1, 0.2, 0.3, 0.4)}
        self.asks: list[Proposal] = [
            Measure(point, origin=Origin(operator="start", policy={"model.width": (0.1, 0.2, 0.3, 0.4)})),
            Measure(other, rung=0, weights=weights, origin=Origin((0,), "mutation", 0, "evolution")),
            TrainShared(space, "softmax", 2, weights, (point,), alphas, {"cost/flops": 0.1}, {"temperature": 1.0}),
            Measure(Architecture({"model.block": "identity", "model.depth": 1, "model.width": 8}, "same")),
            Score((point, other), origin=Origin(forecast=Forecast(1.5, 0.25))),
        ]

    def ask(self, number: int) -> Proposal | None:
        return self.asks[number] if number < len(self.asks) else None

    def recall(self, number: int, proposal: Proposal) -> None:
        pass

    def tell(self, number: int, result: Result) -> None:
        pass


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The lines of a journal with every kind of event, field and result."""
    config = toy_config(
        tmp_path_factory.mktemp("runs"),
        objectives=["val/accuracy", "cost/flops"],
        constraints=["params<=5"],
        targets=["flops<=9"],
        ladder=[{"epochs": 1, "share": 0.5}, {"epochs": 3}],
    )

    def check(proposal: Proposal) -> dict[str, float]:
        depth = proposal.architecture.values["model.depth"] if isinstance(proposal, Measure) else 0
        return {"cost/params": 9.0 if depth == 1 else 1.0, "cost/flops": 10.0}

    header = Header(2, config.name, config.to_json(), config.space.fingerprint, 0, {"torch": "2.11"}, "abc")
    metrics = {"val/accuracy": 0.5, "val/loss": float("nan"), "time/worker_s": 1.0}
    files = {"weights": Artifact("artifacts/0/attempt-1/weights.safetensors", "0" * 64, 3)}
    rows = {"model.width": (0.1, 0.2, 0.3, 0.4)}
    with Experiment(config.folder, header, _Everything(), check=check) as experiment:
        for _ in range(4):
            job = experiment.next()
            assert job is not None
            experiment.report(job.number, 1, 1, metrics, rows if job.number == 2 else None)
            outcomes = {
                0: Result("finished", metrics, None, 3, Charge(1.0, 5.0), files),
                1: Result.failed("diverged", "it is NaN", "lower the rate"),
                2: Result("finished", alphas=rows),
                4: Result("finished", metrics, scores=(metrics, metrics)),
            }
            experiment.tell(job.number, 1, outcomes[job.number])
        for event in (
            Interrupted(1, 1),
            Interrupted(1, 1, "kill"),
            Extended({"trials": 9.0}),
            Moved({"data": {"source": "digits"}, "evaluator": {"name": "training", "options": {}}}),
            Ended("strategy"),
            TestOpened("best", {}),
            TestOpened("best", {"test/accuracy": 0.5}),
        ):
            experiment.journal.append(event)
    return [json.loads(line) for line in (config.folder / JOURNAL).read_text().splitlines()]


def _places(content: Any, place: Place = ()) -> list[Place]:
    """Where the values of a nested content are, inner ones too."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [place, *(inside for key, value in inner for inside in _places(value, (*place, key)))]


def _changed(content: Any, place: Place, value: Any) -> Any:
    if not place:
        return value
    copy = dict(content) if isinstance(content, dict) else list(content)
    copy[place[0]] = _changed(content[place[0]], place[1:], value)
    return copy


def _written(folder: Path, lines: list[Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def _read(folder: Path) -> None:
    """Read as `show` and the list of experiments do."""
    try:
        read_events(folder)
        state = load_state(folder)
    except JournalError as error:
        assert f"{JOURNAL}:" in str(error) or "schema version" in str(error), f"no file and line: {error}"
        assert [(row["name"], row["state"]) for row in listing(folder.parent)] == [(folder.name, "broken")]
        return
    tables.summary(state), tables.leaderboard(state), tables.pareto_front(state)
    noted, outcomes = policies.policies_of(state), forecasts.outcomes_of(state)
    policies.entropy_chart(noted), policies.most_decided(noted), forecasts.coverage(outcomes)
    tables.failures(state), tables.best_so_far(state), tables.learning_curves(state), tables.steps_of(state)


def test_the_journal_itself_is_read(lines: list[Any], tmp_path: Path) -> None:
    counts = load_state(_written(tmp_path / "a", lines)).counts()
    assert counts == {"finished": 3, "pruned": 0, "failed": 1, "rejected": 1, "running": 0}
    assert {line["event"] for line in lines} >= {"header", "reported", "interrupted", "extended", "test_opened"}


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_value_changed_to_any_other(lines: list[Any], tmp_path: Path, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(lines) - 1))
    place = data.draw(st.sampled_from(_places(lines[index])))
    value = data.draw(_JSON)
    _read(_written(tmp_path / "a", [*lines[:index], _changed(lines[index], place, value), *lines[index + 1 :]]))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
@example(data=None)
def test_lines_left_out_doubled_and_swapped(lines: list[Any], tmp_path: Path, data: st.DataObject | None) -> None:
    order = list(range(len(lines)))
    if data is not None:
        order = data.draw(st.lists(st.sampled_from(order), min_size=1, max_size=len(order) + 2))
    _read(_written(tmp_path / "a", [lines[index] for index in order]))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("recipe",), [[1]]),
        (("seed",), None),
        (("ladder",), []),
        (("runner", "name"), 3),
        (("runner",), None),
        (("space", "defaults"), 1.5),
        *((((kind, "options"), None)) for kind in ("strategy", "evaluator", "pruner", "runner")),
    ],
    ids=str,
)
def test_a_configuration_that_a_page_could_not_show_is_refused(
    lines: list[Any], tmp_path: Path, place: Place, value: Any
) -> None:
    changed = _changed(lines[0], ("config", *place), value)
    with raises(JournalError, "unreadable", None, f"{JOURNAL}:1"):
        load_state(_written(tmp_path / "a", [changed, *lines[1:]]))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("strategy",), {"name": "random", "extra": 1}),
        (("data",), {"foo": 1}),
        (("tracking_uri",), ...),
        (("recipe",), ...),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_run_is_refused_when_it_is_needed(
    lines: list[Any], tmp_path: Path, place: Place, value: Any
) -> None:
    changed = _changed(lines[0], ("config", *place), value)
    if value is ...:
        del changed["config"][place[0]]
    state = load_state(_written(tmp_path / "a", [changed, *(line for line in lines[1:] if line["event"] != "moved")]))
    with raises(JournalError, "unreadable", None, f"{JOURNAL}:1"):
        _ = state.config


def test_every_value_changed_to_what_is_most_often_wrong(lines: list[Any], tmp_path: Path) -> None:
    wrong = (None, True, -1, 1.5, float("nan"), float("inf"), 10**400, "x", "", [], {}, [None], {"x": None}, [[1]])
    for index, line in enumerate(lines):
        places = _places(line) if index else [place for place in _places(line) if "space" not in place]
        for number, place in enumerate(places):
            # A few of them each time keep this test short; over all places all are tried.
            for value in wrong[number % 7 :: 7]:
                _read(_written(tmp_path / "a", [*lines[:index], _changed(line, place, value), *lines[index + 1 :]]))
