"""Names of plug-ins: everything named exists, and a wrong name or option says what to type."""

import inspect
from pathlib import Path

import pytest

from nasforge import registry
from nasforge.core import signatures
from nasforge.core.errors import ConfigError
from nasforge.core.importing import source_of
from nasforge.core.trust import foreign
from nasforge.models import reference
from nasforge.models.blocks.separable import SeparableBlock


@pytest.mark.parametrize("kind", sorted(registry.BUILT_IN))
def test_everything_named_can_be_had(kind: str) -> None:
    for name in registry.names(kind):
        assert callable(registry.get(kind, name)), name


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match="unknown strategy 'evolutoin'; did you mean 'evolution'"):
        registry.get("strategy", "evolutoin")


def test_module_and_attribute() -> None:
    assert registry.get("strategy", "nasforge.strategies.random:Random") is registry.get("strategy", "random")
    with pytest.raises(ConfigError, match="cannot import nowhere"):
        registry.get("strategy", "nowhere:Thing")
    with pytest.raises(ConfigError, match="has no 'Thing'"):
        registry.get("strategy", "nasforge.strategies.random:Thing")


def test_names_in_the_files_of_earlier_versions_are_forwarded(tmp_path: Path) -> None:
    with foreign(tmp_path):  # needs no consent
        assert registry.get("builder", "nasforge.finalists:build_reference") is reference.build
        table = registry.get("evaluator", "nasforge.evaluators.lookup_table:LookupTable")
        assert table is registry.get("evaluator", "lookup_table")
    assert registry.get("block", "nasforge.blocks.separable:SeparableBlock") is SeparableBlock


@pytest.mark.parametrize(("value", "says"), [("abc", "integer"), (2.5, "integer"), (None, "integer")])
def test_options_are_checked_by_type(value: object, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"strategy 'evolution', option 'population': .*{says}.*got {value!r}"):
        registry.check_options("strategy", "evolution", {"population": value}, taken=1, fixed=("seed", "objectives"))


def test_a_module_that_breaks_while_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crooked_module.py").write_text("def build(:\n")
    (tmp_path / "raising_module.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"breaks while it is imported: SyntaxError.*crooked_module.py, line 1"):
        registry.get("builder", "crooked_module:build")
    with pytest.raises(ConfigError, match="breaks while it is imported: ZeroDivisionError"):
        registry.get("builder", "raising_module:build")


def test_options_are_checked_by_name() -> None:
    def factory(space: str, *, seed: int, population: int = 3) -> tuple[str, int, int]:
        return space, seed, population

    registry.BUILT_IN["strategy"]["_test"] = "x:y"
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(registry, "get", lambda kind, name: factory)
            assert registry.make("strategy", "_test", {"population": 5}, "s", seed=1) == ("s", 1, 5)
            for wrong in ("populaton", "seed", "space"):
                with pytest.raises(ConfigError, match=rf"has no option '{wrong}'.*Known: population"):
                    registry.make("strategy", "_test", {wrong: 5}, "s", seed=1)
    finally:
        del registry.BUILT_IN["strategy"]["_test"]


@pytest.mark.parametrize("kind", sorted(registry.FILLED_IN))
def test_what_the_source_says_is_what_python_says(kind: str) -> None:
    for name, target in registry.BUILT_IN[kind].items():
        module, _, attribute = target.partition(":")
        found, thing = signatures.read(module, attribute, source_of), registry.get(kind, name)
        if found is None:  # then it is imported
            continue
        told = {key: (item.kind, item.default) for key, item in found.signature.parameters.items()}
        known = {key: (item.kind, item.default) for key, item in inspect.signature(thing).parameters.items()}
        assert told == known, name
        assert found.about == (inspect.getdoc(thing) or "").partition("\n")[0], name


def test_names_of_options_are_checked_before_anything_is_made() -> None:
    registry.check_named("evaluator", "training", {"device": "cpu"})
    registry.check_named("evaluator", "somewhere:Else", {"anything": 1})  # checked when it is made
    with pytest.raises(ConfigError, match="evaluator 'training' has no option 'devise'; did you mean 'device'"):
        registry.check_named("evaluator", "training", {"devise": "cpu"})
    with pytest.raises(ConfigError, match="has no option 'space'"):  # the platform's
        registry.check_named("evaluator", "training", {"space": "tiny"})
    with pytest.raises(ConfigError, match="unknown runner 'lokal'; did you mean 'local'"):
        registry.check_named("runner", "lokal", {})
