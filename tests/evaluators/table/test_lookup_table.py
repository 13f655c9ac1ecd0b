"""A table instead of training: which row is a point's, what is reported and what is charged."""

from typing import Any

import numpy as np
import pytest
from expecting import raises
from made_tables import FLAT, Silent, config_of, flat, looked_up, nested, searched, space, table, written

from nasforge.api.assembly import make_evaluator
from nasforge.api.search import search
from nasforge.core.errors import ConfigError
from nasforge.core.goals import Objective
from nasforge.core.ladder import Rung
from nasforge.core.space import Choice, Decision, Float, Int
from nasforge.core.trial import Measure, Score
from nasforge.evaluators.table.lookup import LookupTable
from nasforge.settings.spec import SearchSpec

# --- which row is a point's ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "width,rate,accuracy\n8,0.1,0.5\n16.0,1e-1,0.75\n",
        "model.width;train.rate;accuracy\n8;0.1;0.5\n16;0.10;0.75\n",
        "\ufeffrate\taccuracy\twidth\n0.100\t0.5\t 8 \n\n0.10000000149\t0.75\t16\n",
        'accuracy,width,comment,rate\n0.5,"8","a, b",".1"\n0.75,"16.0",,0.1\n',
    ],
)
def test_columns_named_like_decisions_in_any_order_and_notation(tmp_path, text):
    evaluator = table(flat(), written(tmp_path, text))
    assert looked_up(evaluator, model__width=8, train__rate=0.1).metrics["val/accuracy"] == 0.5
    assert looked_up(evaluator, model__width=16, train__rate=0.1).metrics["val/accuracy"] == 0.75


def test_texts_and_truths_match_too(tmp_path):
    where = space(Decision("model.a", Choice(("1", "2"))), Decision("model.b", Choice((False, True))))
    evaluator = table(where, written(tmp_path, "a,b,accuracy\n1.0,True,1\n2,false,2\n1,0,3\n2,1,4\n"))
    results = [looked_up(evaluator, model__a=a, model__b=b) for a in "12" for b in (False, True)]
    assert [result.metrics["val/accuracy"] for result in results] == [3, 1, 2, 4]


def test_options_that_differ_as_texts_only_are_told_apart(tmp_path):
    long = ("0" * 8 + "1" * 9, "0" * 8 + "1" * 8 + "0")  # equal to seven digits
    where = space(Decision("model.a", Choice(("1", "01", "none", ""))), Decision("model.b", Choice(long)))
    cells = [(a, b) for a in ("1", "01", "none", "") for b in long]
    columns = "a,b,accuracy\n" + "".join(f"{a},{b},{n}\n" for n, (a, b) in enumerate(cells))
    evaluator = table(where, written(tmp_path, columns))
    accuracies = [looked_up(evaluator, model__a=a, model__b=b).metrics["val/accuracy"] for a, b in cells]
    assert accuracies == list(range(8))


def test_ranges_match_by_value(tmp_path):
    where = space(Decision("model.depth", Int(1, 9)), Decision("train.rate", Float(1e-5, 1, log=True)))
    evaluator = table(where, written(tmp_path, "depth,rate,accuracy\n2.0,3.5938137e-05,0.5\n3,0.5,0.75\n30,0.5,0.9\n"))
    assert looked_up(evaluator, model__depth=2, train__rate=3.5938137e-05).metrics["val/accuracy"] == 0.5
    assert evaluator.optimum() == 0.75, "a row outside the space is not its optimum"


def test_a_graph_string_is_the_spaces_text(tmp_path):
    path = written(tmp_path, 'graph,accuracy\n"[in,conv,out]",0.5\n"[in,pool,out]",0.75\n')
    one = space(Decision("model.graph", Choice(("[in,conv,out]", "[in,pool,out]"))))
    assert looked_up(table(one, path), model__graph="[in,pool,out]").metrics["val/accuracy"] == 0.75
    text = space(Decision("model.op", Choice(("conv", "pool"))), text=f"{__name__}:graph_text")
    assert looked_up(table(text, path, key="graph"), model__op="conv").metrics["val/accuracy"] == 0.5


def graph_text(values: Any) -> str:
    return f"[in,{values['op']},out]"


def test_arch_id_as_key(tmp_path):
    where = flat()
    points = [where.point({"model.width": 8, "train.rate": rate}) for rate in (0.1, 1.0)]
    rows = "".join(f"{point.point_id},{number}\n" for number, point in enumerate(points))
    evaluator = table(where, written(tmp_path, f"id,accuracy\n{rows}"), key="id", key_form="point_id")
    assert [evaluator(Measure(p), Silent()).metrics["val/accuracy"] for p in points] == [0, 1]


NESTED = """block,block.conv.kernel,block.pool.kind,bias,accuracy
none,,,0,1
none,,,1,2
conv,3,,0,3
conv,5.0,nan,1,4
pool,,max,False,5
pool,-,avg,true,6
"""


def test_conditional_decisions_have_empty_cells(tmp_path):
    evaluator = table(nested(), written(tmp_path, NESTED))
    assert looked_up(evaluator, **{"model.block": "none", "model.bias": True}).metrics["val/accuracy"] == 2
    conv = {"model.block": "conv", "model.block.conv.kernel": 5, "model.bias": True}
    assert looked_up(evaluator, **conv).metrics["val/accuracy"] == 4
    pool = {"model.block": "pool", "model.block.pool.kind": "avg", "model.bias": True}
    assert looked_up(evaluator, **pool).metrics["val/accuracy"] == 6


def test_a_smaller_space_leaves_rows_out_and_needs_no_column_for_what_is_fixed(tmp_path):
    small = nested().fixed({"model.bias": False, "model.block": "conv"})
    evaluator = table(small, written(tmp_path, NESTED))
    assert evaluator.optimum() == 3
    path = written(tmp_path, "rate,accuracy\n0.1,0.5\n1,0.75\n")
    assert looked_up(table(flat().fixed({"model.width": 8}), path), model__width=8, train__rate=1.0).metrics


# --- what is reported and charged ------------------------------------------------------------------------------------

CURVES = "width,rate,e1,e3,e9,loss\n8,0.1,1,2,3,0.3\n16,0.1,2,3,4,0.2\n8,1,0,1,,0.5\n16,1,3,4,5,0.1\n"


@pytest.mark.parametrize("options", [{"signal": "e{epochs}"}, {"fidelity": {"9": "e9", 1: "e1", "3": "e3"}}])
def test_fidelities_are_reported_and_charged_in_part(tmp_path, options):
    evaluator = table(flat(), written(tmp_path, CURVES), (1, 3, 9), seconds=18, metrics={"val/loss": "loss"}, **options)
    report = Silent()
    result = looked_up(evaluator, report, model__width=16, train__rate=0.1)
    assert {step: metrics["val/accuracy"] for step, metrics in report.steps.items()} == {1: 2.0, 3: 3.0, 9: 4.0}
    assert [metrics["time/worker_s"] for metrics in report.steps.values()] == [2, 6, 18]
    assert (result.steps_done, result.charged.worker_seconds, result.metrics["val/loss"]) == (9, 18, 0.2)
    lower = looked_up(evaluator, rung=1, model__width=16, train__rate=0.1)
    assert (lower.steps_done, lower.metrics["val/accuracy"], lower.charged.worker_seconds) == (3, 3.0, 6)
    stopped = looked_up(evaluator, Silent(3), model__width=16, train__rate=0.1)
    assert (stopped.status, stopped.steps_done, stopped.charged.worker_seconds) == ("pruned", 3, 6)
    assert evaluator.optimum() == 5


def test_a_learning_curve_is_an_array_with_several_values_per_row(tmp_path):
    curves = np.random.default_rng(0).random((4, 5))
    keys = {"width": np.array([8, 8, 16, 16]), "rate": np.array([0.1, 1.0, 0.1, 1.0])}
    np.savez(tmp_path / "t.npz", curves=curves, **keys)
    names = {"signal": "curves[{epochs}]", "metrics": {"val/third": "curves[3]"}, "final": "curves[5]"}
    evaluator = table(flat(), str(tmp_path / "t.npz"), (1, 4), seconds=8, **names)
    report = Silent()
    result = looked_up(evaluator, report, model__width=16, train__rate=0.1)
    assert [metrics["val/accuracy"] for metrics in report.steps.values()] == list(curves[2, :4])
    assert (result.metrics["val/third"], result.charged.worker_seconds) == (curves[2, 2], 8 * 4 / 5)
    assert evaluator.final_metric and evaluator.final(flat().default_point()) == curves[0, 4]
    assert evaluator.optimum() == curves[:, 3].max()


def test_a_grid_has_an_axis_per_decision_and_is_averaged_over_the_others(tmp_path):
    values = np.random.default_rng(0).random((2, 2, 3))
    (tmp_path / "axes.json").write_text('{"width": [8, 16], "rate": [0.1, 1.0]}')
    np.savez(tmp_path / "t.npz", values=values, size=np.array([[1, 2], [3, 4]]))
    options = {"axes": str(tmp_path / "axes.json"), "costs": {"size": "size"}}
    evaluator = table(flat(), str(tmp_path / "t.npz"), signal="values", **options)
    result = looked_up(evaluator, model__width=16, train__rate=0.1)
    assert result.metrics["val/accuracy"] == values[1, 0].mean()
    point = flat().point({"model.width": 16, "train.rate": 0.1})
    assert evaluator.check(Measure(point)) == {"cost/size": 3}
    assert evaluator.optimum() == values.mean(-1).max()


def test_a_number_that_is_missing_at_a_fidelity_fails_there(tmp_path):
    evaluator = table(flat(), written(tmp_path, CURVES), (1, 9), signal="e{epochs}", seconds=9)
    report = Silent()
    result = looked_up(evaluator, report, model__width=8, train__rate=1.0)
    assert list(report.steps) == [1, 3]
    assert result.status == "failed" and result.error and "no number for this point at epoch 9" in result.error.message
    assert result.charged.worker_seconds == 9


def test_seconds_by_column_and_the_default(tmp_path):
    path = written(tmp_path, FLAT)
    assert looked_up(table(flat(), path), model__width=8, train__rate=0.1).charged.worker_seconds == 1
    timed = table(flat(), path, seconds="seconds", multiply_adds="seconds")
    charged = looked_up(timed, model__width=16, train__rate=0.1).charged
    assert (charged.worker_seconds, charged.multiply_adds) == (20, 20)


def test_what_has_no_number_has_failed_and_others_go_on(tmp_path):
    state = searched(tmp_path, flat(), written(tmp_path, FLAT), budget={"trials": 4})
    assert state.counts() == {"finished": 3, "pruned": 0, "failed": 1, "rejected": 0, "running": 0}
    (failed,) = state.failures()
    assert failed.result.error.cause == "diverged" and "no number for this point" in failed.result.error.message


def test_infinity_is_no_number(tmp_path):
    for word, best in (("inf", max), ("-inf", min)):
        rows = FLAT.replace("0.75", word).replace("1.0,,", f"1.0,{word},")
        goal = [Objective("val/accuracy", best is max)]
        evaluator = table(flat(), written(tmp_path, rows, f"{word}.csv"), objectives=goal)
        assert evaluator.optimum() == best(0.5, 0.25)
        assert looked_up(evaluator, model__width=16, train__rate=0.1).status == "failed"


def test_the_budget_is_of_the_tables_own_time(tmp_path):
    path = written(tmp_path, CURVES.replace("1,,0.5", "1,2,0.5"))
    state = searched(tmp_path, flat(), path, {"signal": "e9", "seconds": 3600}, budget={"worker_seconds": 7200})
    assert state.charged.worker_seconds == 7200
    assert state.counts()["finished"] == 2


def test_pruned_trials_are_charged_to_where_they_came(tmp_path):
    where = space(Decision("model.n", Int(1, 30)))
    rows = "".join(f"{n},{n},{n},{n}\n" for n in range(1, 31))
    state = searched(
        tmp_path,
        where,
        written(tmp_path, f"n,e1,e3,e9\n{rows}"),
        {"signal": "e{epochs}", "seconds": 9},
        budget={"trials": 30},
        epochs=9,
        pruner="asha",
    )
    counts = state.counts()
    assert counts["pruned"] > 8 and counts["finished"] + counts["pruned"] == 30
    spent = sum(trial.result.steps_done for trial in state.trials.values())
    assert state.charged.worker_seconds == spent < 30 * 9


def test_several_objectives_and_limits_are_the_tables(tmp_path):
    path = written(tmp_path, "width,rate,accuracy,size\n8,0.1,0.5,1e3\n16,0.1,0.75,4e3\n8,1,0.25,1e3\n16,1,0.6,4e3\n")
    options = {"costs": {"params": "size"}}
    both = {"objectives": ["val/accuracy", "cost/params"], "strategy": "nsga2", "budget": {"trials": 4}}
    state = searched(tmp_path, flat(), path, options, **both)
    assert sorted(trial.result.values for trial in state.front()) == [(0.5, -1000), (0.75, -4000)]
    limited = searched(
        tmp_path, flat(), path, options, constraints=["params<=2k"], budget={"trials": 2}, name="limited"
    )
    assert limited.best.metrics["val/accuracy"] == 0.5
    assert all(trial.metrics["cost/params"] == 1000 for trial in limited.finished())


def test_a_cost_of_the_tables_own_has_limits(tmp_path):
    path = written(tmp_path, "width,rate,accuracy,joules\n8,0.1,0.5,1\n16,0.1,0.75,4\n8,1,0.25,2\n16,1,0.6,3\n")
    limits = {"constraints": ["energy<=2.5"], "budget": {"trials": 2}}
    state = searched(tmp_path, flat(), path, {"costs": {"energy": "joules"}}, **limits)
    assert state.best.metrics["val/accuracy"] == 0.5 and state.best.metrics["cost/energy"] == 1
    with raises(ConfigError, "unknown", "constraints", "energy<=2.5"):
        config_of(tmp_path, flat(), path, {"costs": {"heat": "joules"}}, **limits)


def test_an_unknown_cost_keeps_no_limit(tmp_path):
    path = written(tmp_path, "width,rate,accuracy,ms\n8,0.1,0.5,1\n16,0.1,0.75,nan\n8,1,0.25,2\n16,1,0.6,3\n")
    options = {"costs": {"latency_ms": "ms"}}
    state = searched(tmp_path, flat(), path, options, constraints=["latency_ms<=9"], budget={"trials": 3})
    assert state.best.metrics["val/accuracy"] == 0.6
    assert all("latency_ms of this point is unknown" in trial.result.error.message for trial in state.failures())


def test_a_signal_to_minimise(tmp_path):
    path = written(tmp_path, CURVES)
    options = {"signal": "loss", "metric": "val/loss"}
    config = config_of(tmp_path, flat(), path, options, objectives=["val/loss"], budget={"trials": 4})
    assert make_evaluator(config).optimum() == 0.1  # type: ignore[attr-defined]
    assert search(config, say=lambda text: None).best.metrics["val/loss"] == 0.1
    loud = LookupTable(
        SearchSpec(flat(), None, [Rung(1)], objectives=[Objective("val/accuracy", False)]), path=path, signal="loss"
    )
    assert loud.optimum() == 0.1


def test_proxies_are_columns_of_a_first_rung(tmp_path):
    evaluator = LookupTable(
        SearchSpec(flat(), None, [Rung(proxies=("synflow",)), Rung(1)]),
        path=written(tmp_path, FLAT),
        signal="accuracy",
        proxies={"synflow": "seconds"},
    )
    points = tuple(flat().point({"model.width": width, "train.rate": 0.1}) for width in (8, 16))
    result = evaluator(Score(points), Silent())
    assert result.metrics == {} and result.scores == ({"zc/synflow": 10}, {"zc/synflow": 20})
    with raises(ConfigError, "missing", "evaluator.proxies"):
        LookupTable(
            SearchSpec(flat(), None, [Rung(proxies=("snip",)), Rung(1)]),
            path=written(tmp_path, FLAT),
            signal="accuracy",
        )


ERRORS = "width,rate,mse,score\n8,0.1,0.5,1\n16,0.1,0.75,2\n8,1,0.25,3\n16,1,0.9,4\n"


@pytest.mark.parametrize(
    ("options", "settings", "metric"),
    [
        ({"signal": "mse"}, {}, "val/mse"),
        ({"signal": None, "fidelity": {9: "mse"}}, {"epochs": 9, "ladder": [{"epochs": 9}]}, "val/mse"),
        ({"signal": "mse", "metric": "val/mse"}, {}, "val/mse"),
        ({"signal": "mse", "metric": "val/mse"}, {"objectives": ["val/mse"]}, "val/mse"),
        ({"signal": "mse"}, {"objectives": ["val/mse"]}, "val/mse"),
        ({"signal": "mse"}, {"objectives": ["min:val/accuracy"]}, "val/accuracy"),
        ({"signal": "score", "metric": "val/score"}, {"objectives": ["min:val/score"]}, "val/score"),
        ({"signal": "score"}, {"objectives": ["min:val/accuracy"]}, "val/accuracy"),
    ],
)
def test_an_error_is_minimised(tmp_path, options, settings, metric):
    settings = {key: value for key, value in settings.items() if key != "epochs"}
    config = config_of(tmp_path, flat(), written(tmp_path, ERRORS), options, budget={"trials": 4}, **settings)
    assert [str(goal) for goal in config.objectives] == [f"min:{metric}"]
    evaluator = make_evaluator(config)
    best = search(config, say=lambda text: None).best
    assert best.metrics[metric] == evaluator.optimum() == min(v for v in column_of(evaluator))  # type: ignore[attr-defined]
    point = {"model.width": 8, "train.rate": 0.1 if "score" in str(options) else 1.0}
    assert best.architecture.values == point


def column_of(evaluator):
    return evaluator._columns.signal[-1]


@pytest.mark.parametrize(
    ("options", "settings", "kind", "name"),
    [
        ({"signal": "score", "metric": "val/score"}, {}, "missing", "max:val/score"),
        ({"signal": "mse", "metric": "val/accuracy"}, {}, "conflict", "mse"),
        ({"signal": "mse"}, {"objectives": ["val/accuracy"]}, "conflict", "mse"),
        ({"signal": "mse"}, {"objectives": ["max:val/accuracy", "val/x"]}, "missing", "max:val/x"),
    ],
)
def test_a_direction_that_is_not_clear_is_asked_for(tmp_path, options, settings, kind, name):
    with raises(ConfigError, kind, "objectives", name):
        make_evaluator(config_of(tmp_path, flat(), written(tmp_path, ERRORS), options, **settings))


def test_a_column_that_says_nothing_is_maximised_with_a_note(tmp_path):
    path = written(tmp_path, ERRORS)
    messages = list[str]()
    state = search(config_of(tmp_path, flat(), path, {"signal": "score"}, budget={"trials": 4}), say=messages.append)
    assert state.best.metrics["val/accuracy"] == 4
    assert len(messages) == 1 and "'score' is called val/accuracy" in messages[0] and "maximises" in messages[0]
