import json

import pytest
from expecting import raises

from nasforge.api.assembly import make_strategy, suited_to_images
from nasforge.api.compare import campaign_configs
from nasforge.api.search import search
from nasforge.api.starts import portfolio_for, with_starts
from nasforge.core.errors import ConfigError, JournalError
from nasforge.core.layout import JOURNAL
from nasforge.core.recipe import recipe_of
from nasforge.experiment.state import load_state
from nasforge.models.network import fresh
from nasforge.models.resolution import suited
from nasforge.settings.experiment import ExperimentConfig, resolve
from nasforge.settings.space_file import load_portfolio, load_space, shipped_portfolios
from tests.api.retrain.conftest import SPACE

TINY = load_space("tiny")


@pytest.fixture
def settings(tmp_path):
    return {
        **{"space": "tiny", "data": {"source": "digits", "images": 200}, "strategy": "random", "runner": "local"},
        **{"epochs": 1, "pruner": "none", "tracking_uri": "none", "runs_dir": str(tmp_path), "name": "one"},
        "budget": {"trials": 2},
    }


@pytest.mark.parametrize("content", ["", '{"event": "hea'])
def test_a_search_that_was_killed_before_its_first_line_begins_anew_unless_work_lies_there(settings, tmp_path, content):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / JOURNAL).write_text(content)
    (tmp_path / "one" / "artifacts").mkdir()
    with raises(JournalError, "missing", None, tmp_path / "one", "artifacts/"):
        search(**settings)
    (tmp_path / "one" / "artifacts").rmdir()
    assert search(**{**settings, "budget": {"trials": 1}}).counts()["finished"] == 1


def points_of(settings):
    starts = with_starts(resolve(settings)).start_from
    return None if starts is None else list(starts.points)


def test_a_new_search_that_trains_begins_with_the_default_point_and_continues_so(settings, tmp_path):
    state = search(**settings)
    first = state.trials[0]
    assert first.architecture == TINY.default_point() and first.proposal.origin.operator == "start"
    assert state.header.config["start_from"]["source"] == "default"
    again = search(**{**settings, "budget": {"trials": 3}})
    assert [trial.architecture for trial in list(again.trials.values())[:2]] == [
        trial.architecture for trial in state.trials.values()
    ]
    whole = search(**{**settings, "budget": {"trials": 3}, "name": "whole"})
    assert whole.trials[2].architecture == again.trials[2].architecture


def test_a_search_at_another_resolution_is_refused_by_its_setting(settings):
    settings |= {"space": "photos", "budget": {"trials": 1}}
    search(**{**settings, "data": {"source": "digits", "images": 100, "resolution": 28}})
    with raises(JournalError, "changed", "data.resolution", 28, 48):
        search(**{**settings, "data": {"source": "digits", "images": 100, "resolution": 48}})


def test_other_searches_do_not_begin_with_it(settings):
    assert points_of({**settings, "start_from": "none"}) is None
    assert points_of({**settings, "space": SPACE}) is None  # it has no default network
    assert points_of({**settings, "evaluator": "zero_cost", "epochs": None, "objectives": ["zc/synflow"]}) is None
    assert points_of({**settings, "strategy": "spos"}) is None
    campaign = campaign_configs("evolution", 1, resolve(settings).folder, {k: settings[k] for k in ("space", "data")})
    assert all(config.start_from is None for config in campaign)


def test_a_search_from_before_goes_on_without(settings, tmp_path):
    search(**{**settings, "start_from": "none"})
    assert "start_from" not in load_state(tmp_path / "one").header.config
    state = search(**{**settings, "budget": {"trials": 3}})
    assert len(state.trials) == 3
    with raises(JournalError, "changed", "start_from"):
        search(**{**settings, "start_from": "default"})


def test_points_of_a_file_and_of_an_experiment(settings, tmp_path):
    file = tmp_path / "points.yaml"
    file.write_text("- {model: {stage0.width: 16}, train: {batch_size: 32}}\n- {model.stage1.width: 12}\n")
    first, second = points_of({**settings, "start_from": str(file)})
    assert (first["model.stage0.width"], first["train.batch_size"], first["train.momentum"]) == (16, 32, 0.9)
    assert second["model.stage1.width"] == 12
    (tmp_path / "points.json").write_text(json.dumps([{"values": first}]))
    assert points_of({**settings, "start_from": str(tmp_path / "points.json")}) == [first]
    state = search(**settings)
    best = points_of({**settings, "name": "two", "start_from": str(tmp_path / "one")})
    assert best == [dict(trial.architecture.values) for trial in state.ranking()]
    assert points_of({**settings, "name": "two", "start_from": "one"}) == best


@pytest.mark.parametrize(
    ("content", "kind", "names"),
    [
        ("- {model: {stage0.width: 17}}", "unknown", ("point 0", "model.stage0.width", 17)),
        ("- {model: {stage9.width: 8}}", "unknown", ("point 0", "stage9.width")),
        ("- {model: {stage0.layer1.block.bottleneck.reduction: 2}}", "conflict", ("point 0", "bottleneck.reduction")),
        ("{model: {}}", "type", ()),
        ("- 3", "type", ("point 0",)),
    ],
)
def test_what_is_no_point_of_the_space_is_refused_with_its_place(settings, tmp_path, content, kind, names):
    file = tmp_path / "points.yaml"
    file.write_text(content)
    with raises(ConfigError, kind, "start_from", *names):
        points_of({**settings, "start_from": str(file)})


def test_wrong_sources_are_refused(settings):
    with raises(ConfigError, "unknown", "start_from", "nothing"):
        points_of({**settings, "start_from": "nothing"})
    with raises(ConfigError, "missing", "start_from", "tiny"):
        points_of({**settings, "start_from": "portfolio"})
    with raises(ConfigError, "unsupported", "start_from", "spos"):
        points_of({**settings, "strategy": "spos", "start_from": "default"})
    with raises(ConfigError, "type", "start_from", 3):
        resolve({**settings, "start_from": 3})


@pytest.mark.parametrize("images", [100, 2000, 50_000])
@pytest.mark.parametrize("pixels", [32, 64, 128])
def test_every_point_of_the_portfolio_lies_in_the_space(images, pixels):
    space = suited(load_space("photos"), (3, pixels, pixels))
    points = portfolio_for(space, images)
    assert len(points) == len(load_portfolio(shipped_portfolios()["photos"], images)) >= 8
    assert len({point.point_id for point in points}) == len(points)
    for point in points:
        recipe_of(space, point, {})


@pytest.mark.parametrize(("pixels", "params"), [(32, 5_000), (64, 15_000), (128, 15_000)])
def test_with_limits_the_portfolio_ends_with_small_networks(pixels, params):
    space = suited(load_space("photos"), (3, pixels, pixels))
    usual, limited = portfolio_for(space, 100), portfolio_for(space, 100, limited=True)
    assert limited[: len(usual)] == usual
    sizes = [sum(p.numel() for p in fresh(space, point, 0, in_channels=3, classes=3).parameters()) for point in limited]
    assert sizes[len(usual) :] == sorted(sizes[len(usual) :], reverse=True) and sizes[-1] < params < min(sizes[:-1])


def test_a_search_with_limits_begins_with_small_networks_too(settings):
    settings = {**settings, "space": "photos", "start_from": "portfolio"}
    configs = (suited_to_images(resolve({**settings, "constraints": limits})) for limits in ([], ["params<=60k"]))
    usual, limited = (with_starts(config).start_from.points for config in configs)
    assert limited[: len(usual)] == usual and len(limited) > len(usual)


def test_photos_in_colour_are_mirrored_at_first_and_writing_is_not():
    for channels in (1, 3):
        space = suited(load_space("photos"), (channels, 32, 32))
        for images in (100, 2000, 50_000):
            points = portfolio_for(space, images, channels)
            assert points[0].values["train.flip"] is (channels == 3)
            assert {p.point_id for p in points} == {p.point_id for p in portfolio_for(space, images)}


def test_a_portfolio_names_only_decisions_of_the_whole_space():
    space = suited(load_space("photos"), (3, 128, 128))
    for images in (100, 2000, 50_000):
        for values in load_portfolio(shipped_portfolios()["photos"], images):
            assert values.keys() <= space.domains.keys()


def test_a_narrowed_space_has_the_points_that_lie_in_it(settings):
    space = suited(load_space("photos"), (1, 8, 8)).fixed({"train.batch_size": 32, "model.stage0.width": 16})
    assert 0 < len(portfolio_for(space, 100)) < len(portfolio_for(suited(load_space("photos"), (1, 8, 8)), 100))
    config = with_starts(resolve({**settings, "space": space, "start_from": "portfolio"}))
    again = ExperimentConfig.from_json(config.name, config.to_json(), config.runs_dir)
    assert again == config and make_strategy(again).ask(0).architecture == portfolio_for(space, 200, 1)[0]
