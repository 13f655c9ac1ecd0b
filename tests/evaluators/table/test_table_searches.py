"""Tables as a part of the platform: pickled, continued, from the command line, and those in data/ as they are."""

import json
import math
import os
import pickle
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_tables import FLAT, Silent, config_of, flat, looked_up, space, table, written

from nasforge.api.assembly import make_evaluator
from nasforge.api.compare.campaign import optimum_or_note
from nasforge.api.search import search
from nasforge.cli.app import main
from nasforge.core.space import Choice, Decision, Int
from nasforge.core.trial import Measure
from nasforge.experiment.state import load_state
from nasforge.settings.experiment import load_settings, resolve

FOLDER = os.environ.get("NASFORGE_DATA")
needs_tables = pytest.mark.skipif(not FOLDER, reason="NASFORGE_DATA does not point to the folder with the tables")
NB201 = {
    "name": "lookup_table",
    "path": f"{FOLDER}/nasbench201_cifar10.npz",
    "key": "arch_str",
    "signal": "cifar10_val_e12",
    "final": "cifar10_test_e200",
}


def test_light_to_pickle_and_read_again_elsewhere(tmp_path):
    rows = "".join(f"{n},{n}\n" for n in range(5000))
    evaluator = table(space(Decision("model.n", Int(0, 4999))), written(tmp_path, f"n,accuracy\n{rows}"))
    content = pickle.dumps(evaluator)
    assert len(content) < 3000
    assert looked_up(pickle.loads(content), model__n=4321).metrics["val/accuracy"] == 4321


def test_a_table_that_changed_is_noticed(tmp_path):
    path = written(tmp_path, FLAT)
    first = table(flat(), path)
    other = table(flat(), written(tmp_path, FLAT.replace("0.75", "0.7512")))
    assert first.about.data_hash != "" and other.about.data_hash == table(flat(), path).about.data_hash
    assert looked_up(other, model__width=16, train__rate=0.1).metrics["val/accuracy"] == 0.7512


def test_final_is_told_apart_from_results(tmp_path):
    evaluator = table(flat(), written(tmp_path, FLAT), final="seconds")
    assert evaluator.final_metric == "seconds" and evaluator.final(flat().default_point()) == 10
    directed = table(flat(), written(tmp_path, FLAT), final="min:seconds")
    assert directed.final_metric == "seconds" and directed.final(flat().default_point()) == 10
    assert "seconds" not in str(looked_up(evaluator, model__width=8, train__rate=0.1).to_json()["metrics"])
    assert table(flat(), written(tmp_path, FLAT)).final_metric is None


def test_paths_in_an_experiments_file_are_relative_to_it(tmp_path, monkeypatch):
    written(tmp_path, FLAT)
    written(tmp_path, "space: tiny\nevaluator: {name: lookup_table, path: table.csv, signal: accuracy}\n", "e.yaml")
    monkeypatch.chdir("/")
    settings, document = load_settings(tmp_path / "e.yaml")
    assert resolve(settings, document).evaluator.options["path"] == str(tmp_path / "table.csv")


# --- the tables in data/ ----------------------------------------------------------------------------------------------


def command(folder: Path, *words: str) -> list[str]:
    parts = ["search", "nasbench201", "--runs-dir", str(folder), "--tracking-uri", "none", "--runner", "local"]
    sets = [f"evaluator.{key}={value}" for key, value in NB201.items() if key != "name"]
    return [*parts, "--evaluator", "lookup_table", *(word for text in sets for word in ("--set", text)), *words]


@needs_tables
def test_nasbench201_from_the_command_line_continues_and_keeps_limits(tmp_path, capsys):
    words = ["--strategy", "evolution", "--name", "t", "--json"]
    assert main(command(tmp_path, *words, "--max-trials", "30")) == 0
    assert main(command(tmp_path, *words, "--max-trials", "50")) == 0
    state = load_state(tmp_path / "t")
    assert state.counts()["finished"] == 50 == state.charged.worker_seconds
    assert state.best and state.best.metrics["val/accuracy"] > 82
    assert {key for trial in state.trials.values() for key in trial.metrics} == {"val/accuracy", "time/worker_s"}
    whole = command(tmp_path, "--strategy", "evolution", "--name", "whole", "--max-trials", "50")
    assert main(whole) == 0
    again = load_state(tmp_path / "whole")
    assert [t.architecture for t in again.trials.values()] == [t.architecture for t in state.trials.values()]
    capsys.readouterr()
    limits = ["--constraint", "millions<=0.3", "--set", "evaluator.costs.millions=params_M", "--max-trials", "20"]
    assert main(command(tmp_path, *words[:2], "--name", "limited", *limits)) == 0
    limited = load_state(tmp_path / "limited")
    assert max(trial.metrics["cost/millions"] for trial in limited.finished()) <= 0.3
    assert limited.counts()["rejected"] > 0
    assert main(["show", "limited", "--runs-dir", str(tmp_path), "--trial", "1", "--rerun"]) == 0
    assert main(command(tmp_path, "--constraint", "flops<=1m")) == 2


@needs_tables
def test_nasbench201_by_text_and_by_columns_is_the_same_and_fast(tmp_path):
    where = config_of(Path("x"), "nasbench201", str(NB201["path"])).space
    began = time.process_time()
    by_text = table(where, str(NB201["path"]), key="arch_str", signal="cifar10_val_e12", final="cifar10_test_e200")
    assert time.process_time() - began < 5, "about half a second on an idle machine"
    with np.load(NB201["path"]) as content:
        edges = content["ops"][content["codes"]]
        columns = {name.removeprefix("model."): edges[:, place] for place, name in enumerate(where.domains)}
        np.savez(tmp_path / "edges.npz", cifar10_val_e12=content["cifar10_val_e12"], **columns)
    by_columns = table(where, str(tmp_path / "edges.npz"), signal="cifar10_val_e12")
    assert by_text.optimum() == by_columns.optimum() == 84.892
    points = [where.sample(random.Random(seed)) for seed in range(300)]
    began = time.process_time()
    results = [by_text(Measure(point), Silent()) for point in points]
    assert time.process_time() - began < 0.3, "less than 0.1 ms each on an idle machine"
    assert [by_columns(Measure(point), Silent()) for point in points] == results


@needs_tables
def test_nasbench201_with_both_fidelities():
    where = config_of(Path("x"), "nasbench201", str(NB201["path"])).space
    evaluator = table(where, str(NB201["path"]), (12, 200), key="arch_str", signal="cifar10_val_e{epochs}", seconds=200)
    report = Silent()
    result = evaluator(Measure(where.default_point()), report)
    assert list(report.steps) == [12, 200] and result.charged.worker_seconds == 200
    assert report.steps[12]["time/worker_s"] == 12
    assert math.isclose(evaluator.optimum(), 91.60667)


@needs_tables
@pytest.mark.parametrize(
    ("name", "axes", "direction", "best"),
    [("fcnet_naval_propulsion", "fcnet", "min", 3.191e-05), ("fcnet_protein_structure", "fcnet", "min", 0.221379)],
)
def test_hpo_grids_are_read_as_they_are(tmp_path, name, axes, direction, best):
    folder = Path(FOLDER or "") / "hpo_tables"
    names = json.loads((folder / f"{axes}_space.json").read_text())
    where = space(*(Decision(f"train.{key}", Choice(tuple(values))) for key, values in names.items()))
    options = {"signal": "values", "axes": str(folder / f"{axes}_space.json"), "metric": "val/loss"}
    config = config_of(tmp_path, where, str(folder / f"{name}.npz"), options, objectives=[f"{direction}:val/loss"])
    evaluator: Any = make_evaluator(config)
    assert evaluator.optimum() == pytest.approx(best, rel=1e-4)
    with np.load(folder / f"{name}.npz") as content:
        values = content["values"].mean(-1)
    rng = random.Random(0)
    for _ in range(20):
        point = where.sample(rng)
        index = tuple(names[key].index(point.train[key]) for key in names)
        assert evaluator(Measure(point), Silent()).metrics["val/loss"] == pytest.approx(values[index])
    state = search(replace(config, seed=1), say=lambda text: None)
    assert state.counts()["finished"] == 20


def test_a_table_that_knows_more_than_the_ladder_asks_for_is_said(tmp_path):
    rows = "".join(f"{width},{rate},{width},1,{rate}\n" for width in (8, 16) for rate in (0.1, 1.0))
    path = written(tmp_path, f"width,rate,e1,e3,e9\n{rows}")
    for ladder, count in (([{"epochs": 3}], 1), ([{"epochs": 9}], 0)):
        config = config_of(tmp_path, flat(), path, {"signal": "e{epochs}"}, ladder=ladder, name=f"t{count}")
        messages, notes = list[str](), list[str]()
        search(config, say=messages.append)
        optimum_or_note(config, notes)
        note = "measured at epoch 3, where the ladder ends; the table knows them until epoch 9"
        for remarks in (messages, notes):
            assert len([remark for remark in remarks if note in remark]) == count
