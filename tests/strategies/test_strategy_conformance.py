"""Every registered strategy goes through the public suite; so does every sampler of Optuna that writes into trials."""

import functools

import pytest

from nasforge import registry
from nasforge.testing import strategies as suite

OPTUNA = registry.get("strategy", "optuna")
SAMPLERS = ("nsgaii", "nsgaiii", "qmc", "random")
LEARNS_NOTHING = {"random"}
FEW_POINTS = {"pbt"}  # trains a few of them in pieces: its trials are no sixty points


def ids(value):
    return getattr(value, "__name__", str(value))


@pytest.mark.parametrize("check", suite.CHECKS, ids=ids)
@pytest.mark.parametrize("name", registry.names("strategy"))
def test_registered(name, check):
    check(registry.get("strategy", name))


@pytest.mark.parametrize("check", suite.ADAPTIVE_CHECKS, ids=ids)
@pytest.mark.parametrize(
    "name", [name for name in registry.names("strategy") if name not in LEARNS_NOTHING | FEW_POINTS]
)
def test_adaptive(name, check):
    check(registry.get("strategy", name))


@pytest.mark.parametrize(
    "check", [suite.replay_continues, suite.small_spaces_are_exhausted, suite.several_objectives_or_an_error], ids=ids
)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_optuna_samplers(sampler, check):
    check(functools.partial(OPTUNA, sampler=sampler))


@pytest.mark.parametrize("check", [*suite.CHECKS, *suite.ADAPTIVE_CHECKS], ids=ids)
def test_ageing_evolution(check):
    check(functools.partial(registry.get("strategy", "evolution"), elitist=False))
