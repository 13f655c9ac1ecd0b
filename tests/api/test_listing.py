"""What lies in a runs folder: kinds, states and results of its rows."""

import fcntl
import json
import os
import time

import cli_toys
import pytest

from nasforge.api.listing import listing
from nasforge.api.search import search
from nasforge.cli import app as cli
from nasforge.core.events import TestOpened, event_to_json
from nasforge.core.layout import FIT, JOURNAL, LOCK
from nasforge.core.locks import Lock, is_locked
from nasforge.experiment.journal import dumps, fits_in
from nasforge.experiment.state import load_state


@pytest.fixture
def runs(tmp_path):
    runs = tmp_path / "runs"
    search(cli_toys.config_at(tmp_path, name="done", budget={"trials": 2}), say=lambda text: None)
    for seed in range(2):
        settings = {"name": f"random-s{seed}", "seed": seed, "runs_dir": runs / "several", "budget": {"trials": 2}}
        search(cli_toys.config_at(tmp_path, **settings), say=lambda text: None)
    lines = (runs / "done" / JOURNAL).read_text().splitlines(keepends=True)
    stopped = runs / "stopped"
    stopped.mkdir()
    (stopped / JOURNAL).write_text("".join(lines[:2]))
    broken = runs / "broken"
    broken.mkdir()
    (broken / JOURNAL).write_text("no json\n")
    return runs


def write_fit(runs, *entries):
    (runs / "cells").mkdir()
    lines = [
        {"kind": "begun", "schema": 1, "inputs": {"source": "photos"}, "at": time.time() + 60, "used": 0.0},
        *entries,
    ]
    (runs / "cells" / FIT).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return runs / "cells"


def by_name(runs):
    return {row["name"]: row for row in listing(runs)}


def test_every_search_campaign_and_fit_is_one_row(runs):
    write_fit(runs)
    rows = by_name(runs)
    assert {name: (row["kind"], row["state"]) for name, row in rows.items()} == {
        "cells": ("fit", "stopped"),
        "done": ("search", "finished"),
        "several": ("campaign", "finished"),
        "stopped": ("search", "stopped"),
        "broken": ("search", "broken"),
    }
    assert next(iter(rows)) == "cells"  # the latest begun
    assert rows["done"]["metric"] == rows["several"]["metric"] == "val/accuracy"
    assert rows["done"]["value"] > 0 and rows["stopped"]["value"] is None
    assert "corrupt" in rows["broken"]["problem"] and not rows["done"]["problem"]
    assert time.time() - 60 < rows["done"]["started"] < time.time()


def test_a_retrained_search_is_listed_with_its_result_on_the_test_split(runs):
    best = load_state(runs / "done").best.architecture
    events = [TestOpened(f"{best.short_id}-seed{seed}-e3", {"test/accuracy": 0.5 + seed / 4}) for seed in range(2)]
    with (runs / "done" / JOURNAL).open("a") as journal:
        journal.writelines(dumps({**event_to_json(event), "at": 1.0}) + "\n" for event in events)
    row = by_name(runs)["done"]
    assert (row["state"], row["metric"], row["value"]) == ("finished", "test/accuracy", 0.625)


def test_a_fit_is_listed_with_its_result_on_the_test_split(runs):
    rows = [{"name": "SVM", "test": {"accuracy": 0.5}}, {"name": "found", "test": {"accuracy": 0.75}}]
    done = {"kind": "finished", "at": 1.0, "used": 1.0, "content": {"winner": "found", "rows": rows}}
    write_fit(runs, done)
    row = by_name(runs)["cells"]
    assert (row["state"], row["metric"], row["value"]) == ("finished", "test/accuracy", 0.75)


@pytest.mark.parametrize(
    "content",
    [None, [], {}, {"rows": [], "winner": "found"}, {"rows": [3], "winner": 3}]
    + [{"rows": [{"name": "found", "test": test}], "winner": "found"} for test in (None, {}, {"accuracy": "x"})],
    ids=str,
)
def test_a_fit_whose_result_was_changed_is_one_bad_row_and_one_sentence(tmp_path, capfd, content):
    runs = tmp_path / "runs"
    runs.mkdir()
    write_fit(runs, {"kind": "finished", "at": 1.0, "used": 1.0, "seconds": 1.0, "content": content})
    row = by_name(runs)["cells"]
    assert row["state"] == "broken" and "fit.jsonl" in row["problem"] and "backup" in row["problem"]
    for command in ("show", "report"):
        assert cli.main([command, "cells", "--runs-dir", str(runs), "--json"]) == 2
        printed = capfd.readouterr()
        assert "fit.jsonl" in json.loads(printed.out)["error"] and "Traceback" not in printed.err


def test_what_a_process_works_on_is_running(runs):
    cells = write_fit(runs)
    for name, file in (
        ("done", runs / "done" / LOCK),
        ("cells", cells / FIT),
        ("several", runs / "several/random-s1/lock"),
    ):
        lock = Lock(file)
        try:
            assert is_locked(file) and by_name(runs)[name]["state"] == "running"
        finally:
            lock.close()
        assert not is_locked(file) and by_name(runs)[name]["state"] != "running"


def test_a_look_at_the_lock_does_not_stop_a_driver(runs):
    file = runs / "done" / LOCK
    handle = os.open(file, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)
    try:
        with pytest.raises(BlockingIOError):
            Lock(file)
    finally:
        os.close(handle)
    Lock(file).close()


def test_a_calibration_is_named_so(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli_toys.write_space(tmp_path)
    words = ("calibrate", "nested.yaml", "--networks", "3", "--seeds", "1", "--epochs", "3", "--runner", "local")
    assert cli.main([*words, "--evaluator", "cli_toys:planted", "--tracking-uri", "none", "--name", "rungs"]) == 0
    assert [(row["name"], row["kind"]) for row in listing(tmp_path / "runs")] == [("rungs", "calibration")]


def test_a_missing_folder_has_no_rows(tmp_path):
    assert listing(tmp_path / "nothing") == [] == fits_in(tmp_path / "nothing")
