"""One clear error for every way in which a table does not fit."""

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
        (FLAT, {"signal": "seconds*1e999"}, "the signal has no number in any row"),
        (FLAT, {"signal": "e{epochs}"}, r"no column looks like 'e\{epochs\}'"),
        (FLAT, {"signal": "accuracy", "fidelity": {1: "accuracy"}}, "needs signal .* or fidelity .*, one of them"),
        (FLAT, {"fidelity": {}}, "needs signal .* or fidelity .*, one of them"),
        (FLAT, {"fidelity": {"first": "accuracy"}}, "fidelity maps epochs to columns, got 'first'"),
        (FLAT, {"fidelity": {9: "accuracy"}}, r"the ladder's epochs 3 have no column; known are 9\. Say .* ladder: \["),
        (FLAT, {"seconds": -1}, "seconds must be a number of at least 0, got -1"),
        (FLAT.replace("10", "-10"), {"seconds": "seconds"}, "line 2: seconds must be at least 0, got -10"),
        (FLAT, {"key": ["width"]}, r"key has 1 columns \(width\), the space 2 decisions \(model.width, train.rate\)"),
        (FLAT, {"key": "width", "key_form": "canonical"}, "space 'made_up' names no function 'canonical'"),
        (FLAT, {"key": "width", "key_form": "name"}, "no key_form 'name'; .* how the key is written: '{width}:{rate}'"),
        (FLAT, {"key": "width", "key_form": "{width}"}, "key_form '{width}' does not name train.rate"),
        (FLAT, {"key": "width", "key_form": "{width}{width}{rate}"}, "names a decision twice"),
        (FLAT, {"key": "width", "key_form": "{widht}:{rate}"}, "names 'widht', which is no .*did you mean 'width'"),
        (FLAT, {"key": "width", "key_form": "{width}:{rate}"}, "line 2: '8' is not written as key_form"),
        (FLAT, {"key_form": "text"}, "key_form says what the one key column holds"),
        (
            "what,accuracy\n8-0.1,1\n",
            {"key": "what"},
            r"line 2: '8-0.1' does not say the decisions as JSON or as name=value",
        ),
        ("what,accuracy\nwidth=8 rate=1,1\n", {"key": "what"}, "line 2 has no value for 'train.rate', got ''"),
        ("what,accuracy\nwidht=8,1\n", {"key": "what"}, "names 'widht', which is no decision"),
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
    np.savez(tmp_path / "runs.npz", width=[8, 16], rate=[1, 1], runs=np.zeros((2, 3)), one=1.0, accuracy=[1.0, 2.0])
    for signal, says in (
        ("runs", r"'runs' is \(2, 3\); needed is one value per row: 'runs\[3\]' .*'runs\[{epochs}\]' a learning curve"),
        ("runs[4]", r"'runs\[4\]': the array has 3 values per row"),
        ("accuracy[1]", "has one value per row; leave the brackets out"),
        ("accuracy[{epochs}]", "has one value per row; leave the brackets out"),
        ("one", "'one' is one value, 1.0"),
    ):
        with pytest.raises(ConfigError, match=says):
            table(flat(), str(tmp_path / "runs.npz"), signal=signal)
    np.savez(tmp_path / "none.npz", key=np.zeros((0, 2)), width=[], rate=[], accuracy=[])
    for options in ({}, {"key": "key"}):
        with pytest.raises(ConfigError, match="has no rows"):
            table(flat(), str(tmp_path / "none.npz"), **options)


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
