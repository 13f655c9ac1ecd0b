"""Campaigns: the syntax of strategies, what is run, what is skipped, what a kill costs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from expecting import raises
from waiting import wait_until

import nasforge
from nasforge.api.compare import campaign, compare
from nasforge.api.compare.campaign import folder_name, parse_strategies
from nasforge.core.about import About
from nasforge.core.errors import ConfigError, JournalError
from nasforge.core.events import Asked
from nasforge.experiment.journal import read_events
from nasforge.experiment.state import load_state
from nasforge.settings.experiment import Named
from nasforge.testing.journals import comparable_events
from nasforge.testing.toys import nested_space
from nasforge.views.comparison_records import Comparison
from nasforge.views.groups import label_of

HERE = Path(__file__).parents[2]


def test_syntax_of_strategies() -> None:
    comparison = parse_strategies("random, evolution(sample=3,elitist=true),optuna(sampler=tpe),local_search()")
    assert comparison == [
        Named("random"),
        Named("evolution", {"sample": 3, "elitist": True}),
        Named("optuna", {"sampler": "tpe"}),
        Named("local_search"),
    ]
    assert parse_strategies(["random", {"name": "evolution", "sample": 3}]) == [
        Named("random"),
        Named("evolution", {"sample": 3}),
    ]
    assert parse_strategies("optuna(options=[1,2])")[0].options == {"options": [1, 2]}
    assert label_of(comparison[1]) == "evolution(elitist=true,sample=3)"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "empty"),
        ("evolution(3)", "type"),
        ("evolution(sample=3", "type"),
        ("evolution)", "type"),
        ("a b", "type"),
        ("random,random", "duplicate"),
    ],
)
def test_syntax_errors(text: str, kind: str) -> None:
    with raises(ConfigError, kind, "strategies", "--strategies"):
        parse_strategies(text)


def test_unknown_strategy_has_a_suggestion() -> None:
    with raises(ConfigError, "unknown", "strategy", "did you mean 'evolution'"):
        parse_strategies("evolutoin")


def test_folders_of_variants_differ() -> None:
    variants = [
        Named("optuna"),
        Named("optuna", {"a": 1}),
        Named("optuna", {"a": "1,b=2"}),
        Named("optuna", {"a": 1, "b": 2}),
        Named("optuna", {"a": "x" * 200}),
        Named("optuna", {"a": "x" * 200 + "y"}),
        Named("optuna", {"a": -1}),
        Named("optuna", {"a": {"b": 1}}),
    ]
    names = [folder_name(named, 3) for named in variants]
    assert len(set(names)) == len(names)
    assert names[:2] == ["optuna-s3", "optuna-a-1-s3"]
    for name in names:
        nasforge.settings.experiment.check_experiment_name(name)


def run(folder: Path, strategies: Any = "evolution", *, table: str = "Table", **settings: Any) -> Comparison:
    options = {"seeds": 2, "budget": {"trials": 6}, "tracking_uri": "none", "epochs": 1, "name": "camp", **settings}
    evaluator = {"name": f"compare_toys:{table}", **options.pop("evaluator", {})}
    return compare(strategies=strategies, space=nested_space(), evaluator=evaluator, runs_dir=folder, **options)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A headless browser takes seconds; tests/views/test_comparison.py takes the picture."""
    monkeypatch.setattr("nasforge.views.comparison_page.write_picture", lambda comparison, path: None)
    monkeypatch.syspath_prepend(str(HERE))


def journals(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in folder.glob("camp/*/journal.jsonl")}


def events(folder: Path) -> dict[str, list[Any]]:
    return {path.parent.name: comparable_events(path.parent) for path in folder.glob("camp/*/journal.jsonl")}


def test_random_is_always_in(tmp_path: Path) -> None:
    comparison = run(tmp_path, "evolution,evolution(sample=3)")
    assert list(comparison.strategies) == ["random", "evolution", "evolution(sample=3)"]
    assert sorted(journals(tmp_path)) == [
        "evolution-s0", "evolution-s1", "evolution-sample-3-s0", "evolution-sample-3-s1", "random-s0", "random-s1",
    ]  # fmt: skip
    assert comparison.optimum == 0.75 and {one.label for one in comparison.to_optimum} == set(comparison.strategies)
    assert {row.quantity for row in comparison.rows} == {"signal", "final"}


def test_files_hold_what_is_returned(tmp_path: Path) -> None:
    comparison = run(tmp_path)
    content = json.loads((tmp_path / "camp" / "comparison.json").read_text())
    assert content["rows"][0]["values"] == comparison.rows[0].values and content["axis"] == "trials"
    assert 10_000 < (tmp_path / "camp" / "comparison.html").stat().st_size < 200_000


def test_final_figures_never_enter_a_journal(tmp_path: Path) -> None:
    comparison = run(tmp_path)
    finals = {f"{value:.9g}"[:8] for row in comparison.rows if row.quantity == "final" for value in row.values}
    for content in journals(tmp_path).values():
        assert not any(value.encode() in content for value in finals)


def test_same_call_does_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, before = run(tmp_path), journals(tmp_path)
    monkeypatch.setattr(campaign, "search", lambda *a, **k: pytest.fail("a finished search was opened"))
    assert run(tmp_path) == first and journals(tmp_path) == before


def test_answers_that_cost_nothing_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that needs 5 ms per event would take an hour for 2,000 searches of a table."""
    waits: list[int] = []
    monkeypatch.setattr("nasforge.experiment.journal.os.fsync", waits.append)
    run(tmp_path / "instant", seeds=1)
    assert len(waits) == 2, "once per search, when its journal is closed"
    waits.clear()
    monkeypatch.setattr("compare_toys.Table.about", About())
    run(tmp_path / "trained", seeds=1)
    assert len(waits) > 2 * 6 * 4


def test_more_trials_continue_every_search(tmp_path: Path) -> None:
    run(tmp_path)
    before = journals(tmp_path)
    comparison = run(tmp_path, budget={"trials": 9})
    assert comparison.end == 9
    assert all(
        content.startswith(before[name]) and content != before[name] for name, content in journals(tmp_path).items()
    )


def test_more_seeds_leave_the_first_ones(tmp_path: Path) -> None:
    run(tmp_path)
    before = journals(tmp_path)
    comparison = run(tmp_path, seeds=3)
    assert comparison.rows[0].seeds == [0, 1, 2] and before.items() <= journals(tmp_path).items()


def test_other_settings_are_refused_not_mixed(tmp_path: Path) -> None:
    run(tmp_path)
    with raises(JournalError, "changed", "evaluator.options.shift"):
        run(tmp_path, evaluator={"shift": 1.0})


def test_one_failing_search_is_listed(tmp_path: Path) -> None:
    comparison = run(tmp_path, table="SomeBreak", seeds=3)
    assert sorted(comparison.failed) == ["evolution-s1", "random-s1"]
    assert "trials in a row broke" in comparison.failed["random-s1"]
    assert all(row.seeds == [0, 2] for row in comparison.rows)
    with raises(ConfigError, "empty", None, "-s1: 6 trials in a row broke"):
        run(tmp_path, table="SomeBreak", seeds=[1], name="broken")


def test_workers_find_the_same(tmp_path: Path) -> None:
    alone, together = run(tmp_path / "a"), run(tmp_path / "b", workers=2)
    assert together.to_json() == alone.to_json()
    assert events(tmp_path / "b") == events(tmp_path / "a") != {}


def test_an_error_of_all_ends_the_campaign_also_with_workers(tmp_path: Path) -> None:
    run(tmp_path)
    with raises(JournalError, "changed", "evaluator.options.shift"):
        run(tmp_path, evaluator={"shift": 1.0}, workers=2)


@pytest.mark.parametrize(
    ("settings", "kind", "key", "names"),
    [
        ({"seeds": 0}, "range", "seeds", (0,)),
        ({"seeds": [1, 1]}, "duplicate", "seeds", ("[1, 1]",)),
        ({"strategies": "evolution(smaple=3)"}, "unknown", "smaple", ("evolution",)),
        ({"workers": 0}, "range", "workers", (0,)),
        ({"axis": "time"}, "unknown", "axis", ("time",)),
        ({"seed": 3}, "conflict", "seed", ("--seeds",)),
        ({"tune": "optuna"}, "conflict", "tune", ("joint(model=evolution,recipe=optuna)",)),
        ({"name": "a/b"}, "invalid", "name", ("a/b",)),
        ({"at": [7]}, "range", "at", ("--at 7", "6 trials")),
        ({"at": [3, 0]}, "range", "at", ("--at 0",)),
    ],
)
def test_wrong_settings(
    tmp_path: Path, settings: dict[str, Any], kind: str, key: str, names: tuple[object, ...]
) -> None:
    with raises(ConfigError, kind, key, *names):
        run(tmp_path, **settings)


# --- experiments already run -----------------------------------------------------------------------------------------


def test_experiments_already_run(tmp_path: Path) -> None:
    first = run(tmp_path)
    again = compare(["camp"], runs_dir=tmp_path, tracking_uri="none")
    assert again.name == "camp" and sorted(map(str, again.rows)) == sorted(map(str, first.rows))
    some = compare(["random-s0", "evolution-s0"], runs_dir=tmp_path / "camp", tracking_uri="none", name="two")
    assert list(some.strategies) == ["random", "evolution"]
    assert (tmp_path / "camp" / "two" / "comparison.json").is_file()
    assert any("with fewer than 5 seeds" in note for note in some.notes)


def test_different_problems_are_refused_with_the_keys(tmp_path: Path) -> None:
    run(tmp_path)
    others: dict[str, dict[str, Any]] = {
        "objectives": {"objectives": ["min:val/accuracy"]},
        "ladder": {"epochs": 2},
        "evaluator.shift": {"evaluator": {"shift": 1.0}},
    }
    for number, (key, settings) in enumerate(others.items()):
        run(tmp_path, name=f"other{number}", **settings)
        with raises(ConfigError, "conflict", key):
            compare(["camp", f"other{number}"], runs_dir=tmp_path, tracking_uri="none")


def test_other_space_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    smaller = nested_space().fixed({"model.depth": 3})
    compare(
        strategies="random", space=smaller, evaluator={"name": "compare_toys:Table"}, epochs=1, runs_dir=tmp_path,
        budget={"trials": 3}, seeds=1, tracking_uri="none", name="small",
    )  # fmt: skip
    with raises(ConfigError, "conflict", "space"):
        compare(["camp", "small"], runs_dir=tmp_path, tracking_uri="none")


def test_one_search_is_not_two_samples(tmp_path: Path) -> None:
    first = run(tmp_path)
    run(tmp_path, name="copy")
    for path in (tmp_path / "copy").glob("*/journal.jsonl"):
        path.write_text(path.read_text().replace('"versions":{', '"versions":{"own":"9",', 1))  # of another machine
    comparison = compare(["camp", "copy"], runs_dir=tmp_path, tracking_uri="none")
    assert [about["seeds"] for about in comparison.strategies.values()] == [
        about["seeds"] for about in first.strategies.values()
    ]
    assert any("copy/random-s0 (as camp/random-s0)" in note for note in comparison.notes)
    run(tmp_path, name="longer", budget={"trials": 9})
    with raises(ConfigError, "duplicate", None, "camp/evolution-s0", "longer/evolution-s0"):
        compare(["camp", "longer"], runs_dir=tmp_path, tracking_uri="none")
    with raises(ConfigError, "duplicate", None, "random-s0"):
        compare(["random-s0", "random-s0"], runs_dir=tmp_path / "camp", tracking_uri="none")


def test_campaigns_of_different_strategies_share_their_random_searches(tmp_path: Path) -> None:
    """Both hold `random`; what they hold in common counts once, and names say where they lie."""
    run(tmp_path, name="a", strategies="evolution")
    run(tmp_path, name="b", strategies="local_search")
    comparison = compare(["a", "b"], runs_dir=tmp_path, tracking_uri="none", name="both")
    assert sorted(comparison.strategies) == ["evolution", "local_search", "random"]
    experiments = {label: about["experiments"] for label, about in comparison.strategies.items()}
    assert all(name.startswith("a/random") for name in experiments["random"])
    assert all(name.startswith("b/local_search") for name in experiments["local_search"])
    copied = tmp_path / "a" / "renamed"
    shutil.copytree(tmp_path / "a" / "random-s0", copied)
    again = compare(["random-s0", "evolution-s0", "renamed"], runs_dir=tmp_path / "a", tracking_uri="none", name="c")
    assert any("renamed (as random-s0)" in note for note in again.notes)


def test_nothing_to_compare(tmp_path: Path) -> None:
    with raises(ConfigError, "missing"):
        compare(runs_dir=tmp_path)
    with raises(JournalError, "unknown", None, "nowhere"):
        compare(["nowhere"], runs_dir=tmp_path)
    run(tmp_path)
    with raises(JournalError, "unknown", None, "did you mean 'camp'"):
        compare(["cmap"], runs_dir=tmp_path)
    with raises(ConfigError, "conflict", "strategies"):
        compare(["x"], strategies="random", runs_dir=tmp_path)
    with raises(ConfigError, "missing", "strategies", "budget"):
        compare(["x"], budget={"trials": 3}, runs_dir=tmp_path)


# --- kills -----------------------------------------------------------------------------------------------------------

COMMAND = (
    *("compare", "--space", "nested.yaml", "--evaluator", "compare_toys:Table", "--epochs", "1", "--seeds", "6"),
    *("--strategies", "evolution,local_search", "--max-trials", "12", "--workers", "2", "--name", "camp"),
    *("--tracking-uri", "none", "--set", "evaluator.gate=gate"),
)


def start(place: Path, command: Sequence[str] = COMMAND) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1", "PATH": ""}
    command = [sys.executable, "-m", "nasforge", *command]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
    try:
        return subprocess.Popen(command, cwd=place, env=environment, **pipes)
    finally:
        signal.signal(signal.SIGINT, before)


def wait_for_searches(place: Path, driver: subprocess.Popen[bytes], count: int) -> None:
    def there() -> bool:
        assert driver.poll() is None, driver.stderr and driver.stderr.read().decode()
        return len(journals(place / "runs")) >= count

    wait_until(there, f"{count} searches")


def working(place: Path) -> list[int]:
    """Processes, other than this one, whose working folder is `place`."""
    comparison = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.joinpath("cwd").resolve() == place.resolve():
                comparison.append(int(process.name))
        except OSError:
            continue
    return comparison


def test_torn_journals_continue(tmp_path: Path) -> None:
    """What a kill leaves: whole searches, one cut off in the middle of a line, others not begun."""
    run(tmp_path / "whole")
    whole = journals(tmp_path / "whole")
    first, second, *_ = sorted(whole)
    for name, content in ((first, whole[first]), (second, whole[second][: len(whole[second]) // 2])):
        folder = tmp_path / "torn" / "camp" / name
        folder.mkdir(parents=True)
        (folder / "journal.jsonl").write_bytes(content)
    run(tmp_path / "torn")
    torn = journals(tmp_path / "torn")
    assert torn.keys() == whole.keys() and torn[first] == whole[first]
    for name in torn:
        assert asked(tmp_path / "torn" / "camp" / name) == asked(tmp_path / "whole" / "camp" / name)


def asked(folder: Path) -> list[Any]:
    return [event.proposal for event in read_events(folder) if isinstance(event, Asked)]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_stopped_campaign_continues(tmp_path: Path, how: signal.Signals) -> None:
    from cli_toys import write_space

    whole, place = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, place):
        folder.mkdir()
        write_space(folder)
    driver = start(place)
    wait_for_searches(place, driver, 5)
    driver.send_signal(how)
    _, messages = driver.communicate(timeout=200)
    if how is signal.SIGKILL:
        assert driver.returncode == -signal.SIGKILL
    else:
        assert driver.returncode == 130, messages.decode()
        assert b"the same command continues: nasforge compare" in b" ".join(messages.split())
        assert b"Traceback" not in messages
    wait_until(lambda: not working(place), "workers end with their driver")
    before = journals(place / "runs")
    assert 0 < len(before) < 18, "the stop came too late to be a test"
    for folder in (place, whole):
        (folder / "gate").touch()
        done = start(folder)
        out, messages = done.communicate(timeout=400)
        assert done.returncode == 0, messages.decode()
        assert b"local_search" in out
    after = journals(place / "runs")
    assert len(after) == 18 and all(after[name].startswith(content) for name, content in before.items())
    for name in after:
        proposals = asked(place / "runs" / "camp" / name)
        assert len(proposals) == 12 and proposals == asked(whole / "runs" / "camp" / name)


def test_a_worker_that_is_stopped_while_it_sends_an_outcome_keeps_no_lock(tmp_path: Path) -> None:
    """The other one, whose search is stopped, would wait for that lock for ever, and the driver for both."""
    from cli_toys import write_space

    write_space(tmp_path)
    command = ["compare", "--space", "nested.yaml", "--evaluator", "compare_toys:SlowToAnswer", "--epochs", "1"]
    command += ["--seeds", "2", "--strategies", "random", "--max-trials", "2", "--workers", "2", "--name", "camp"]
    driver = start(tmp_path, [*command, "--tracking-uri", "none"])
    try:
        wait_until((tmp_path / "locked").exists, "an outcome", limit_s=200)
        wait_until(lambda: b'"started"' in journals(tmp_path / "runs").get("random-s1", b""), "the second search")
        driver.send_signal(signal.SIGINT)
        wait_until(lambda: b'"interrupted"' in journals(tmp_path / "runs")["random-s1"], "its stop")
        (tmp_path / "go_on").touch()
        _, messages = driver.communicate(timeout=100)
    finally:
        driver.kill()
    assert driver.returncode == 130, messages.decode()
    wait_until(lambda: not working(tmp_path), "workers end with their driver")
    again = start(tmp_path, [*command, "--tracking-uri", "none"])
    _, messages = again.communicate(timeout=200)
    assert again.returncode == 0, messages.decode()
    assert all(load_state(path).counts()["finished"] == 2 for path in (tmp_path / "runs/camp").glob("random-s*"))
