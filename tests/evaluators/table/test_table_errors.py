"""One clear error for every way in which a table does not fit."""

import json
import re
import time

import numpy as np
import pytest
from made_tables import FLAT, Silent, config_of, flat, looked_up, searched, space, table, written

from nasforge.api.search import make_evaluator, search
from nasforge.cli.app import main
from nasforge.core.errors import BuildError, ConfigError, DataError, NasforgeError
from nasforge.core.space import Decision, Float, Int
from nasforge.core.trial import Score, TrainShared


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("width,rate,acc\n8,0.1,1\n", {}, "no column 'accuracy'; Known: acc, rate, width"),
        ("width,rte,accuracy\n8,0.1,1\n", {}, "no column for decision train.rate; did you mean 'rte'"),
        ("a,b,accuracy\n8,0.1,1\n", {"key": "c"}, "no column 'c'; Known: a, accuracy, b"),
        ("width,rate,accuracy\n8,0.1,high\n", {}, "line 2: column 'accuracy' needs a number, got 'high'$"),
        ("width;rate;accuracy\n8;0.1;0,5\n", {}, "needs a number, got '0,5'; write it with a point"),
        (
            "width,rate,accuracy\n8,0.1,1\n\n8,.1,2\n",
            {},
            "line 2 and line 4 are the same point: model.width 8, train.rate",
        ),
        ("width,rate,accuracy\n8,,1\n", {}, "line 2 has no value for 'train.rate', got ''"),
        ("width,rate,accuracy\n9,0.1,1\n", {}, r"no row is a point of space 'made_up': 'model.width' cannot be '9'"),
        ("width,rate,accuracy\n8,0.1\n", {}, "line 2 has 2 cells, the header 3"),
        ("width,rate,rate\n8,0.1,1\n", {}, "column 'rate' is there twice"),
        ("width,rate,accuracy\n", {}, "needs a header line"),
        ("", {}, "needs a header line"),
        ("width,rate,accuracy\n8,0.1,nan\n", {}, "the signal has no number in any row"),
        (FLAT, {"signal": "e{epochs}"}, r"no column looks like 'e\{epochs\}'"),
        (FLAT, {"signal": "accuracy", "fidelity": {1: "accuracy"}}, "needs signal .* or fidelity .*, one of them"),
        (FLAT, {"fidelity": {}}, "needs signal .* or fidelity .*, one of them"),
        (FLAT, {"fidelity": {"first": "accuracy"}}, "fidelity maps epochs to columns, got 'first'"),
        (FLAT, {"fidelity": {9: "accuracy"}}, r"the ladder's epochs 3 have no column; known are 9\. Say .* ladder: \["),
        (FLAT, {"seconds": -1}, "seconds must be a number of at least 0, got -1"),
        (FLAT.replace("10", "-10"), {"seconds": "seconds"}, "line 2: seconds must be at least 0, got -10"),
        (FLAT, {"key": "width", "key_form": "canonical"}, "space 'made_up' names no function 'canonical'"),
        (FLAT, {"key": "width", "key_form": "name"}, "key_form is text, canonical, arch_id or point_id, got 'name'"),
        (FLAT, {"key_form": "text"}, "key_form describes one key column. Set key to its name"),
        (FLAT, {"key": "width"}, "key 'width' needs a function .* set key_form to arch_id"),
    ],
)
def test_one_clear_error_for_a_table_that_does_not_fit(tmp_path, text, options, says):
    with pytest.raises(NasforgeError, match=says):
        table(flat(), written(tmp_path, text), **options)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.csv: no such file"):
        table(flat(), str(tmp_path / "nowhere.csv"))
    with pytest.raises(DataError, match="is a folder; needed is a file"):
        table(flat(), str(tmp_path))
    for name in ("bad.npz", "BAD.NPZ"):
        (tmp_path / name).write_bytes(b"no zip")
        with pytest.raises(DataError, match=rf"{name}: cannot be read as NPZ: not a file of numpy's$"):
            table(flat(), str(tmp_path / name))
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"bad\.csv: cannot be read as text"):
        table(flat(), str(tmp_path / "bad.csv"))
    np.savez(tmp_path / "objects.npz", key=np.array(["a", None], object), accuracy=np.zeros(2))
    with pytest.raises(ConfigError, match=r"array 'key' holds Python objects, which are not loaded"):
        table(flat(), str(tmp_path / "objects.npz"), key="key")
    np.savez(tmp_path / "short.npz", width=np.array([8, 16]), rate=np.array([1, 1]), accuracy=np.zeros(1))
    with pytest.raises(ConfigError, match="the key has 2 rows, the signal 1"):
        table(flat(), str(tmp_path / "short.npz"))
    np.savez(tmp_path / "long.npz", width=np.array([8, 99]), rate=np.array([1, 1]), accuracy=np.zeros(3))
    with pytest.raises(ConfigError, match="the key has 2 rows, the signal 3"):
        table(flat(), str(tmp_path / "long.npz"))
    shapes = {"runs": np.zeros((2, 3)), "deep": np.zeros((2, 3, 4)), "one": 1.0}
    np.savez(tmp_path / "runs.npz", width=[8, 16], rate=[1, 1], accuracy=[1.0, 2.0], **shapes)
    for signal, says in (
        ("runs", r"no column 'runs'; 'runs' has several values per row, .*A learning curve is 'runs\[{epochs}\]'"),
        ("runs[4]", r"no column 'runs\[4\]'; did you mean 'runs"),
        ("accuracy[1]", r"no column 'accuracy\[1\]'; did you mean 'accuracy'"),
        ("accuracy[{epochs}]", r"no column looks like 'accuracy\[{epochs}\]'"),
        ("deep", r"array 'deep' is \(2, 3, 4\); needed is one value per row, or several"),
        ("one", "'one' is one value, 1.0"),
    ):
        with pytest.raises(ConfigError, match=says):
            table(flat(), str(tmp_path / "runs.npz"), signal=signal)
    np.savez(tmp_path / "none.npz", width=[], rate=[], accuracy=[])
    with pytest.raises(ConfigError, match="has no rows"):
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
    with pytest.raises(ConfigError, match="no column 'accuracy\\*100'; columns are not scaled") as raised:
        table(flat(), str(path), signal="accuracy*100")
    command = re.search(r"python -c \"(.*)\"\. Then set path to (\S+) and name (\S+)$", str(raised.value))
    assert command
    exec(command[1], {})
    converted = table(flat(), command[2], signal=command[3], partial=True)
    assert converted.optimum() in (50, 75)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"signal": "runs[mean]"}, r"not averaged\. Write .*numpy\.load.*t\['runs'\]\.mean\(1\)"),
        ({"signal": "accuracy", "costs": {"params": "acc_M*1e6"}}, "columns are not scaled. Write scaled columns"),
        ({"signal": "runs[{epochs}]*100"}, "columns are not scaled. Write scaled columns"),
        ({"key": ["width", "rate"]}, "key is one column. Write a column for each decision"),
        ({"key": "runs"}, "'runs' has several values per row"),
        ({"key": "width", "key_form": "{width}:{rate}"}, "key_form is text, .* write a column for each decision"),
        ({"labels": ["conv"]}, "labels is no option any more. Write a column for each decision"),
    ],
)
def test_other_options_of_before_say_how_the_table_is_converted(tmp_path, options, says):
    path = tmp_path / "t.npz"
    np.savez(path, width=[8, 16], rate=[0.1, 0.1], accuracy=[0.5, 0.75], runs=np.zeros((2, 3)))
    with pytest.raises(ConfigError, match=says):
        table(flat(), str(path), **options)


def test_a_point_without_a_row_ends_the_search_with_the_nearest(tmp_path):
    path = written(tmp_path, "width,rate,accuracy\n8,0.1,0.5\n16,0.1,0.75\n")
    near = r"model.width 8, train.rate 1 is none of its 2 keys; like it is model.width 8, train.rate 0.1 \(line 2\)"
    with pytest.raises(ConfigError, match=rf"no row for this point: {near}.*needs partial: true"):
        looked_up(table(flat(), path), model__width=8, train__rate=1.0)


def test_a_range_without_steps_has_more_values_than_a_table(tmp_path):
    where = space(Decision("train.rate", Float(0.1, 1.0)))
    evaluator = table(where, written(tmp_path, "rate,accuracy\n0.1,0.5\n1,0.75\n"))
    with pytest.raises(ConfigError, match=r"No table has every value of train\.rate: list its own in the space\. "):
        looked_up(evaluator, train__rate=0.3)


def test_many_points_without_a_row_are_passed_over_at_once(tmp_path):
    known = "".join(f"{'|'.join(str(n))}~{'x' * 60},{n}\n" for n in range(3000))
    where = space(Decision("model.n", Int(0, 10**6)), text=f"{__name__}:long_text")
    evaluator = table(where, written(tmp_path, f"arch,accuracy\n{known}"), key="arch", partial=True)
    began = time.process_time()
    for n in range(3000, 3200):
        with pytest.raises(BuildError, match="no row for this point"):
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
    said = capsys.readouterr()
    assert (said.out + said.err).count("no row for this point") == 4, "three trials, and the end"
    assert "2000 proposals in a row cannot be built" in said.err


def test_a_limit_on_a_cost_that_the_table_has_not(tmp_path):
    config = config_of(tmp_path, flat(), written(tmp_path, FLAT), constraints=["flops<=1m"])
    with pytest.raises(ConfigError, match=r"cost/flops: no column .* --set evaluator\.costs\.flops=COLUMN"):
        search(config, say=lambda text: None)


def test_an_objective_that_it_does_not_report(tmp_path):
    config = config_of(tmp_path, flat(), written(tmp_path, FLAT), objectives=["val/loss"])
    with pytest.raises(ConfigError, match="objective 'val/loss' is not measured"):
        make_evaluator(config)


def test_what_a_table_cannot_do(tmp_path):
    evaluator = table(flat(), written(tmp_path, FLAT))
    with pytest.raises(ConfigError, match="trains no supernet"):
        evaluator(TrainShared(flat(), "uniform", 1), Silent())
    point = flat().default_point()
    with pytest.raises(ConfigError, match="one point per trial"):
        evaluator(Score((point,)), Silent())
