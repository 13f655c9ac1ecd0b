"""Strategies by name, checked against the protocol."""

from __future__ import annotations

from nasforge import registry
from nasforge.core.errors import ConfigError
from nasforge.core.protocols import Strategy
from nasforge.settings.experiment import Named
from nasforge.settings.spec import SearchSpec

_METHODS = ("ask", "recall", "tell", "withdraw")


def strategy_of(named: Named, spec: SearchSpec) -> Strategy:
    """Make the strategy of this name.

    Raises:
        ConfigError: unknown name or option, or the strategy lacks a method.
    """
    strategy: Strategy = registry.make("strategy", named.name, named.options, spec)
    missing = [method for method in _METHODS if not callable(getattr(strategy, method, None))]
    if missing:
        raise ConfigError(
            f"strategy '{named.name}': expected the methods {', '.join(_METHODS)}; it lacks {', '.join(missing)}. "
            "Write them, see docs/howto/plugins.md",
            kind="missing",
            key="strategy",
        )
    return strategy
