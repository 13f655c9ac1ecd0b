"""The command `report` where there is no fit; tests/api/fit/test_fit.py has the page itself."""

import cli_toys
import pytest

from nasforge.api.search import search
from nasforge.cli import app as cli


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_search_and_a_campaign_have_no_page(place, capfd):
    for runs, name, kind in (("runs", "first", "search"), ("runs/several", "one", "campaign")):
        search(cli_toys.config_at(place, name=name, runs_dir=place / runs, budget={"trials": 1}), say=lambda text: None)
        shown = name if kind == "search" else "several"
        assert cli.main(["report", shown]) == 2
        err = capfd.readouterr().err
        assert f"'{shown}' is a {kind}, and only a fit has a report page" in err and f"nasforge show {shown}" in err


def test_a_missing_name_is_one_sentence(place, capfd):
    assert cli.main(["report", "nothere"]) == 2
    assert "no experiment 'nothere'" in capfd.readouterr().err


def test_a_fit_that_has_not_ended_is_continued_first(place, capfd):
    (place / "runs" / "cells").mkdir(parents=True)
    log = '{"kind": "begun", "schema": 1, "inputs": {}, "at": 1.0, "used": 0.0}\n'
    (place / "runs" / "cells" / "fit.jsonl").write_text(log)
    assert cli.main(["report", "cells"]) == 2
    assert "has not come to its end. Repeat its command" in capfd.readouterr().err
