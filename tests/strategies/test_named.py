"""A strategy by name is checked before it is asked for anything."""

from expecting import raises

from nasforge.core.errors import ConfigError
from nasforge.settings.experiment import Named
from nasforge.strategies.evolution import Evolution
from nasforge.strategies.named import strategy_of
from nasforge.testing.scripted import FLAT, spec_of


class Old:
    """Of an earlier version of the protocol."""

    def __init__(self, spec):
        pass

    def ask(self, number): ...

    def recall(self, number, proposal): ...

    def tell(self, number, result): ...


def test_a_registered_strategy():
    assert isinstance(strategy_of(Named("evolution", {"population": 5}), spec_of(FLAT)), Evolution)


def test_a_strategy_without_a_method_is_told_so():
    with raises(ConfigError, "missing", "strategy"):
        strategy_of(Named(f"{__name__}:Old", {}), spec_of(FLAT))
