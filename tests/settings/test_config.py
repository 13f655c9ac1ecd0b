"""Settings -> configuration: defaults, both ways through JSON, and every problem at once with its place."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from expecting import raises

from nasforge.api.starts import with_starts
from nasforge.core.errors import ConfigError
from nasforge.core.goals import Budget, Constraint, Objective
from nasforge.core.ladder import Rung
from nasforge.settings.experiment import DataConfig, ExperimentConfig, load_settings, load_space, resolve
from nasforge.settings.search_command import search_words
from nasforge.settings.space_file import load_recipe

SPACE = """\
name: toy
builder: staged
decisions:
  model:
    activation: [relu, silu]
    stage{0..1}.layer{1..2}.block:
      choice:
        identity:
        bottleneck: {reduction: [2, 4]}
  train:
    learning_rate: {float: [1e-4, 0.5], log: true}
    batch_size: {int: [32, 96], step: 32}
defaults:
  model: {activation: silu}
  train: {optimizer: sgd, batch_size: 64}
"""


def problems(make: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        make()
    return [str(problem) for problem in caught.value.problems]


def space_file(folder: Path, text: str) -> Path:
    path = folder / "space.yaml"
    path.write_text(text)
    return path


def test_space_file(tmp_path: Path) -> None:
    space = load_space(space_file(tmp_path, SPACE))
    assert [key for key in space.domains if key.endswith("block")] == [
        f"model.stage{stage}.layer{layer}.block" for stage in (0, 1) for layer in (1, 2)
    ]
    assert "model.stage1.layer2.block.bottleneck.reduction" in space.domains
    point = space.default_point()
    assert point.model["activation"] == "silu" and point.train["batch_size"] == 64
    assert space.defaults["train.optimizer"] == "sgd"
    assert load_space("tiny").name == "tiny"


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("name: toy", "name: [toy]", 1, "needs a text"),
        ("builder: staged", "bilder: staged", 2, "did you mean 'builder'"),
        ("[relu, silu]", "[relu, relu]", 5, "'relu' is listed twice"),
        ("[relu, silu]", "[]", 5, "has no options"),
        ("[relu, silu]", "{choise: [a]}", 5, "a decision is a list of options"),
        ("stage{0..1}", "stage{1..0}", 6, "lower end first"),
        ("stage{0..1}", "stage{0-1}", 6, "a range key looks like"),
        ("layer{1..2}.block", "layer{1..20000}.block", 6, "10,000"),
        ("[2, 4]", "[2, [4]]", 9, "must be a string, a number"),
        ("[1e-4, 0.5], log", "[0, 0.5], log", 11, "needs low > 0"),
        ("[1e-4, 0.5], log", "[0.5, 1e-4], log", 11, "low 0.5 is above high 0.0001"),
        ("log: true", "log: maybe", 11, "log must be true or false"),
        ("step: 32", "stepp: 32", 12, "did you mean 'step'"),
        ("[32, 96]", "[32, 96, 5]", 12, "must be [low, high]"),
        ("activation: silu", "activation: gelu", 14, "allowed: 'relu', 'silu'"),
        ("activation: silu", "activations: silu", 14, "no such decision; did you mean 'model.activation'"),
        ("  model: {activation", "  modle: {activation", 14, "unknown section"),
        ("defaults:", "canonical: nonsense\ndefaults:", 13, "module:function"),
        ("  train:\n    learn", "  training:\n    learn", 10, "unknown section"),
        ("    activation: [relu, silu]", "    activation: [relu]\n    activation: [silu]", 6, "given twice"),
        ("name: toy", "name: 'to'y", 1, "not valid YAML"),
        ("name: toy", "name: ../toy", 1, "letters, digits"),
    ],
)
def test_space_file_problems_say_where(tmp_path: Path, old: str, new: str, line: int, says: str) -> None:
    assert old in SPACE
    path = space_file(tmp_path, SPACE.replace(old, new, 1))
    messages = problems(lambda: load_space(path))
    assert any(problem.startswith(f"{path}:{line}:") and says in problem for problem in messages), messages


def test_weights_lie_beside_the_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tuned.yaml").write_text(
        "name: tuned\nbuilder: timm_backbone\narguments: {backbones: [resnet18], weights: it.safetensors}\n"
        "decisions: {model: {backbone: [resnet18]}}\n"
    )
    (tmp_path / "it.safetensors").touch()
    monkeypatch.chdir(tmp_path.parent)
    weights = load_space(tmp_path / "tuned.yaml").arguments["weights"]
    assert weights == str(tmp_path / "it.safetensors")  # whoever continues elsewhere finds it, and the same settings


def test_all_problems_of_a_space_at_once(tmp_path: Path) -> None:
    text = SPACE.replace("[relu, silu]", "[]").replace("log: true", "log: 3").replace("builder: staged", "builder: 3")
    assert len(problems(lambda: load_space(space_file(tmp_path, text)))) == 3


@pytest.mark.parametrize("content", [b"", b"- 1", b"\xff\xfe\x00", b"a: &x [*x]", b"a: !!python/object:os.system 1"])
def test_not_a_space(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "space.yaml"
    path.write_bytes(content)
    assert all(str(path) in problem for problem in problems(lambda: load_space(path)))


def test_yaml_words_stay_words(tmp_path: Path) -> None:
    space = load_space(
        space_file(tmp_path, SPACE.replace("[relu, silu]", "[on, off, yes, no, 1e-3, true]").replace("silu}", "on}"))
    )
    assert space.domains["model.activation"].options == ("on", "off", "yes", "no", 0.001, True)  # type: ignore[union-attr]


def test_keys_of_tables_stay_words(tmp_path: Path) -> None:
    words = "[8:16:24, 1:30.5, 010, 1_2, 1e5, 10_000, -3, .5, 1.5e3]"
    space = load_space(space_file(tmp_path, SPACE.replace("[relu, silu]", words).replace("silu}", "8:16:24}")))
    options = space.domains["model.activation"].options  # type: ignore[union-attr]
    assert options == ("8:16:24", "1:30.5", "010", "1_2", 1e5, 10_000, -3, 0.5, 1500.0)


def test_missing_space_and_unknown_name() -> None:
    assert "no such file" in problems(lambda: load_space("nowhere/space.yaml"))[0]
    assert "did you mean 'blocks'" in problems(lambda: load_space("block"))[0]


def test_a_folder_does_not_hide_what_is_shipped_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tiny", "sgd"):
        (tmp_path / name).mkdir()
    (tmp_path / "experiment.yaml").write_text("space: tiny\nrecipe: sgd\ndata: digits\n")
    monkeypatch.chdir(tmp_path)
    settings, document = load_settings(tmp_path / "experiment.yaml")
    assert resolve(settings, document).space.name == load_space("tiny").name == "tiny"
    assert load_recipe("sgd").name == "sgd"


def test_defaults(tmp_path: Path) -> None:
    config = resolve({"space": "tiny", "data": "digits"})
    assert config.name == "tiny-digits-evolution-s0" and config.budget == Budget(trials=20)
    assert config.ladder == (Rung(1), Rung(3)) and config.pruner.name == "asha"
    assert config.objectives == (Objective("val/accuracy", True),)
    assert (config.runner.name, config.evaluator.name) == ("ray_tune", "training")


def test_json_round_trip(tmp_path: Path) -> None:
    config = resolve(
        {
            "space": str(space_file(tmp_path, SPACE)),
            "data": {"source": "digits", "images": 100},
            "strategy": {"name": "evolution", "population": 20},
            "objectives": ["val/accuracy", "min:cost/flops"],
            "constraints": "flops<=1234567",
            "targets": ["params<=300k"],
            "budget": {"worker_seconds": 60.5},
            "epochs": 9,
            "recipe": {"optimizer": "adamw"},
            "seed": 3,
            "runs_dir": tmp_path,
        }
    )
    assert config.constraints == (Constraint("cost/flops", 1234567.0),) and config.data == DataConfig(
        "digits", images=100
    )
    assert config.strategy.options == {"population": 20} and config.ladder == (Rung(1), Rung(3), Rung(9))
    decided = replace(config, start_from=None)  # `automatic` is decided when the search begins
    assert ExperimentConfig.from_json(config.name, config.to_json(), tmp_path) == decided


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"space": None}, "space: must be a YAML file"),
        ({"data": 7}, "data must be a name"),
        ({"data": {"source": "digits", "image": 3}}, "did you mean 'images'"),
        ({"data": {"images": 3}}, "data has no source"),
        ({"data": {"source": "digits", "validation": 1.5}}, "above 0 and below 1"),
        ({"strategy": {"population": 3}}, "strategy must be a name"),
        ({"objectives": []}, "expected at least one"),
        ({"objectives": ["val/accuracy", "max:val/accuracy"]}, "name a metric twice"),
        ({"objectives": ["best:val/accuracy"]}, "must look like"),
        ({"constraints": ["flops<40M"]}, "must look like flops<=40M"),
        ({"constraints": ["parms<=3k"]}, "constraint 'parms<=3000': no such cost; did you mean 'params'"),
        ({"constraints": ["flops<=0"]}, "above 0, got 0"),
        ({"constraints": ["flops<=1.2.3M"]}, "not a number"),
        ({"budget": {"trials": 0}}, "above 0"),
        ({"budget": {"trails": 5}}, "did you mean 'trials'"),
        ({"budget": 5}, "must be a mapping"),
        ({"epochs": 0}, "at least 1"),
        ({"epochs": 3, "ladder": [{"epochs": 1}]}, "are both set"),
        ({"ladder": [{"epochs": 3}, {"epochs": 1}]}, "must rise"),
        ({"ladder": [{"epoch": 3}]}, "a rung is"),
        ({"ladder": [{"epochs": 1, "share": 0}, {"epochs": 3}]}, "share must be a number above 0 and at most 1"),
        ({"ladder": [{"epochs": 1, "resolution": 0.5}, {"epochs": 3}]}, "resolution must be a whole number"),
        ({"ladder": [{"epochs": 1}, {"epochs": 3, "share": 0.5}]}, "the last rung uses all images"),
        ({"ladder": [{"epochs": 1}, {"epochs": 3, "share": 0.5}, {"epochs": 9}]}, "must not fall"),
        ({"ladder": [{"epochs": 1, "resolution": 16}, {"epochs": 3, "resolution": 8}, {"epochs": 9}]}, "must not fall"),
        ({"ladder": [{"proxies": []}, {"epochs": 3}]}, "a rung is"),
        ({"ladder": [{"proxies": ["synflow"]}]}, "followed by one with epochs"),
        ({"ladder": [{"epochs": 1}, {"proxies": ["synflow"]}, {"epochs": 3}]}, "only the first rung"),
        ({"ladder": [{"proxies": ["synflow", "synflow"]}, {"epochs": 3}]}, "list of different names"),
        ({"ladder": [{"proxies": ["synflow"]}, {"epochs": 3}, {"epochs": 2}]}, "must rise, got synflow, 3, 2"),
        ({"recipe": {"train.optimizer": "sgd"}}, "without prefix"),
        ({"recipe": {"learning_rate": 0.1}}, "the space searches this"),
        ({"recipe": {"open": "sgd", "momentum": 0.9}}, "momentum: the space searches this"),
        ({"recipe": "sdg"}, "no recipe 'sdg': no such file; did you mean 'sgd'"),
        ({"recipe": 3}, "a recipe's name or a mapping"),
        ({"seed": -1}, "at least 0"),
        ({"seed": True}, "at least 0"),
        ({"name": "../x"}, "starts with a letter or digit"),
        ({"budgets": {}}, "did you mean 'budget'"),
        ({"strategy": {"name": "evolution", "population": 10, "options": {"population": 30}}}, "name it once"),
        ({"strategy": "promotion", "epochs": 9, "pruner": "median"}, "the pruner would stop none"),
        ({"epochs": 9, "evaluator": {"name": "cross_validation", "epochs": 3}}, "name one of them"),
        ({"constraints": ["flops<=1e400"]}, "finite number above 0"),
    ],
)
def test_settings_problems(settings: dict[str, Any], says: str) -> None:
    messages = problems(lambda: resolve({"space": "tiny", "data": "digits", **settings}))
    assert any(says in problem for problem in messages), messages


def test_long_names_of_data_are_cut(tmp_path: Path) -> None:
    first, second = (
        resolve({"space": "tiny", "data": {"source": str(tmp_path / ("p" * 110 + end))}}).name for end in "ab"
    )
    assert len(first) == len(second) == 100 and first != second


def test_the_words_of_a_search_begin_the_same_search() -> None:
    def words(**settings: Any) -> str:
        config = resolve({"space": "tiny", "data": "digits", "strategy": "random", **settings})
        return " ".join(search_words(with_starts(config).to_json()) or ["none"])

    assert words(evaluator="cross_validation", epochs=3).endswith(
        "--set evaluator.folds=5 --set evaluator.epochs=3 --max-trials 20"
    )
    assert "--start-from" not in words()
    assert "--start-from none" in words(start_from="none")
    assert "--start-from" not in words(start_from="none", strategy="darts")


def test_all_problems_of_settings_at_once_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text("space: tiny\nseed: -1\nepochs: 0\nbudgt: 3\n")
    settings, document = load_settings(path)
    messages = problems(lambda: resolve(settings, document))
    assert [problem.split(": ")[0] for problem in sorted(messages)] == [f"{path}:{line}" for line in (2, 3, 4)]


def test_an_experiment_file_names_its_space_relative_to_itself(tmp_path: Path) -> None:
    space_file(tmp_path, SPACE)
    (tmp_path / "experiment.yaml").write_text("space: space.yaml\ndata: digits\n")
    settings, document = load_settings(tmp_path / "experiment.yaml")
    assert resolve(settings, document).space.name == "toy"


def test_a_name_of_a_file_or_folder_becomes_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, home = tmp_path / "here", tmp_path / "home"
    for folder in (here / "photos", here / "digits", home / "mine"):
        folder.mkdir(parents=True)
    (here / "table").write_text("")
    (here / "link").symlink_to("photos")
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    for written, absolute in {
        "photos": here / "photos",
        "photos/": here / "photos",
        "./photos": here / "photos",
        "../here/photos": here / "../here/photos",
        ".": here,
        "link": here / "link",
        "~/mine": home / "mine",
        "./digits": here / "digits",
        "absent.npz": here / "absent.npz",
    }.items():
        for data in (written, {"source": written}):
            config = resolve({"space": "tiny", "data": data}).data
            assert config and config.source == str(absolute), written
        assert DataConfig(written).source == str(absolute), written
    for name in ("digits", "MNIST", "absent", "x" * 300):
        assert DataConfig(name).source == name
    as_path = resolve({"space": "tiny", "data": Path("photos")}).data
    assert as_path and as_path.source == str(here / "photos")
    assert DataConfig("MNIST", folder="downloads").folder == str(here / "downloads")
    made = resolve({"space": "tiny", "evaluator": {"name": "lookup_table", "path": "table", "signal": "acc"}})
    assert made.evaluator.options == {"path": str(here / "table"), "signal": "acc"}


def test_names_in_an_experiments_file_are_looked_up_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside" / "photos").mkdir(parents=True)
    (tmp_path / "beside" / "digits").mkdir()
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    for data, source in {
        "photos": tmp_path / "beside" / "photos",
        "{source: photos, folder: digits}": tmp_path / "beside" / "photos",
        "digits": "digits",
    }.items():
        (tmp_path / "beside" / "e.yaml").write_text(f"space: tiny\ndata: {data}\n")
        settings, document = load_settings(tmp_path / "beside" / "e.yaml")
        config = resolve(settings, document).data
        assert config and config.source == str(source)
        assert config.folder in (None, str(tmp_path / "beside" / "digits"))


def test_an_evaluator_with_settings_reaches_the_search(tmp_path):
    """`evaluator` of `nasforge.search` is the setting, not a ready-made evaluator."""
    import nasforge

    with raises(ConfigError, "range", "evaluator.threads"):
        nasforge.search(
            space="tiny", data="digits", evaluator={"name": "training", "threads": 0}, runs_dir=tmp_path, runner="local"
        )


def test_a_strategy_of_supernets_refuses_an_evaluator_that_cannot_train_them(tmp_path):
    import nasforge

    with raises(ConfigError, "conflict", "evaluator", "spos", "shared_weights", "training"):
        nasforge.search(
            space="tiny", data="digits", strategy="spos", evaluator="training", runs_dir=tmp_path, runner="local"
        )
    assert not list(tmp_path.iterdir())


RECIPE = """name: mine
decisions:
  train:
    learning_rate: {float: [0.01, 0.1], log: true}
defaults:
  train: {momentum: 0.8}
"""


def test_a_recipe_is_opened_in_place_of_the_spaces(tmp_path):
    (tmp_path / "mine.yaml").write_text(RECIPE)
    (tmp_path / "experiment.yaml").write_text("space: tiny\ndata: digits\nrecipe: {open: mine.yaml, clip_norm: 1.0}\n")
    config = resolve(*load_settings(tmp_path / "experiment.yaml"))
    assert [key for key in config.space.domains if key.startswith("train.")] == ["train.learning_rate"]
    assert config.space.defaults["train.momentum"] == 0.8 and config.recipe == {"clip_norm": 1.0}
    tiny = load_space("tiny")
    assert config.space.defaults["train.schedule"] == tiny.defaults["train.schedule"]
    model = [key for key in tiny.domains if key.startswith("model.")]
    assert [key for key in config.space.domains if key.startswith("model.")] == model
    short = resolve({"space": "tiny", "data": "digits", "recipe": str(tmp_path / "mine.yaml")})
    assert short.space == config.space and short.recipe == {}


def test_a_recipe_has_no_network(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE + "builder: staged\n")
    assert problems(lambda: load_recipe(path)) == [f"{path}:7: builder: a recipe has no network; leave it out"]
    path.write_text(RECIPE.replace("  train:\n    l", "  model:\n    width: [1, 2]\n  train:\n    l"))
    assert problems(lambda: load_recipe(path)) == [f"{path}:3: decisions.model: a recipe has no network; leave it out"]


def test_a_space_and_an_experiment_are_not_taken_for_each_other(tmp_path):
    space, experiment = tmp_path / "space.yaml", tmp_path / "experiment.yaml"
    space.write_text("name: s\ndecisions: {model: {width: [8, 16]}}\n")
    experiment.write_text("data: digits\nspace: tiny\n")
    with raises(ConfigError, "type", "space", "experiment.yaml:2", "--config FILE"):
        load_space(experiment)
    with raises(ConfigError, "type", "decisions", "space.yaml:2", "nasforge search FILE"):
        load_settings(space)


def test_ray_chooses_the_gpu_of_a_worker() -> None:
    settings = {"space": "tiny", "data": "digits", "evaluator": {"name": "training", "device": "cuda:1"}}
    with raises(ConfigError, "conflict", "evaluator", "cuda:1"):
        resolve(settings)
    assert resolve({**settings, "runner": "local"}).evaluator.options["device"] == "cuda:1"
    for device in ("auto", "cpu", "cuda", "cuda:0"):
        resolve({**settings, "evaluator": {"name": "training", "device": device}})
