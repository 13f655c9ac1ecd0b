"""Huge and small spaces, tables and settings on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nasforge.cli import app as cli
from nasforge.cli.output import domain_text, size_json
from nasforge.core.domains import Choice, Float, Int
from nasforge.views.plain import plain
from nasforge.views.texts import size_text

DEEP = """\
name: deep
builder: deep_builder:build
decisions:
  model: {"layer{0..199}.width": {int: [1, 64]}}
  train: {weight_decay: {float: [0, 1], step: 0.3}, decay_epochs: {int: [0, 3000000000]}}
defaults: {train: {schedule: step}}
"""
BUILDER = """\
from torch import nn


def build(pick, in_channels, classes):
    width = sum(pick.width(f"layer{index}.width") for index in range(200))
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(pool, nn.Linear(in_channels, width), nn.Linear(width, classes))
"""
TABLE = "width,rate,score\n" + "\n".join(f"{w},{r},0.{w}{int(r * 10)}" for w in (8, 16, 32) for r in (0.1, 0.2))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("nasforge.cli.describe.SAMPLES", 2)
    (tmp_path / "deep.yaml").write_text(DEEP)
    (tmp_path / "deep_builder.py").write_text(BUILDER)
    (tmp_path / "table.csv").write_text(TABLE)
    (tmp_path / "table.yaml").write_text(
        "name: table\ndecisions:\n  model: {width: [8, 16, 32]}\n  train: {rate: [0.1, 0.2]}\n"
    )
    return tmp_path


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(arguments)
    captured = capfd.readouterr()
    return code, captured.out, captured.err


def test_a_space_that_no_float_can_count_is_described(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capfd, "describe", "deep.yaml", "--shape", "1x8x8")
    assert code == 0
    assert "points: about 10^371; networks: about 10^361" in out
    assert "0 .. 0.9 in steps of 0.3 (1 is not reached)" in out
    assert "0 .. 3000000000" in out
    code, out, _ = run(capfd, "describe", "deep.yaml", "--shape", "1x8x8", "--json")
    printed = json.loads(out)
    assert printed["networks"] is None
    assert printed["networks_log10"] == pytest.approx(361.236, abs=1e-3)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (1, "1"),
        (12_345, "12,345"),
        (3 * 10**12, "3.0e+12"),
        (10**361, "about 10^361"),
        (10**5000, "about 10^5000"),
        (float("inf"), "infinitely many (a continuous decision)"),
    ],
    ids=["1", "thousands", "billions", "hundreds of digits", "thousands of digits", "infinite"],
)
def test_sizes_for_people_and_programs(size: float, text: str) -> None:
    assert size_text(size) == text
    printed = json.loads(json.dumps(plain(size_json("points", size)), allow_nan=False))
    assert printed["points"] == (size if size < 1e300 else None)
    assert (printed["points_log10"] is None) == (size == float("inf"))


@pytest.mark.parametrize(
    ("domain", "text"),
    [
        (Int(4, 15, step=4), "4 .. 12 in steps of 4 (15 is not reached)"),
        (Int(4, 12, step=4), "4 .. 12 in steps of 4"),
        (Int(1, 5_000_000, log=True), "1 .. 5000000 (logarithmic)"),
        (Float(0.0, 0.3, step=0.1), "0 .. 0.3 in steps of 0.1"),
        (Choice((32, 64)), "32, 64"),
    ],
)
def test_domains_for_people(domain: Int | Float | Choice, text: str) -> None:
    assert domain_text(domain) == text


LOOK_UP = ("--evaluator", "lookup_table", "--set", "evaluator.path=table.csv", "--set", "evaluator.signal=score")
LOCAL = ("--runner", "local", "--tracking-uri", "none")


def test_a_table_search_ends_with_its_points_and_counts_no_epochs(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capfd, "search", "table.yaml", *LOOK_UP, *LOCAL, "--name", "small", "--max-trials", "50")
    assert code == 0
    assert "all 6 points" in err
    assert "6 finished" in out
    code, out, _ = run(capfd, "show", "small")
    assert code == 0
    assert "epochs" not in out


def test_a_table_with_fidelities_counts_epochs(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [line.split(",") for line in TABLE.splitlines()[1:]]
    (place / "table.csv").write_text(
        "\n".join(["width,rate,score_e1,score_e3", *(f"{w},{r},{s},{s}" for w, r, s in rows)])
    )
    look_up = (*LOOK_UP[:-1], "evaluator.signal=score_e{epochs}")
    code, out, _ = run(capfd, "search", "table.yaml", *look_up, *LOCAL, "--max-trials", "2", "--epochs", "3")
    assert code == 0
    assert "epochs" in out


@pytest.mark.parametrize(("text", "words"), [("on", "true or false"), ("no", "true or false"), ("1", "true or false")])
def test_a_setting_of_another_kind_is_refused_with_what_is_allowed(
    place: Path, capfd: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    code, _, err = run(capfd, "search", "tiny", "--data", "digits", *LOCAL, "--set", f"recipe.flip={text}")
    assert code == 2
    assert words in err


@pytest.mark.parametrize("number", ["1" + "0" * 400, "abc", "1,5", "NaN"])
def test_a_setting_that_is_no_number_is_refused(place: Path, capfd: pytest.CaptureFixture[str], number: str) -> None:
    code, _, err = run(capfd, "search", "tiny", "--data", "digits", *LOCAL, "--set", f"recipe.mixup={number}")
    assert code == 2
    assert "allowed: a number of at least 0" in err


def test_a_folder_that_is_no_experiment_is_not_suggested(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (place / "runs" / "dir" / "journal.jsonl").mkdir(parents=True)
    code, _, err = run(capfd, "show", "dir")
    assert code == 2
    assert "did you mean" not in err
    assert "the folder has no file journal.jsonl" in err
