import pytest
from expecting import raises

from nasforge.api.assembly import make_header, suited_to_images
from nasforge.api.search import search
from nasforge.core.about import About
from nasforge.core.errors import ConfigError
from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.experiment.state import load_state
from nasforge.models.resolution import BY_RESOLUTION, Layout, layout_for, reference_layout, suited
from nasforge.settings.experiment import ExperimentConfig, resolve
from nasforge.settings.space_file import load_space


@pytest.mark.parametrize("pixels", [32, 40, 41, 64, 80, 112, 128, 224])
def test_the_last_map_is_small_and_not_tiny(pixels):
    layout = layout_for(pixels)
    reduced = layout.stem_stride
    for stride in layout.strides:
        reduced *= stride
    assert 2.5 <= pixels / reduced <= 10


def test_the_references_of_small_images_keep_the_resolution():
    assert layout_for(8) == reference_layout(28) == reference_layout(40) == Layout(1, (1, 2, 2))
    assert layout_for(28) == Layout(2, (1, 2, 2)) and reference_layout(41) == layout_for(41)


def test_the_space_is_resolved_for_the_shorter_side():
    space = load_space("photos")
    small, large = suited(space, (1, 28, 28)), suited(space, (3, 200, 120))
    assert small.arguments["strides"] == [1, 2, 2] and small.arguments["stem_stride"] == 2
    assert large.arguments["strides"] == [1, 2, 2, 2] and large.arguments["stem_stride"] == 4
    assert not any("stage3" in key for key in (*small.domains, *small.defaults))
    assert "model.stage3.width" in large.domains
    assert (small.defaults["train.crop_pixels"], large.defaults["train.crop_pixels"]) == (3, 15)
    assert suited(small, (3, 200, 120)) is small
    assert suited(load_space("blocks"), (3, 64, 64)) == load_space("blocks")


def test_a_space_without_the_stage_is_refused():
    space = SearchSpace("few", (Decision("model.stage0.width", Choice((8,))),), "staged", {"strides": BY_RESOLUTION})
    with raises(ConfigError, "missing", "model.stage1", "stage1"):
        suited(space, (3, 32, 32))


SETTINGS = {
    **{"data": {"source": "digits", "images": 200}, "runner": "local", "epochs": 1, "pruner": "none"},
    **{"tracking_uri": "none", "name": "small", "recipe": {"precise_bn": 0}},
}
FIXED = {f"model.stage{i}.layer{j}.block": "separable_3" for i in range(4) for j in range(3)}
FIXED |= {"model.stage0.width": 16, "model.stage1.width": 24, "model.stage2.width": 48}


@pytest.mark.parametrize(
    "strategy", [pytest.param("darts", marks=pytest.mark.slow), {"name": "spos", "epochs": 1, "measures": 1}]
)
def test_supernets_run_on_it(tmp_path, strategy):
    narrow = load_space("photos").fixed(
        {key: value for key, value in FIXED.items() if key != "model.stage0.layer1.block"}
    )
    state = search(**SETTINGS, space=narrow, strategy=strategy, budget={"trials": 2}, runs_dir=str(tmp_path))
    assert [trial.status for trial in state.trials.values()] == ["finished", "finished"]


def test_zero_cost_proxies_and_costs_run_on_it(tmp_path):
    settings = {**SETTINGS, "recipe": {}, "evaluator": "zero_cost", "objectives": ["zc/synflow", "cost/flops"]}
    del settings["epochs"]
    state = search(
        **settings,
        space="photos",
        strategy="random",
        budget={"trials": 2},
        constraints=["flops<=50M"],
        runs_dir=tmp_path,
    )
    assert state.best is not None and state.best.metrics["zc/synflow"] > 0


def test_header_and_workers_know_the_resolved_space_and_the_same_command_continues(tmp_path):
    settings = {**SETTINGS, "strategy": "random", "runs_dir": str(tmp_path)}
    narrow = load_space("photos").fixed(FIXED)
    state = search(**{**settings, "space": narrow, "budget": {"trials": 1}})
    resolved = suited_to_images(resolve({**settings, "space": narrow}))
    assert state.header.space_hash == resolved.space.fingerprint
    assert make_header(resolved, About()).config["space"]["arguments"]["strides"] == [1, 2, 2]
    assert ExperimentConfig.of_journal(state.header, tmp_path / "small").space == resolved.space
    state = search(**{**settings, "space": narrow, "budget": {"trials": 2}})
    assert len(load_state(tmp_path / "small").trials) == 2 and state.best is not None


def test_without_images_it_cannot_be_resolved():
    with raises(ConfigError, "missing", "data", "--data"):
        suited_to_images(resolve({"space": "photos", "evaluator": {"name": "lookup_table", "path": "x.csv"}}))
