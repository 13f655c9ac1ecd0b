"""One clear error for every way in which a table does not fit."""

import json
import re
import time

import numpy as np
import pytest
from expecting import raises
from made_tables import FLAT, Silent, config_of, flat, looked_up, searched, space, table, written

from nasforge.api.assembly import make_evaluator
from nasforge.api.search import search
from nasforge.cli.app import main
from nasforge.core.errors import BuildError, ConfigError, DataError, NasforgeError
from nasforge.core.space import Decision, Float, Int
from nasforge.core.trial import Score, TrainShared


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("width,rate,acc\n8,0.1,1\n", {}, ("unknown", "accuracy")),
        ("width,rte,accuracy\n8,0.1,1\n", {}, ("missing", "train.rate", "rte")),
        ("a,b,accuracy\n8,0.1,1\n", {"key": "c"}, ("unknown", "c")),
        ("width,rate,accuracy\n8,0.1,high\n", {}, ("type", "accuracy", 2, "high")),
        ("width;rate;accuracy\n8;0.1;0,5\n", {}, ("type", "accuracy", "0,5")),
        (
            "width,rate,accuracy\n8,0.1,1\n\n8,.1,2\n",
            {},
            ("duplicate", None, 2, 4, "model.width"),
        ),
        ("width,rate,accuracy\n8,,1\n", {}, ("range", "train.rate", 2)),
        ("width,rate,accuracy\n9,0.1,1\n", {}, ("unknown", None, "made_up", "model.width", 9)),
        ("width,rate,accuracy\n8,0.1\n", {}, ("unreadable", None, 2, 3)),
        ("width,rate,rate\n8,0.1,1\n", {}, ("duplicate", "rate")),
        ("width,rate,accuracy\n", {}, ("empty", None, "header")),
        ("", {}, ("empty", None, "header")),
        ("width,rate,accuracy\n8,0.1,nan\n", {}, ("empty", "evaluator.signal")),
        (FLAT, {"signal": "e{epochs}"}, ("unknown", "e{epochs}")),
        (FLAT, {"signal": "accuracy", "fidelity": {1: "accuracy"}}, ("conflict", "evaluator.signal")),
        (FLAT, {"fidelity": {}}, ("conflict", "evaluator.signal")),
        (FLAT, {"fidelity": {"first": "accuracy"}}, ("type", "evaluator.fidelity", "first")),
        (FLAT, {"fidelity": {9: "accuracy"}}, ("missing", "ladder", 3, 9)),
        (FLAT, {"seconds": -1}, ("range", "evaluator.seconds")),
        (FLAT.replace("10", "-10"), {"seconds": "seconds"}, ("range", "evaluator.seconds", 2, 10)),
        (FLAT, {"key": "width", "key_form": "canonical"}, ("missing", "evaluator.key_form", "made_up", "canonical")),
        (
            FLAT,
            {"key": "width", "key_form": "name"},
            ("unknown", "evaluator.key_form", "arch_id", "point_id"),
        ),
        (FLAT, {"key_form": "text"}, ("conflict", "evaluator.key_form", "key_form")),
        (FLAT, {"key": "width"}, ("missing", "evaluator.key_form", "width", "key_form", "arch_id")),
    ],
)
def test_one_clear_error_for_a_table_that_does_not_fit(tmp_path, text, options, expected):
    with raises(NasforgeError, *expected):
        table(flat(), written(tmp_path, text), **options)


def test_files_that_cannot_be_read(tmp_path):
    with raises(DataError, "missing", None, "nowhere.csv"):
        table(flat(), str(tmp_path / "nowhere.csv"))
    with raises(DataError, "missing", None, tmp_path):
        table(flat(), str(tmp_path))
    for name in ("bad.npz", "BAD.NPZ"):
        (tmp_path / name).write_bytes(b"no zip")
        with raises(DataError, "unreadable", None, name, "NPZ"):
            table(flat(), str(tmp_path / name))
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00")
    with raises(DataError, "unreadable", None, "bad.csv"):
        table(flat(), str(tmp_path / "bad.csv"))
    np.savez(tmp_path / "objects.npz", key=np.array(["a", None], object), accuracy=np.zeros(2))
    with raises(ConfigError, "untrusted", "key"):
        table(flat(), str(tmp_path / "objects.npz"), key="key")
    np.savez(tmp_path / "short.npz", width=np.array([8, 16]), rate=np.array([1, 1]), accuracy=np.zeros(1))
    with raises(ConfigError, "invalid", "evaluator.key", 2, 1):
        table(flat(), str(tmp_path / "short.npz"))
    np.savez(tmp_path / "long.npz", width=np.array([8, 99]), rate=np.array([1, 1]), accuracy=np.zeros(3))
    with raises(ConfigError, "invalid", "evaluator.key", 2, 3):
        table(flat(), str(tmp_path / "long.npz"))
    shapes = {"runs": np.zeros((2, 3)), "deep": np.zeros((2, 3, 4)), "one": 1.0}
    np.savez(tmp_path / "runs.npz", width=[8, 16], rate=[1, 1], accuracy=[1.0, 2.0], **shapes)
    for signal, kind, names in (
        ("runs", "unknown", ["runs[1]", "runs[{epochs}]"]),
        ("runs[4]", "unknown", ["did you mean 'runs"]),
        ("accuracy[1]", "unknown", ["did you mean 'accuracy'"]),
        ("accuracy[{epochs}]", "unknown", []),
        ("deep", "type", [(2, 3, 4)]),
        ("one", "type", [1.0]),
    ):
        with raises(ConfigError, kind, signal, *names):
            table(flat(), str(tmp_path / "runs.npz"), signal=signal)
    np.savez(tmp_path / "none.npz", width=[], rate=[], accuracy=[])
    with raises(ConfigError, "empty", None, "model.width", "train.rate"):
        table(flat(), str(tmp_path / "none.npz"))


@pytest.mark.parametrize("name", ["table.csv", "table.json", "table.npz"])
def test_an_expression_of_before_is_refused_with_the_command_that_converts_the_table(tmp_path, name):
    path = tmp_path / name
    if name == "table.npz":
        np.savez(path, width=[8, 16], rate=[0.1, 0.1], accuracy=[0.5, 0.75])
    else:
        rows = [{"width": width, "rate": 0.1, "accuracy": width / 32} for width in (8, 16)]
        text = "width;rate;accuracy\n8;0.1;0.5\n16;0.1;0.75\n"
        path.write_text(text if name == "table.csv" else json.dumps(rows))
    with raises(ConfigError, "unknown", "accuracy*100", 100) as raised:
        table(flat(), str(path), signal="accuracy*100")
    command = re.search(r"python -c \"(.*)\"\. Then set path to (\S+) and name (\S+)$", str(raised.value))
    assert command
    exec(command[1], {})
    converted = table(flat(), command[2], signal=command[3], partial=True)
    assert converted.optimum() in (50, 75)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"signal": "runs[mean]"}, ("unknown", "runs[mean]", "numpy.load", "runs")),
        ({"signal": "accuracy", "costs": {"params": "acc_M*1e6"}}, ("unknown", None, "acc_M*1e6", "scaled")),
        ({"signal": "runs[{epochs}]*100"}, ("unknown", None, "scaled")),
        ({"key": ["width", "rate"]}, ("removed", "evaluator.key")),
        ({"key": "runs"}, ("unknown", "runs")),
        ({"key": "width", "key_form": "{width}:{rate}"}, ("unknown", "evaluator.key_form", "key_form")),
        ({"labels": ["conv"]}, ("removed", "evaluator.labels")),
    ],
)
def test_other_options_of_before_say_how_the_table_is_converted(tmp_path, options, expected):
    path = tmp_path / "t.npz"
    np.savez(path, width=[8, 16], rate=[0.1, 0.1], accuracy=[0.5, 0.75], runs=np.zeros((2, 3)))
    with raises(ConfigError, *expected):
        table(flat(), str(path), **options)


def test_a_point_without_a_row_ends_the_search_with_the_nearest(tmp_path):
    path = written(tmp_path, "width,rate,accuracy\n8,0.1,0.5\n16,0.1,0.75\n")
    near = "the nearest row is model.width 8, train.rate 0.1 (line 2)"
    with raises(ConfigError, "missing", None, "model.width 8, train.rate 1 ", near, "partial: true"):
        looked_up(table(flat(), path), model__width=8, train__rate=1.0)


def test_a_range_without_steps_has_more_values_than_a_table(tmp_path):
    where = space(Decision("train.rate", Float(0.1, 1.0)))
    evaluator = table(where, written(tmp_path, "rate,accuracy\n0.1,0.5\n1,0.75\n"))
    with raises(ConfigError, "missing", None, "train.rate"):
        looked_up(evaluator, train__rate=0.3)


def test_many_points_without_a_row_are_passed_over_at_once(tmp_path):
    known = "".join(f"{'|'.join(str(n))}~{'x' * 60},{n}\n" for n in range(3000))
    where = space(Decision("model.n", Int(0, 10**6)), text=f"{__name__}:long_text")
    evaluator = table(where, written(tmp_path, f"arch,accuracy\n{known}"), key="arch", partial=True)
    began = time.process_time()
    for n in range(3000, 3200):
        with raises(BuildError, "missing"):
            looked_up(evaluator, model__n=n)
    assert time.process_time() - began < 1


def long_text(values):
    return f"{'|'.join(str(values['n']))}~{'x' * 60}"


def test_a_partial_table_fails_points_uncharged(tmp_path):
    path = written(tmp_path, "width,rate,accuracy\n8,0.1,0.5\n16,0.1,0.75\n")
    state = searched(tmp_path, flat(), path, {"partial": True}, budget={"trials": 2})
    assert state.charged.worker_seconds == state.accepted == 2
    assert state.counts()["finished"] == 2
    assert all("no row for this point" in trial.result.error.message for trial in state.failures())


def test_a_table_of_few_points_is_searched_patiently(tmp_path):
    rows = "".join(f"{n},{n}\n" for n in (1, 700))
    where = space(Decision("model.n", Int(1, 700)))
    path = written(tmp_path, f"n,accuracy\n{rows}")
    state = searched(tmp_path, where, path, {"partial": True}, budget={"trials": 2})
    assert state.counts()["finished"] == 2 and len(state.failures()) > 50


def test_thousands_of_points_without_a_row_are_not_told_one_by_one(tmp_path, capsys):
    path = written(tmp_path, "n,accuracy\n1,1\n")
    (tmp_path / "n.yaml").write_text("name: n\ndecisions: {model: {n: {int: [1, 9999]}}}\n")
    words = ["--evaluator", "lookup_table", "--set", f"evaluator.path={path}", "--set", "evaluator.signal=accuracy"]
    words += ["--set", "evaluator.partial=true", "--strategy", "random", "--runner", "local", "--tracking-uri", "none"]
    assert main(["search", str(tmp_path / "n.yaml"), *words, "--runs-dir", str(tmp_path / "runs")]) == 2
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("no row for this point") == 4, "three trials, and the end"
    assert "2000 proposals in a row cannot be built" in printed.err


def test_a_limit_on_a_cost_that_the_table_has_not(tmp_path):
    config = config_of(tmp_path, flat(), written(tmp_path, FLAT), constraints=["flops<=1m"])
    with raises(ConfigError, "missing", "cost/flops", "--set", "evaluator.costs.flops"):
        search(config, say=lambda text: None)


def test_an_objective_that_it_does_not_report(tmp_path):
    config = config_of(tmp_path, flat(), written(tmp_path, FLAT), objectives=["val/loss"])
    with raises(ConfigError, "unknown", "val/loss"):
        make_evaluator(config)


def test_what_a_table_cannot_do(tmp_path):
    evaluator = table(flat(), written(tmp_path, FLAT))
    with raises(ConfigError, "unsupported", "evaluator"):
        evaluator(TrainShared(flat(), "uniform", 1), Silent())
    point = flat().default_point()
    with raises(ConfigError, "unsupported", "evaluator"):
        evaluator(Score((point,)), Silent())
