"""Networks widened to the limits of their search."""

import json
import math
from dataclasses import replace

import pytest
from expecting import raises

from nasforge.api.retrain import networks, retrain
from nasforge.api.retrain.widening import widened
from nasforge.api.search import search
from nasforge.cli.app import main
from nasforge.core.errors import BuildError, SearchError
from nasforge.core.goals import Constraint
from nasforge.core.space import Choice, Decision, Int, SearchSpace
from nasforge.experiment.state import load_state
from nasforge.exporters.network_folder import load
from nasforge.views.results import networks_on_test, outcome_sentence

SPACE = SearchSpace(
    "two",
    (
        Decision("model.stage0.width", Choice((4, 8, 6))),
        Decision("model.stage1.channels", Int(2, 8, 2)),
        Decision("model.stage0.layer0.block", Choice(("residual", "separable_3"))),
    ),
)
NARROW = {"model.stage0.width": 4, "model.stage1.channels": 2, "model.stage0.layer0.block": "residual"}
LIMITS = [Constraint.parse("params<=100"), Constraint.parse("flops<=1000")]


def costs(point):
    """Many FLOPs in the first stage, many params in the second."""
    first, second = point.values["model.stage0.width"], point.values["model.stage1.channels"]
    return {"cost/params": first + second**2, "cost/flops": 20 * first**2 + second}


def widths(point):
    return point.values["model.stage0.width"], point.values["model.stage1.channels"]


def test_the_limit_that_is_used_least_is_used_most():
    assert widths(widened(SPACE, SPACE.point(NARROW), LIMITS, costs)) == (6, 8)


@pytest.mark.parametrize(
    ("limits", "end"),
    [
        (["params<=100"], (8, 8)),
        (["params<=20"], (4, 4)),
        (["params<=14", "flops<=800"], (6, 2)),
        (["params<=8", "flops<=320"], (4, 2)),
        (["flops<=1e9"], (8, 8)),
    ],
)
def test_no_limit_is_broken_and_no_step_is_left(limits, end):
    bounds = [Constraint.parse(limit) for limit in limits]
    point = widened(SPACE, SPACE.point(NARROW), bounds, costs)
    assert widths(point) == end
    assert point.values["model.stage0.layer0.block"] == "residual"


def test_a_network_that_cannot_be_built_is_no_step():
    def picky(point):
        if widths(point)[1] > 4:
            raise BuildError("too many channels", kind="range")
        return costs(point)

    assert widths(widened(SPACE, SPACE.point(NARROW), LIMITS, picky)) == (6, 4)


SMALL = {
    "space": replace(
        SPACE,
        decisions=(
            Decision("model.activation", Choice(("relu",))),
            Decision("model.stage0.width", Choice((4, 6, 8))),
            Decision("model.stage0.layer0.block", Choice(("residual",))),
        ),
        builder="staged",
        arguments={"strides": [2], "stem_width": 4, "layers": 1},
        defaults={"train.batch_size": 64, "train.precision": "fp32"},
    ),
    "data": {"source": "digits", "images": 400},
    "strategy": "random",
    "runner": "local",
    "pruner": "none",
    "epochs": 1,
    "tracking_uri": "none",
    "name": "small",
}


def searched(tmp_path, trials=2, widths=(4, 6), **more):
    """A real search that measures the narrowest network, and the next."""
    tmp_path.mkdir(exist_ok=True)
    points = tmp_path / "points.json"
    points.write_text(json.dumps([{"model.stage0.width": width} for width in widths[:trials]]))
    search(**SMALL, **more, start_from=str(points), budget={"trials": trials}, runs_dir=str(tmp_path))
    return tmp_path / "small"


def test_what_is_retrained_is_as_wide_as_the_limits_allow(tmp_path, monkeypatch):
    folder = searched(tmp_path, constraints=["params<=2k"])
    best = load_state(folder).best
    trained = []
    train = networks.train_network
    monkeypatch.setattr(networks, "train_network", lambda one, progress: trained.append(one) or train(one, progress))

    outcome = retrain(folder, widen=True, seeds=1, epochs=1, device="cpu")

    (finalist,) = outcome
    assert finalist.widened == {"model.stage0.width": 8} != {"model.stage0.width": best.architecture.values}
    assert finalist.number == best.number and finalist.to_json()["widened"] == {"model.stage0.width": 8}
    assert best.metrics["cost/params"] < finalist.retrained.costs["cost/params"] <= 2000
    assert finalist.reference.costs["cost/flops"] > 1.2 * best.metrics["cost/flops"], "it is scaled to the wider one"
    (note,) = finalist.retrained.notes
    assert f"trial {best.number} widened within params<=2k: model.stage0.width" in note and "-> 8" in note
    assert load(folder / "best").architecture.values["model.stage0.width"] == 8
    assert [one.trial for one in trained] == [best.number] * 2
    retrain(folder, widen=True, seeds=1, epochs=1, device="cpu")
    assert len(trained) == 2, "it is not trained again"


def test_pages_call_it_widened_beside_the_network_of_the_trial(tmp_path):
    folder = searched(tmp_path, constraints=["params<=2k"])
    best = load_state(folder).best.number
    retrain(folder, seeds=1, epochs=1, device="cpu")
    retrain(folder, widen=True, seeds=1, epochs=1, device="cpu")
    state = load_state(folder)
    rows = {row["name"]: row for row in networks_on_test(state, folder / "finalists")}
    assert rows[f"trial {best}, widened"]["won"] and not rows[f"trial {best}"]["won"]
    assert rows[f"trial {best}, widened"]["params"] > rows[f"trial {best}"]["params"]
    sentence = outcome_sentence(state, [*rows.values()], "finished")
    (reference,) = (row for name, row in rows.items() if name.endswith(f"reference of trial {best}, widened"))
    assert f"The reference {reference['network']} reaches" in sentence
    retrain(folder, seeds=2, epochs=1, device="cpu")  # best/ is that of the trial again
    rows = {row["name"]: row for row in networks_on_test(state, folder / "finalists")}
    assert rows[f"trial {best}"]["won"] and not rows[f"trial {best}, widened"]["won"]


def test_networks_that_become_equal_are_trained_once(tmp_path, capfd):
    folder = searched(tmp_path, constraints=["params<=2k"])
    command = [
        "retrain",
        folder.name,
        "--runs-dir",
        str(tmp_path),
        "--widen",
        "--top",
        "2",
        "--seeds",
        "1",
        "--epochs",
        "1",
        "--device",
        "cpu",
    ]
    assert main([*command, "--json"]) == 0
    printed = json.loads(capfd.readouterr().out)
    (finalist,) = printed["finalists"]
    assert "is the same network once it is widened" in finalist["retrained"]["notes"][1]
    assert main(command) == 0
    printed = capfd.readouterr()
    assert " widened " in printed.out and "widened within params<=2k" in printed.err


@pytest.mark.parametrize(
    ("more", "kind", "words"),
    [
        ({}, "missing", "this search has none"),
        ({"constraints": ["params<=2k", "latency_ms<=1000"]}, "unsupported", "latency_ms<=1000"),
    ],
)
def test_limits_that_say_nothing_of_the_width_are_refused(more, kind, words, tmp_path):
    folder = searched(tmp_path, trials=1, **more)
    with raises(SearchError, kind, "widen", words):
        retrain(folder, widen=True, seeds=1, epochs=1)
    assert not load_state(folder).tests


def test_a_space_without_widths_is_refused(tmp_path):
    search(
        **{**SMALL, "space": "nasbench201", "strategy": "random"},
        constraints=["params<=2G"],
        budget={"trials": 1},
        runs_dir=str(tmp_path),
    )
    with raises(SearchError, "unsupported", "widen", "'nasbench201' has no decision that can be widened"):
        retrain(tmp_path / "small", widen=True, seeds=1, epochs=1)


def test_a_network_at_its_limits_stays_as_it_is(tmp_path):
    folder = searched(tmp_path, trials=1, constraints=["params<=2k", "flops<=1G"])
    width = load_state(folder).best.architecture.values["model.stage0.width"]
    limit = math.ceil(load_state(folder).best.metrics["cost/params"])
    folder = searched(tmp_path / "tight", trials=1, constraints=[f"params<={limit}"])
    (finalist,) = retrain(folder, widen=True, seeds=1, epochs=1, device="cpu")
    assert finalist.architecture.values["model.stage0.width"] == width and not finalist.widened
    assert finalist.retrained.notes == (
        f"{finalist.architecture.arch_id}: no width of trial 0 can be raised within params<={limit}",
    )


def test_a_network_with_the_largest_widths_is_called_so(tmp_path):
    folder = searched(tmp_path, trials=1, widths=(8,), constraints=["params<=2k"])
    (finalist,) = retrain(folder, widen=True, seeds=1, epochs=1, device="cpu")
    assert finalist.retrained.notes[0].endswith("trial 0 has the largest widths of the space already")
