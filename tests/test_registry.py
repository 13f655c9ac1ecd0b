"""Names of plug-ins: everything named exists, and a wrong name or option says what to type."""

import inspect
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from expecting import raises

from nasforge import registry
from nasforge.api.export import named_exporters
from nasforge.core import signatures
from nasforge.core.errors import ConfigError, ExportError
from nasforge.core.importing import source_of
from nasforge.core.trust import foreign, view
from nasforge.models import reference
from nasforge.models.blocks.catalogue import BlockOptions
from nasforge.models.blocks.separable import SeparableBlock
from nasforge.strategies.evolution import Evolution
from nasforge.supernet.relaxations import relaxation_of


@pytest.mark.parametrize("kind", sorted(registry.BUILT_IN))
def test_everything_named_can_be_had(kind: str) -> None:
    for name in registry.names(kind):
        plug_in = registry.get(kind, name)
        assert callable(plug_in.criterion if kind == "task" else plug_in), name


PLUGIN = """
from pathlib import Path

import torch
from torch import nn

from nasforge.core.space import SearchSpace
from nasforge.strategies.random import Random
from nasforge.supernet.mixed import Share
from nasforge.supernet.relaxations import Relaxation


class Thing(Random): ...


class Block(nn.Conv2d):
    def __init__(self, in_channels, out_channels, stride=1, *, activation):
        super().__init__(in_channels, out_channels, 3, stride, 1)


class Exporter:
    def write(self, model, example, path):
        file = path.with_suffix(".ones")
        file.write_text("1")
        return file

    def reload(self, path): ...
    def snippet(self, file, shape): ...


even = Relaxation(lambda alphas, temperature: Share((0,), torch.ones_like(alphas) / len(alphas)))


def reference(flops, *, shape, classes):
    return "one", SearchSpace("one", ())


def anything(*arguments, **options):
    return arguments
"""
PLUGINS = {
    "strategy": "Thing",
    "block": "Block",
    "exporter": "Exporter",
    "relaxation": "even",
    "reference": "reference",
}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that registers `extra` of every kind."""
    (tmp_path / "extra_plugins.py").write_text(PLUGIN)
    package = tmp_path / "extra-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1.0\n")
    lines = [
        f"[nasforge.{kind}]\nextra = extra_plugins:{PLUGINS.get(kind, 'anything')}\n" for kind in registry.BUILT_IN
    ]
    (package / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "extra_plugins", raising=False)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("kind", sorted(registry.BUILT_IN))
def test_a_plugin_of_every_kind_is_found(kind: str) -> None:
    assert "extra" in registry.names(kind)
    with view():  # a registered name needs no consent
        assert registry.get(kind, "extra") is getattr(sys.modules["extra_plugins"], PLUGINS.get(kind, "anything"))


@pytest.mark.usefixtures("installed")
def test_a_plugin_with_the_name_of_one_of_ours_is_reported(tmp_path: Path) -> None:
    entries = tmp_path / "extra-1.0.dist-info" / "entry_points.txt"
    entries.write_text("[nasforge.strategy]\nevolution = extra_plugins:Thing\nextra = extra_plugins:Thing\n")
    registry._plugged_in.cache_clear()
    with pytest.warns(UserWarning, match="'evolution'.*extra_plugins:Thing") as warned:
        assert registry.get("strategy", "evolution") is Evolution
        registry.get("strategy", "extra")
        registry.get("strategy", "random")
    assert len(warned) == 1


@pytest.mark.usefixtures("installed")
def test_plugins_are_used_where_ours_are(tmp_path: Path) -> None:
    assert BlockOptions()["extra"].make(2, 4, activation=None).out_channels == 4
    assert relaxation_of("extra")(torch.zeros(4), 1.0).weights.tolist() == [0.25] * 4
    assert named_exporters(["extra"])["extra"].write(None, None, tmp_path / "model").name == "model.ones"
    assert registry.options_of("strategy", "extra") == {}
    source = SimpleNamespace(source="extra", options={})
    assert registry.get("data", "extra")(source) == (source,)


def test_export_formats_are_a_sequence_or_a_text_with_commas() -> None:
    assert list(named_exporters("onnx, safetensors")) == list(named_exporters(["onnx", "safetensors"]))
    assert list(named_exporters("safetensors")) == ["safetensors"]
    with raises(ExportError, "unknown", "to", "safetensor", "safetensors"):
        named_exporters("onnx,safetensor")
    with raises(ExportError, "empty", "to"):
        named_exporters(" , ")


def test_unknown_name() -> None:
    with raises(ConfigError, "unknown", "strategy", "evolutoin", "evolution"):
        registry.get("strategy", "evolutoin")


def test_module_and_attribute() -> None:
    assert registry.get("strategy", "nasforge.strategies.random:Random") is registry.get("strategy", "random")
    with raises(ConfigError, "missing", "strategy", "nowhere"):
        registry.get("strategy", "nowhere:Thing")
    with raises(ConfigError, "missing", None, "Thing"):
        registry.get("strategy", "nasforge.strategies.random:Thing")


def test_names_in_the_files_of_earlier_versions_are_forwarded(tmp_path: Path) -> None:
    with foreign(tmp_path):  # needs no consent
        assert registry.get("builder", "nasforge.finalists:build_reference") is reference.build
        table = registry.get("evaluator", "nasforge.evaluators.lookup_table:LookupTable")
        assert table is registry.get("evaluator", "lookup_table")
    assert registry.get("block", "nasforge.blocks.separable:SeparableBlock") is SeparableBlock


@pytest.mark.parametrize("value", ["abc", 2.5, None])
def test_options_are_checked_by_type(value: object) -> None:
    with raises(ConfigError, "type", "population", "pbt", "integer", repr(value)):
        registry.check_options("strategy", "pbt", {"population": value}, taken=1)


def test_a_module_that_breaks_while_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crooked_module.py").write_text("def build(:\n")
    (tmp_path / "raising_module.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with raises(ConfigError, "failed", None, "crooked_module.py"):
        registry.get("builder", "crooked_module:build")
    with raises(ConfigError, "failed", "builder", "ZeroDivisionError"):
        registry.get("builder", "raising_module:build")


@pytest.mark.parametrize("kind", ["strategy", "pruner"])
def test_a_factory_of_an_earlier_version_is_told_what_to_change(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old_factory.py").write_text("def make(space, *, seed, objectives=1): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    with raises(ConfigError, "type", None, "seed", "nasforge.settings.spec.SearchSpec"):
        registry.make(kind, "old_factory:make", {}, None)


@pytest.mark.parametrize("name", ["darts", "gdas", "drnas", "cost_aware"])
def test_presets_of_differentiable_search_have_options_like_any_factory(name: str) -> None:
    assert registry.get("strategy", f"nasforge.strategies.darts:{name}") is registry.get("strategy", name)
    assert {"epochs", "runs", "learning_rate", "warmup_epochs"} <= set(registry.options_of("strategy", name))
    with raises(ConfigError, "unknown", "epoch", "epochs"):
        registry.check_options("strategy", name, {"epoch": 3}, taken=1)
    with raises(ConfigError, "type", "epochs"):
        registry.check_options("strategy", name, {"epochs": "3"}, taken=1)


def test_options_are_checked_by_name() -> None:
    def factory(spec: str, *, population: int = 3) -> tuple[str, int]:
        return spec, population

    registry.BUILT_IN["strategy"]["_test"] = "x:y"
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(registry, "get", lambda kind, name: factory)
            assert registry.make("strategy", "_test", {"population": 5}, "s") == ("s", 5)
            for wrong in ("populaton", "seed", "spec"):
                with raises(ConfigError, "unknown", wrong, "population"):
                    registry.make("strategy", "_test", {wrong: 5}, "s")
    finally:
        del registry.BUILT_IN["strategy"]["_test"]


@pytest.mark.parametrize("kind", sorted(registry.FILLED_IN))
def test_what_the_source_says_is_what_python_says(kind: str) -> None:
    for name, target in registry.BUILT_IN[kind].items():
        module, _, attribute = target.partition(":")
        signature, thing = signatures.read(module, attribute, source_of), registry.get(kind, name)
        if signature is None:  # then it is imported
            continue
        told = {key: (item.kind, item.default) for key, item in signature.signature.parameters.items()}
        known = {key: (item.kind, item.default) for key, item in inspect.signature(thing).parameters.items()}
        assert told == known, name
        assert signature.about == (inspect.getdoc(thing) or "").partition("\n")[0], name


def test_names_of_options_are_checked_before_anything_is_made() -> None:
    registry.check_named("evaluator", "training", {"device": "cpu"})
    registry.check_named("evaluator", "somewhere:Else", {"anything": 1})  # checked when it is made
    with raises(ConfigError, "unknown", "devise", "training", "device"):
        registry.check_named("evaluator", "training", {"devise": "cpu"})
    with raises(ConfigError, "unknown", "space"):  # the platform's
        registry.check_named("evaluator", "training", {"space": "tiny"})
    with raises(ConfigError, "unknown", "runner", "lokal", "local"):
        registry.check_named("runner", "lokal", {})
