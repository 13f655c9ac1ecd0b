"""`nasforge show NAME --trial N` on a real training: its health, and class by class."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from nasforge.api.explain import Explanation
from nasforge.api.predict import Prediction
from nasforge.cli import app as cli


def nasforge_(capfd, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    captured = capfd.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("searched")


def test_health_and_classes_of_a_trial(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    where = ("--runner", "local", "--tracking-uri", "none", "--set", "evaluator.device=cpu", "--name", "one")
    size = ("--data", "digits", "--set", "data.images=300", "--max-trials", "1", "--epochs", "1")
    expected = ("--objective", "val/recall_macro", "--set", "recipe.health=true", "--set", "evaluator.per_class=true")
    code, out, err = nasforge_(capfd, "search", "tiny", *where, *size, *expected)
    assert code == 0, err
    code, out, _ = nasforge_(capfd, "show", "one", "--trial", "0")
    assert code == 0
    assert "Health after epoch 1" in out and "stage1" in out
    assert "Classes on the validation split" in out and "most often taken for" in out
    assert "health/" not in out  # the figures stand in a table of their own
    code, out, _ = nasforge_(capfd, "show", "one", "--trial", "0", "--json")
    trial = json.loads(out)
    assert trial["advice"] and len(trial["classes"]["confusion"]) == 10
    code, out, _ = nasforge_(capfd, "show", "one", "--trial", "0", "--log")
    assert code == 0 and "attempt 1 begins" in out and "epoch 1 of attempt 1" in out and "health/" not in out
    code, out, _ = nasforge_(capfd, "show", "one", "--trial", "0", "--log", "--json")
    content = json.loads(out)
    assert [line["event"] for line in content["log"]] == ["asked", "checked", "started", "reported", "told"]
    assert content["tracebacks"] == [] and content["log"][3]["metrics"]["val/recall_macro"] > 0
    for options in (("--log",), ("--log", "--trial", "0", "--rerun"), ("--log", "--trial", "9")):
        code, _, err = nasforge_(capfd, "show", "one", *options)
        assert code == 2 and ("--trial" in err or "no trial 9" in err or "Use one of them" in err)
    (deleted,) = (folder / "runs").glob("one/artifacts/0/attempt-1/classes.json")
    for content in ("", "[" * 100_000, "{}", '{"classes": [{"class": "a"}], "confusion": []}'):
        deleted.write_text(content)
        code, out, err = nasforge_(capfd, "show", "one", "--trial", "0")
        assert code == 0 and "damaged" in out and "Traceback" not in err
    deleted.unlink()
    code, out, _ = nasforge_(capfd, "show", "one", "--trial", "0")
    assert code == 0 and "deleted with the trial's weights" in out


@pytest.fixture
def fit_runs(tmp_path):
    """A runs folder with the search of a fit, which is `dk/search` for the user."""
    fit = tmp_path / "runs" / "dk"
    shutil.copytree(Path(__file__).parents[1] / "old_runs" / "schema1" / "evolved", fit / "search")
    (fit / "fit.jsonl").write_text("")
    return fit.parent


@pytest.mark.parametrize("log", [(), ("--log",)])
def test_the_search_of_a_fit_is_called_as_it_is_typed(log, fit_runs, capfd):
    words = ("show", "dk/search", "--runs-dir", fit_runs, "--trial")
    code, _, err = nasforge_(capfd, *words, 99, *log)
    assert code == 2 and "'dk/search' has no trial 99" in err
    code, out, _ = nasforge_(capfd, *words, 0, *log)
    assert code == 0 and ("Trial 0 of dk/search" in out or not log)


def test_an_experiment_without_trials_is_said_to_have_none(fit_runs, capfd):
    journal = fit_runs / "dk/search/journal.jsonl"
    journal.write_text(journal.read_text().partition("\n")[0] + "\n")
    code, _, err = nasforge_(capfd, "show", "dk/search", "--runs-dir", fit_runs, "--trial", 0)
    assert code == 2 and "'dk/search' has no trials yet" in err


def test_probabilities_are_rounded_as_people_round_them(tmp_path, monkeypatch, capfd):
    explanation = Explanation("a.jpg", None, "cat", 0.0625, "cat", "explained/a", "i.png", "h.png", False, ())
    monkeypatch.setattr("nasforge.api.explain.explain", lambda *arguments, **options: [explanation])
    monkeypatch.setattr("nasforge.api.predict.predict", lambda *a, **o: [Prediction("a.jpg", "cat", 0.0625, {})])
    for command in ("explain", "predict"):
        code, out, _ = nasforge_(capfd, command, tmp_path, "a.jpg")
        assert code == 0 and "cat 0.063" in out, "a half goes up"


def test_a_path_of_data_that_is_missing_has_no_dots(tmp_path, monkeypatch, capfd):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for command in (("inspect",), ("fit",), ("search", "tiny", "--dry-run", "--data")):
        code, _, err = nasforge_(capfd, *command, "../photos")
        shown = "".join(err.splitlines())
        assert code == 2 and str(tmp_path / "photos") in shown and ".." not in shown.replace("...", "")
