"""The command `report`; tests/views/test_report.py and tests/api/fit/test_fit.py have the pages."""

import json

import cli_toys
import pytest

from nasforge.api.search import search
from nasforge.cli import app as cli


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_search_has_a_page_and_a_campaign_is_compared(place, capfd, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    for runs in ("runs", "runs/several"):
        search(
            cli_toys.config_at(place, name="one", runs_dir=place / runs, budget={"trials": 1}), say=lambda text: None
        )
    assert cli.main(["report", "one", "--open"]) == 0
    page = place / "runs" / "one" / "report.html"
    assert capfd.readouterr().out.strip() == str(page) and opened == [page.as_uri()]
    assert cli.main(["report", "one", "--out", "page.html", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"report": str(place / "page.html")}
    assert "<h1>one " in (place / "page.html").read_text()
    assert cli.main(["report", "several"]) == 2
    err = capfd.readouterr().err
    assert "'several' is a campaign" in err and "nasforge compare several" in err


def test_a_missing_name_is_one_sentence(place, capfd):
    assert cli.main(["report", "nothere"]) == 2
    assert "no experiment 'nothere'" in capfd.readouterr().err


def test_a_fit_that_has_not_ended_is_continued_first(place, capfd):
    (place / "runs" / "cells").mkdir(parents=True)
    log = '{"kind": "begun", "schema": 1, "inputs": {"source": "photos"}, "at": 1.0, "used": 0.0}\n'
    (place / "runs" / "cells" / "fit.jsonl").write_text(log)
    assert cli.main(["report", "cells"]) == 2
    assert "has not finished. Repeat its command" in capfd.readouterr().err
