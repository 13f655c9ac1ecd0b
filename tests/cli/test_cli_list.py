"""The command `list`."""

import json

import cli_toys
import pytest

from nasforge.api.search import search
from nasforge.cli import app as cli


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_rows_fit_into_80_columns(place, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    search(cli_toys.config_at(place, name="tiny-digits-evolution-s0", budget={"trials": 2}), say=lambda text: None)
    assert cli.main(["list"]) == 0
    out = capfd.readouterr().out
    row = next(line for line in out.splitlines() if "tiny-digits-evolution-s0" in line)
    assert max(map(len, out.splitlines())) <= 80
    assert all(word in row for word in ("search", "finished", "val/accuracy 0.", ":"))


def test_json_is_one_object(place, capfd):
    search(cli_toys.config_at(place, name="first", budget={"trials": 2}), say=lambda text: None)
    assert cli.main(["list", "--json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)["experiments"]
    assert (row["name"], row["kind"], row["state"]) == ("first", "search", "finished")


def test_an_empty_folder_says_how_to_begin(place, capfd):
    assert cli.main(["list"]) == 0
    assert "nasforge fit digits" in capfd.readouterr().out
    assert cli.main(["list", "--json"]) == 0 and json.loads(capfd.readouterr().out) == {"experiments": []}


def test_a_folder_that_is_named_and_missing_is_a_mistake(place, capfd):
    assert cli.main(["list", "--runs-dir", "nowhere"]) == 2
    assert "--runs-dir nowhere: there is no such folder" in capfd.readouterr().err
    assert cli.main(["list", "--runs-dir", "nowhere", "--json"]) == 2
    printed = json.loads(capfd.readouterr().out)
    assert (printed["kind"], printed["key"]) == ("missing", "runs_dir")
    (place / "nowhere").mkdir()
    assert cli.main(["list", "--runs-dir", "nowhere"]) == 0


def test_what_cannot_be_read_is_one_sentence(place, capfd):
    (place / "runs" / "broken").mkdir(parents=True)
    (place / "runs" / "broken" / "journal.jsonl").write_text("no json\n")
    assert cli.main(["list"]) == 0
    out = capfd.readouterr().out
    assert "broken cannot be read" in out and "Traceback" not in out
