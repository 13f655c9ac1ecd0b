"""REINFORCE over one softmax per decision: the simplest policy gradient, and a strong one."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from nasforge.core.architecture import Architecture, Value
from nasforge.core.errors import ConfigError
from nasforge.core.space import Domain
from nasforge.core.trial import Measure, Origin, Proposal, Result
from nasforge.settings.spec import SearchSpec
from nasforge.strategies.choosers import Seen, check_single, generator, measured, unseen
from nasforge.strategies.options import count, open_options, value_of
from nasforge.strategies.rewards import Rewards

_PATIENCE = 10
_WARMING = 0.05
_NOTED, _NOTED_EVERY, _DIGITS = 100, 10, 3


class _Drawn(NamedTuple):
    """A decision of a running trial.

    Attributes:
        key: of the decision.
        option: taken.
        chances: of all options, when it was drawn.
    """

    key: str
    option: int
    chances: list[float]


class Reinforce:
    """A chance for every option of every decision; what was better than expected becomes more likely.

    Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning"
    (https://doi.org/10.1007/BF00992696), on architectures as in Zoph and Le, "Neural Architecture Search with
    Reinforcement Learning" (https://arxiv.org/abs/1611.01578), but with independent decisions instead of a recurrent
    network (that is `ppo`). Each told trial moves the logits of the decisions that were active in it by

        learning_rate * ((reward - expected) * grad log p(option) + entropy * grad H(p)),

    where p are the chances at the time when the trial was asked: with trials out in parallel that is the unbiased
    gradient of the policy that drew it, applied late. Rewards are ranks (`Rewards`), so that nothing has to be tuned
    to the metric; violations of constraints are rewarded below everything measured, and learnt from. A point that was
    proposed before is drawn again, from chances that become more even with every such draw.

    Args:
        spec: space and seed of the search; one objective; for several use `nsga2` or `evolution`. Targets shape the
            reward as MnasNet's.
        learning_rate: learning rate of the logits.
        entropy: weight of the entropy; more explores longer.
        memory: decay of the moving baseline.
        within: exponent of cost / bound where a soft target is met (MnasNet's alpha).
        beyond: exponent of cost / bound where a soft target is missed (MnasNet's beta).
    """

    def __init__(
        self,
        spec: SearchSpec,
        *,
        learning_rate: float = 0.4,
        entropy: float = 0.2,
        memory: float = 0.95,
        within: float = 0.0,
        beyond: float = -1.0,
    ) -> None:
        check_single(spec, "reinforce")
        if not 0 < learning_rate < math.inf or not 0 <= entropy < math.inf or not 0 <= memory < 1:
            raise ConfigError(
                "reinforce: needs learning_rate > 0, entropy >= 0 and memory in 0..1 (1 excluded), "
                f"got learning_rate {learning_rate}, entropy {entropy} and memory {memory}",
                kind="range",
                key="strategy",
            )
        self._space = spec.space
        self._seed = spec.seed
        self._rate = learning_rate
        self._entropy = entropy
        self._memory = memory
        self._new_rewards = partial(Rewards, spec.targets, within=within, beyond=beyond)
        self._rewards = self._new_rewards()
        self._expected = 0.0
        self._logits = {key: [0.0] * count(domain) for key, domain in spec.space.domains.items()}
        self._running: dict[int, list[_Drawn]] = {}
        self._seen = Seen()

    def ask(self, number: int) -> Proposal | None:
        """Propose a point drawn from the policy that was not proposed before."""
        rng = generator(self._seed, number)

        def draw(attempt: int) -> Architecture:
            return self.draw(rng, 1 + _WARMING * max(0, attempt - _PATIENCE))

        point = unseen(self._space, draw, rng, self._seen)
        self._adopt(number, point)
        policy = noted(number, {key: chances for key, _, chances in self._running[number]})
        return Measure(point, origin=Origin(operator="policy", policy=policy))

    def recall(self, number: int, proposal: Proposal) -> None:
        """Remember what was proposed, and how likely it was."""
        self._adopt(number, measured(proposal))

    def tell(self, number: int, result: Result) -> None:
        """Take one step along the policy's gradient."""
        reward = self._rewards(result)
        advantage = reward - self._expected
        self._expected += (1 - self._memory) * advantage
        for key, option, chances in self._running.pop(number):
            step = gradient(chances, option, advantage, self._entropy)
            self._logits[key] = [z + self._rate * g for z, g in zip(self._logits[key], step, strict=True)]

    def withdraw(self, number: int) -> None:
        """Forget the latest proposal."""
        self._running.pop(number)
        self._seen.take_back()

    def restart_rewards(self, baseline: tuple[Rewards, float] | None = None) -> tuple[Rewards, float]:
        """Compare later results with another baseline; the policy stays.

        Args:
            baseline: an earlier one to return to; None: a new one.

        Returns:
            The baseline until now.
        """
        earlier = (self._rewards, self._expected)
        self._rewards, self._expected = baseline or (self._new_rewards(), 0.0)
        return earlier

    def draw(self, rng: random.Random, temperature: float = 1.0) -> Architecture:
        """Draw a point from the policy, seen or not, without remembering it."""

        def choose(key: str, domain: Domain) -> Value:
            chances = softmax(self._logits[key], temperature)
            return value_of(domain, rng.choices(range(len(chances)), chances)[0], rng)

        return self._space.decide(choose)

    def _adopt(self, number: int, point: Architecture) -> None:
        drawn = open_options(self._space, point)
        self._running[number] = [_Drawn(key, option, softmax(self._logits[key])) for key, option in drawn]
        self._seen.note(point)


def noted(number: int, policy: Mapping[str, Sequence[float]]) -> Mapping[str, tuple[float, ...]] | None:
    """Return the probabilities that the origin of ask `number` holds, rounded; None for most of the later asks.

    The first 100 asks have them, then every tenth: so long journals stay small, and a chart of them is as smooth.

    Args:
        number: of the ask.
        policy: decision -> probability of each option when it was drawn.
    """
    if not policy or (number >= _NOTED and number % _NOTED_EVERY):
        return None
    return {key: tuple(round(chance, _DIGITS) for chance in chances) for key, chances in policy.items()}


def softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    """Return the probabilities of options; more even, the higher the temperature."""
    highest = max(logits)
    weights = [math.exp((logit - highest) / temperature) for logit in logits]
    total = sum(weights)
    return [weight / total for weight in weights]


def gradient(chances: list[float], option: int, advantage: float, entropy: float) -> list[float]:
    """Return the gradient by the logits: advantage * grad log p(option) + entropy * grad H(p), for a softmax."""
    logs = [math.log(max(p, 1e-300)) for p in chances]
    disorder = -sum(p * log for p, log in zip(chances, logs, strict=True))
    return [
        advantage * ((index == option) - p) - entropy * p * (log + disorder)
        for index, (p, log) in enumerate(zip(chances, logs, strict=True))
    ]
