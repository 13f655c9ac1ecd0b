"""Experiments that an earlier version wrote are opened, continued and shipped by today's code.

`tests/old_runs/schema1/` was written by `tests/old_runs/commands.py` with version 0.1.0 and stays as it is.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

import nasforge
from nasforge.cli import app as cli
from nasforge.core.trial import Score
from nasforge.experiment.state import load_state

OLD = Path(__file__).parent / "old_runs"
WRITTEN_IN = "/tmp/old/w"
sys.path.append(str(OLD))
from commands import BEGUN, RETRAINED, continued  # noqa: E402


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A copy of the folder in which the old commands were typed; the paths in it are those of the copy."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    for path in (*tmp_path.rglob("journal.jsonl"), *tmp_path.rglob("*.json")):
        path.write_text(path.read_text().replace(WRITTEN_IN, str(tmp_path)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capfd, *arguments):
    capfd.readouterr()
    code = cli.main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    assert code == 0, (arguments, err)
    return out


def lines_of(folder):
    return (folder / "journal.jsonl").read_text().splitlines()


def kinds_of(lines):
    return [json.loads(line)["event"] for line in lines]


def journals_of(folder):
    return sorted(folder.rglob("journal.jsonl"))


def test_every_kind_of_proposal_is_among_them():
    proposals = [
        json.loads(line)["proposal"]
        for journal in journals_of(OLD / "schema1")
        for line in lines_of(journal.parent)
        if '"event":"asked"' in line
    ]
    kinds = {proposal["kind"] for proposal in proposals}
    assert kinds == {"measure", "train_shared"}
    assert any(proposal.get("also") for proposal in proposals), "a batch of zero-cost scores"
    started = [proposal["weights"]["path"] for proposal in proposals if proposal["weights"]]
    assert any("checkpoint" in path for path in started), "a continued checkpoint"
    assert any("weights" in path for path in started), "inherited weights"


def test_batches_are_read_as_scores_with_the_same_counts_and_charges():
    folder = OLD / "schema1" / "scored"
    lines = [json.loads(line) for line in lines_of(folder)]
    asked = {line["number"]: line["proposal"] for line in lines if line["event"] == "asked"}
    told = {line["number"]: line["result"] for line in lines if line["event"] == "told"}
    state = load_state(folder)
    batches = [number for number, trial in state.trials.items() if isinstance(trial.proposal, Score)]
    assert batches == [number for number, proposal in asked.items() if "also" in proposal] != []
    for number in batches:
        result = state.trials[number].result
        assert [point.to_json() for point in state.trials[number].proposal.architectures] == [
            asked[number]["architecture"],
            *asked[number]["also"],
        ]
        assert list(result.scores[1:]) == told[number]["also"]
        assert {**result.scores[0], **result.metrics} == told[number]["metrics"]
    assert state.counts()["finished"] == sum(result["status"] == "finished" for result in told.values())
    for axis in ("worker_seconds", "multiply_adds"):
        assert getattr(state.charged, axis) == sum(result["charged"][axis] for result in told.values())


def test_old_ladders_of_folds_name_them():
    assert [rung.to_json() for rung in load_state(OLD / "schema1" / "folds").ladder] == [
        {"folds": count} for count in (1, 2, 3)
    ]


@pytest.mark.parametrize("name", [name for name in BEGUN if name not in ("compared", "calibrated")])
def test_shown_and_continued(name, place, capfd):
    folder = place / "schema1" / name
    before = lines_of(folder)
    shown = json.loads(run(capfd, "show", name, "--runs-dir", "schema1", "--json"))
    trials = kinds_of(before).count("asked")
    assert len(shown["trials"]) == trials
    assert sum(shown["counts"].values()) == trials

    run(capfd, *continued(name))
    after = lines_of(folder)
    assert after[: len(before)] == before, "an old line changed"
    assert json.loads(after[0])["schema"] == 1
    added = kinds_of(after[len(before) :])
    assert added.count("asked") >= 1 and added.count("told") >= 1
    numbers = [json.loads(line)["number"] for line in after if '"event":"told"' in line]
    assert sorted(numbers) == list(range(len(numbers))), "a trial was told twice, or lost"


def test_a_campaign_is_read_and_extended(place, capfd):
    before = {journal: lines_of(journal.parent) for journal in journals_of(place / "schema1" / "compared")}
    run(capfd, *continued("compared"))
    assert len(before) == 4
    for journal in before:
        old = before[journal]
        new = lines_of(journal.parent)
        assert new[: len(old)] == old
        assert kinds_of(new).count("told") == kinds_of(old).count("told") + 1


def test_a_calibration_is_read(place, capfd):
    folder = place / "schema1" / "calibrated"
    before = lines_of(folder)
    run(capfd, *BEGUN["calibrated"].split())
    assert lines_of(folder) == before


def test_a_retraining_is_read_and_its_test_part_stays_closed(place, capfd):
    folder = place / "schema1" / "evolved"
    before = lines_of(folder)
    printed = json.loads(run(capfd, *RETRAINED["evolved"].split(), "--json"))
    assert lines_of(folder) == before
    assert [finalist["reference"] is not None for finalist in printed["finalists"]] == [True, True]
    assert printed["ensemble"] is not None


def test_networks_and_ensembles_are_loaded_and_exported(place, capfd):
    folders = [path.parent for path in sorted((place / "schema1").rglob("network.json"))]
    assert any("ensemble" in folder.name for folder in folders)
    for folder in folders:
        if folder.parent.name not in ("own_builder",):
            network = nasforge.load(folder)
            assert network.class_names == ("left", "top"), folder
    out = run(capfd, "export", "evolved", "--runs-dir", "schema1", "--to", "safetensors", "--out", "shipped", "--json")
    assert json.loads(out)["verified"]
