"""`nasforge show NAME --trial N` on a real training: its health, and class by class."""

from __future__ import annotations

import json

import pytest

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
    deleted.unlink()
    code, out, _ = nasforge_(capfd, "show", "one", "--trial", "0")
    assert code == 0 and "deleted with the trial's weights" in out
