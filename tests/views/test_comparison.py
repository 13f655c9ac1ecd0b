"""Comparisons of searches made by hand: alignment by charge, tables, tests against random, the optimum."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from expecting import raises

from nasforge.core.errors import ConfigError, ExportError, NasforgeError
from nasforge.views import comparison_page as page
from nasforge.views.comparison import at_charge, compare_groups
from nasforge.views.comparison_records import Comparison, metrics_of, metrics_of_search
from nasforge.views.groups import Group
from nasforge.views.plain import plain
from nasforge.views.trajectory import Trajectory

NAN = math.nan


def search(
    signal: Sequence[float],
    *,
    seed: int = 0,
    name: str = "random",
    cost: float = 2.0,
    budget: float | None = None,
    final: Sequence[float] | None = None,
    objectives: Sequence[str] = ("max:val/accuracy",),
    points: Sequence[Any] | None = None,
    steps: int = 3,
    running: bool = False,
    evaluator: str = "table",
    inherited: bool = False,
    shared: bool = False,
    pieces: bool = False,
    test: Sequence[float] | None = None,
) -> Trajectory:
    count = len(signal)
    done = {"trials": float(count), "worker_seconds": cost * count, "multiply_adds": 10.0 * count}
    limit = count if budget is None else budget
    spent = limit <= count and not running
    return Trajectory(
        experiment=f"{name}-s{seed}",
        facts={"objectives": list(objectives)},
        parts={"strategy": {"name": name, "options": {}}, "evaluator": {"name": evaluator, "options": {}}},
        seed=seed,
        charged={axis: [total / count * (i + 1) for i in range(count)] for axis, total in done.items()},
        signal=list(signal),
        steps=[-1 if math.isnan(value) else steps for value in signal],
        inherited=[inherited and not math.isnan(value) for value in signal],
        shared=shared,
        final=final,
        test=test,
        points=points or [(value,) for value in signal],
        counts={"finished": count},
        running=running,
        reach={
            axis: total if spent or running else (limit if axis == "trials" else math.inf)
            for axis, total in done.items()
        },
        spent=spent,
        pieces=pieces,
    )


def group(name: str, *curves: Sequence[float], **settings: Any) -> Group:
    return Group(
        name,
        {"name": name, "options": {}},
        tuple(search(c, seed=i, name=name, **settings) for i, c in enumerate(curves)),
    )


def row(comparison: Comparison, label: str, quantity: str = "signal", at: float | None = None) -> Any:
    return next(
        r for r in comparison.rows if r.label == label and r.quantity == quantity and (at is None or r.at == at)
    )


def test_table_at_checkpoints() -> None:
    comparison = compare_groups(
        "c", [group("random", [1, 1, 2], [1, 2, 2]), group("evolution", [1, 3, 3], [1, 2, 4])], at=[3, 2]
    )
    assert [(r.label, r.at) for r in comparison.rows] == [
        ("evolution", 2), ("random", 2), ("evolution", 3), ("random", 3),
    ]  # fmt: skip
    assert row(comparison, "evolution", at=2).summary.mean == 2.5 and row(comparison, "random", at=2).values == [1, 2]
    test = row(comparison, "evolution", at=3).against_random
    assert test.n == 2 and test.difference == 1.5 and test.p_wilcoxon_holm == test.p_wilcoxon
    assert row(comparison, "random", at=3).against_random is None
    curve = next(c for c in comparison.curves if c.label == "evolution")
    assert curve.x == [1, 2, 3] and curve.mean == [1, 2.5, 3.5]


def test_seeds_without_a_final_figure_are_named() -> None:
    def finals(name: str, *values: float) -> Group:
        made = [search([1.0], seed=i, name=name, final=[value], test=[NAN]) for i, value in enumerate(values)]
        return Group(name, {"name": name, "options": {}}, tuple(made))

    comparison = compare_groups(
        "c", [finals("random", 1.0, 2.0, 3.0), finals("x", 4.0, NAN, 6.0), finals("y", NAN, NAN)]
    )
    assert row(comparison, "x", "final").summary.n == 2
    (note,) = [note for note in comparison.notes if "'final'" in note]
    assert "missing for x (seed 1), y (seed 0, 1): the table has none" in note and "random" not in note
    assert not any("'test'" in note for note in comparison.notes)  # nothing was retrained


def test_parts_of_trainings_are_not_trials_of_one_cost() -> None:
    groups = [group("random", [1, 2]), group("promotion", [1, 3], pieces=True)]
    assert any("trains a piece (promotion)" in note for note in compare_groups("c", groups).notes)
    assert not any("parts of" in note for note in compare_groups("c", groups, axis="worker_seconds").notes)
    assert row(compare_groups("c", groups), "promotion").against_random is not None


def test_pairs_are_common_seeds() -> None:
    random = Group("random", {"name": "random", "options": {}}, tuple(search([s], seed=s) for s in (0, 1, 2)))
    other = Group("x", {"name": "x", "options": {}}, tuple(search([s + 5.0], seed=s, name="x") for s in (1, 2, 9)))
    comparison = compare_groups("c", [random, other])
    assert row(comparison, "x").against_random.n == 2 and row(comparison, "x").against_random.difference == 5.0
    assert row(comparison, "x").summary.n == 3
    assert any("different seeds" in note for note in comparison.notes)


def test_holm_is_over_the_strategies_of_a_table() -> None:
    curves = [[float(i)] for i in range(8)]
    better = [[i + 1.0 + i / 100] for i in range(8)]
    comparison = compare_groups("c", [group("random", *curves), group("a", *better), group("b", *better)])
    test = row(comparison, "a").against_random
    assert test.p_wilcoxon == pytest.approx(2 / 2**8) and test.p_wilcoxon_holm == pytest.approx(2 * test.p_wilcoxon)


def test_equal_charge_not_equal_trials() -> None:
    """A search whose trials cost three times as much is met at the same charge, after a third of its trials."""
    cheap, dear = group("random", [1, 2, 3, 4, 5, 6], cost=1.0), group("dear", [4, 5, 6], cost=3.0)
    comparison = compare_groups("c", [cheap, dear], axis="worker_seconds", at=[3, 6])
    assert comparison.end == 6.0
    assert row(comparison, "random", at=3).summary.mean == 3 and row(comparison, "dear", at=3).summary.mean == 4
    assert row(comparison, "random", at=6).summary.mean == 6 and row(comparison, "dear", at=6).summary.mean == 5


def test_trial_counts_once_all_of_it_fits() -> None:
    one = search([1, 2, 3], cost=2.0)
    values = at_charge(one, one.signal, "worker_seconds", [1.9, 2.0, 3.9, 4.0, 6.0, 6.1])
    assert math.isnan(values[0]) and list(values[1:5]) == [1, 1, 2, 3] and math.isnan(values[5])


def test_search_that_ended_by_itself_stands_to_the_end() -> None:
    comparison = compare_groups("c", [group("random", [1, 2, 3, 4]), group("darts", [NAN, 7], budget=4)])
    assert comparison.end == 4 and row(comparison, "darts").summary.mean == 7
    assert any("ended or were stopped with budget left" in note and "darts-s0" in note for note in comparison.notes)


def test_running_search_ends_the_comparison_where_it_is() -> None:
    comparison = compare_groups("c", [group("random", [1, 2, 3, 4]), group("slow", [1, 5], budget=4, running=True)])
    assert (
        comparison.end == 2
        and row(comparison, "random").summary.mean == 2
        and row(comparison, "slow").summary.mean == 5
    )
    assert any("still running" in note and "slow-s0" in note for note in comparison.notes)


def test_one_running_search_of_many_is_a_missing_seed() -> None:
    whole = [search([1, 2, 3, 4], seed=seed) for seed in (0, 1)]
    short = search([1, 9], seed=2, budget=4, running=True)
    comparison = compare_groups("c", [Group("random", {"name": "random", "options": {}}, (*whole, short))], at=[2, 4])
    assert comparison.end == 4
    assert row(comparison, "random", at=2).summary.n == 3 and row(comparison, "random", at=4).seeds == [0, 1]
    assert comparison.curves[0].mean == [1, 2, 3, 4], "a curve is of the same seeds from end to end"


def test_search_without_a_finished_trial_is_left_out_and_named() -> None:
    comparison = compare_groups("c", [group("random", [1, 2], [NAN, NAN])])
    assert row(comparison, "random").summary.n == 1 and any("random-s1" in note for note in comparison.notes)
    with raises(ConfigError, "empty"):
        compare_groups("c", [group("random", [NAN])])


def test_signals_of_different_kinds_are_not_tested() -> None:
    shared = group("spos", [0.9, 0.9], final=[1.0, 2.0], steps=0)
    trained = group("random", [0.5, 0.6], final=[3.0, 4.0])
    comparison = compare_groups("c", [trained, shared])
    assert row(comparison, "spos").against_random is None
    assert row(comparison, "spos", "final").against_random.difference == -2.0
    assert any("different kind" in note and "spos" in note for note in comparison.notes)


def test_one_strategy_of_another_kind_costs_the_others_no_test() -> None:
    trained: dict[str, Any] = {"evaluator": "training"}
    shared: dict[str, Any] = {"evaluator": "shared_weights", "shared": True}
    groups = [
        group("random", [1, 2], [1, 3], **trained),
        group("evolution", [1, 4], [1, 5], **trained),
        group("darts", [NAN, 3], [NAN, 4], **shared),
        group("spos", [NAN, 9], [NAN, 9], inherited=True, **shared),
        group("enas", [NAN, 9], [NAN, 9], inherited=True, steps=0, **shared),
    ]
    comparison = compare_groups("c", groups)
    tests = {r.label: r.against_random for r in comparison.rows if r.quantity == "signal"}
    assert tests["evolution"].difference == 2.0 and tests["darts"].difference == 1.0
    assert tests["spos"] is None and tests["enas"] is None
    (note,) = [note for note in comparison.notes if "different kind" in note]
    assert "spos, enas" in note and "darts" not in note and "evolution" not in note


def test_trials_that_share_weights_are_not_trials_of_one_cost() -> None:
    groups = [group("random", [1, 2]), group("spos", [NAN, 2], shared=True)]
    (note,) = [note for note in compare_groups("c", groups).notes if "--axis worker_seconds" in note]
    assert "spos" in note and "random" not in note
    assert not any("--axis" in note for note in compare_groups("c", groups, axis="worker_seconds").notes)
    assert not any("--axis" in note for note in compare_groups("c", groups[:1]).notes)


def test_a_strategy_without_a_finished_trial_leaves_the_others_their_comparison() -> None:
    groups = [group("random", [1, 2]), group("evolution", [1, 3]), group("spos", [NAN, NAN], shared=True)]
    comparison = compare_groups("c", groups)
    assert [r.label for r in comparison.rows] == ["evolution", "random"] and comparison.rows[
        0
    ].against_random is not None
    assert any("spos-s0" in note and "left out" in note for note in comparison.notes)
    late = replace(groups[2], searches=(search([NAN, 5], name="spos", cost=9.0, budget=3),))
    comparison = compare_groups("c", [*groups[:2], late], axis="worker_seconds", at=[2, 4])
    assert [r.label for r in comparison.rows if r.at == 4] == ["evolution", "random"]
    (note,) = [note for note in comparison.notes if "nothing to show" in note]
    assert "spos at 2, 4" in note


def test_trials_that_do_not_fit_into_the_charge_are_said_to() -> None:
    """A budget in seconds may be overshot by the last trial; where that is the first one too, no figure is left."""
    one, two = (
        replace(search([5], name=name, cost=37.0), reach={"trials": 1.0, "worker_seconds": 25.0})
        for name in ("random", "evolution")
    )
    groups = [Group(s.parts["strategy"]["name"], s.parts["strategy"], (s,)) for s in (one, two)]
    comparison = compare_groups("c", groups, axis="worker_seconds")
    (note,) = [note for note in comparison.notes if "nothing to show" in note]
    assert comparison.rows == [] and "random at 25" in note and "evolution at 25" in note


def test_less_is_better() -> None:
    settings: dict[str, Any] = {"objectives": ["min:val/loss"]}
    comparison = compare_groups(
        "c", [group("random", [3, 2], [3, 2], **settings), group("x", [3, 1], [2, 2], **settings)]
    )
    assert [r.label for r in comparison.rows] == ["x", "random"]
    assert row(comparison, "x").summary.best == 1 and row(comparison, "x").summary.bound == 1.5 + 2 * 0.5
    assert "mean + 2 SE" in page.table_columns(comparison, "signal")


def test_a_final_figure_may_have_a_direction_of_its_own() -> None:
    def groups(column: str) -> list[Group]:
        made = (group("random", [3], [3], final=[0.25]), group("x", [1], [2], final=[0.5]))
        evaluator = {"name": "table", "options": {"final": column}}
        told = [tuple(replace(s, parts={**s.parts, "evaluator": evaluator}) for s in g.searches) for g in made]
        return [replace(g, searches=searches) for g, searches in zip(made, told, strict=True)]

    for column, order, sign in (("max:right", ["x", "random"], "−"), ("min:wrong", ["random", "x"], "+")):
        comparison = compare_groups("c", groups(column))
        assert [r.label for r in comparison.rows if r.quantity == "final"] == order
        assert comparison.final == column[4:] and f"mean {sign} 2 SE" in page.table_columns(comparison, "final")
    assert compare_groups("c", groups("test")).final_maximised


def test_hypervolume_is_a_share_of_the_box_of_all_that_was_measured() -> None:
    settings: dict[str, Any] = {"objectives": ["max:val/accuracy", "min:cost/flops"]}
    one = group("random", [0, 2], points=[(0, -4), (2, -2)], **settings)
    two = group("x", [1, 4], points=[None, (4, 0)], **settings)
    comparison = compare_groups("c", [one, two])
    assert comparison.reference == [0, 4] and comparison.ideal == [4, 0], "in the objectives' own units"
    assert row(comparison, "random", "hypervolume").summary.mean == pytest.approx(4 / 16)
    assert row(comparison, "x", "hypervolume").summary.mean == 1.0
    curve = next(c for c in comparison.curves if c.label == "x" and c.quantity == "hypervolume")
    assert curve.mean == [0, 1]


def test_evaluations_to_the_optimum() -> None:
    groups = [group("random", [1, 2, 5, 5], [1, 5, 5, 5], [1, 2, 3, 4])]
    (one,) = compare_groups("c", groups, optimum=5.0).to_optimum
    assert (one.n, one.cap, one.mean, one.median) == (3, 4, 3.0, 3.0) and one.found == pytest.approx(2 / 3)


def test_the_optimum_of_tiny_errors_is_not_hit_by_others() -> None:
    comparison = compare_groups(
        "c", [group("random", [9e-10, 4e-10, 3e-10], objectives=["min:val/mse"])], optimum=3e-10 * (1 + 1e-15)
    )
    assert comparison.to_optimum[0].mean == 3.0 and comparison.to_optimum[0].found == 1.0


def test_low_fidelity_is_no_hit_of_the_optimum() -> None:
    climbing = replace(search([5, 3, 5]), steps=[1, 3, 3])
    low = replace(search([5, 5, 5], seed=1), steps=[1, 1, 1])
    random = Group("random", {"name": "random", "options": {}}, (climbing, low))
    (one,) = compare_groups("c", [random], optimum=5.0).to_optimum
    assert (one.found, one.mean) == (0.5, 3.0)
    short = replace(search([5, 4, 4]), steps=[1, 3, 3])
    (one,) = compare_groups("c", [replace(random, searches=(short,))], optimum=5.0).to_optimum
    assert one.found == 0.0


@pytest.mark.parametrize("at", [[0], [-1], [5]])
def test_checkpoints_beyond_what_all_have_reached(at: list[float]) -> None:
    with raises(ConfigError, "range", "at", "4 trials"):
        compare_groups("c", [group("random", [1, 2, 3, 4], [1, 2, 3, 4])], at=at)


def test_without_random_there_is_no_test() -> None:
    comparison = compare_groups("c", [group("x", [1, 2]), group("y", [1, 2])])
    assert all(r.against_random is None for r in comparison.rows)
    assert any("without a random search" in note for note in comparison.notes)


def test_same_call_same_figures() -> None:
    groups = [group("random", *[[i % 3, i % 5] for i in range(9)]), group("x", *[[i % 4, i % 7] for i in range(9)])]
    assert compare_groups("c", groups).to_json() == compare_groups("c", groups).to_json()


def test_the_written_comparison_is_read_again() -> None:
    groups = [group(name, [NAN, 0.5, 0.7], [0.2, 0.3, 0.6]) for name in ("random", "evolution")]
    written = compare_groups("c", groups, optimum=0.7, worst=0.1, failed={"x": "planted"}, notes=["one"])
    content = json.loads(json.dumps(plain(written.to_json())))
    again = Comparison.from_json(content)
    assert plain(again.to_json()) == plain(written.to_json())
    assert page.table_rows(again, "signal", 3.0) == page.table_rows(written, "signal", 3.0)
    assert page.comparison_chart(again, "signal") == page.comparison_chart(written, "signal")
    for key, wrong in (("end", "x"), ("rows", [{}]), ("strategies", {}), ("objectives", 3), ("failed", 3)):
        with pytest.raises((AttributeError, KeyError, NasforgeError, TypeError, ValueError)):
            Comparison.from_json({**content, key: wrong})


def test_the_chart_has_a_line_and_a_band_for_each_strategy() -> None:
    groups = [group(name, [0.4, 0.5], [0.4, 0.6]) for name in ("random", *(f"other{n}" for n in range(9)))]
    drawn = page.comparison_chart(compare_groups("c", groups), "signal")
    assert drawn.count('class="band ') == drawn.count('class="line ') == 10
    assert 'class="line other thick"' in drawn and 'class="line s0 dashed thick"' in drawn
    assert "random: 0.55 (0.5 to 0.6) at the end" in drawn
    single = page.comparison_chart(compare_groups("c", [group("random", [0.4, 0.5])]), "signal")
    assert 'class="band ' not in single and "0.5 (0.5 to 0.5)" in single
    assert "No strategy has a curve" in page.comparison_chart(compare_groups("c", groups), "final")


def test_figures_for_a_tracker() -> None:
    comparison = compare_groups("c", [group("random", [1, 2]), group("x", [1, 4])], optimum=4.0)
    metrics = metrics_of(comparison.to_json(), "x")
    assert ("campaign/signal", 1, 1.0) in metrics and ("campaign/signal", 2, 4.0) in metrics
    assert ("campaign/signal/mean", 2, 4.0) in metrics and ("campaign/to_optimum/found", 0, 1.0) in metrics
    assert ("campaign/signal", 2, 4.0) in metrics_of_search(comparison.to_json(), "x", 0)


def test_page_is_self_contained_and_says_everything(tmp_path: Path) -> None:
    comparison = compare_groups(
        "camp<aign",
        [group("random", [1, 2]), group("x", [1, 4], final=[5.0, 6.25])],
        optimum=4.0,
        failed={"x-s9": "why"},
    )
    page.write_page(comparison, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "camp&lt;aign" in text and "6.2500" in text and "x-s9" in text and "default-src 'none'" in text
    assert text.count("<svg ") == 2 and len(text) < 100_000
    assert 'src="http' not in text


def test_same_colours_in_every_figure() -> None:
    comparison = compare_groups("c", [group("x", [1, 4], final=[1.0, 2.0]), group("random", [1, 2], final=[1.0, 1.5])])
    for quantity in ("signal", "final"):
        chart = page.comparison_chart(comparison, quantity)
        assert '<li class="other thick">random</li>' in chart and '<li class="s0 thick">x</li>' in chart


def test_picture_needs_chromium_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = compare_groups("c", [group("random", [1, 2])])
    monkeypatch.setenv("PATH", "")
    with raises(ExportError, "missing", None, "c.png", "Chromium"):
        page.write_picture(comparison, tmp_path / "c.png")


@pytest.mark.browser
@pytest.mark.skipif(not shutil.which("chromium"), reason="Debian's chromium is not installed")
def test_picture(tmp_path: Path) -> None:
    page.write_picture(compare_groups("c", [group("random", [1, 2])]), tmp_path / "c.png")
    content = (tmp_path / "c.png").read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 5_000
    assert int.from_bytes(content[16:20], "big") == 2000, "two pixels for each"


def test_figures_for_people() -> None:
    assert [page.number(x) for x in (None, 94.1234, 0.5, 12345.678, 0.00001)] == [
        "-",
        "94.123",
        "0.5000",
        "12345.68",
        "1.00e-05",
    ]
    assert page.number(0.5, "+") == "+0.5000" and page.p_text(0.00001) == "<0.0001"
