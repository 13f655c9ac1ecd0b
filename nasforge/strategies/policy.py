"""Proximal policy optimisation: a recurrent policy that takes the decisions of a point one after the other.

The only module of strategies that imports torch.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from nasforge.core.architecture import Architecture, Value
from nasforge.core.errors import ConfigError
from nasforge.core.space import Choose, Domain, SearchSpace
from nasforge.core.trial import Measure, Origin, Proposal, Result
from nasforge.settings.spec import SearchSpec
from nasforge.strategies.choosers import Seen, check_single, generator, measured, mutated, unseen
from nasforge.strategies.options import count, open_options, option_of, value_of
from nasforge.strategies.reinforce import noted, softmax
from nasforge.strategies.rewards import Rewards

_PATIENCE, _PATIENT = 5, 20
_WARMING = 0.1
_START = 0
_GRADIENT_NORM = 1.0

Taken = tuple[str, int]
"""A decision's key and the option taken."""


class _Told(NamedTuple):
    """Lesson of the policy: a trial's decisions, how likely each was when it was asked, and its reward."""

    taken: list[Taken]
    log_chances: list[float]
    advantage: float


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread: more threads slow so small a network, and their number would change its sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Points(NamedTuple):
    """Points as tensors of shape (points, longest), padded with the first option of the first decision.

    Attributes:
        keys: decisions.
        before: `Policy.token` of what was taken before each.
        options: taken, counted through all decisions.
        real: 1, or 0 where padded.
    """

    keys: Tensor
    before: Tensor
    options: Tensor
    real: Tensor


class Policy(nn.Module):
    """An LSTM that reads the decisions taken so far and gives the chances of the next one's options.

    Every decision and every option has an embedding; the input of a step is that of the decision to take plus that of
    the option taken before. A new policy is uniform.

    Args:
        space: whose decisions are taken.
        width: units of the LSTM.
        seed: of the initial weights.
    """

    def __init__(self, space: SearchSpace, width: int, seed: int) -> None:
        super().__init__()
        domains = {key: domain for key, domain in space.domains.items() if domain.size > 1}
        self.decisions = {key: index for index, key in enumerate(domains)}
        self.sizes = {key: count(domain) for key, domain in domains.items()}
        self.first = dict(zip(self.sizes, accumulate(self.sizes.values(), initial=0), strict=False))
        total = max(1, sum(self.sizes.values()))
        rows = max(1, len(domains))
        self.decision = nn.Embedding(rows, width, device="meta")
        self.option = nn.Embedding(1 + total, width, device="meta")  # 0: nothing taken yet
        self.lstm = nn.LSTMCell(width, width, device="meta")
        self.head = nn.Linear(width, total, device="meta")
        self.to_empty(device="cpu")
        weights = torch.Generator().manual_seed(seed % 2**63)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5, generator=weights)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        mask = torch.zeros(rows, total, dtype=torch.bool)
        for key, index in self.decisions.items():
            mask[index, self.first[key] : self.first[key] + self.sizes[key]] = True
        self.register_buffer("mask", mask)
        self.mask: Tensor

    def token(self, taken: Taken | None) -> int:
        """Return the embedding's row of the option taken before; None at the start."""
        return _START if taken is None else 1 + self.first[taken[0]] + taken[1]

    @_one_thread()
    def step(
        self, key: str, before: Taken | None, state: tuple[Tensor, Tensor] | None
    ) -> tuple[list[float], tuple[Tensor, Tensor]]:
        """Return the logits of one decision, and the state after it.

        Args:
            key: the decision to take.
            before: what was taken before it.
            state: after that; None at the start.
        """
        with torch.no_grad():
            row = self.decision.weight[self.decisions[key]] + self.option.weight[self.token(before)]
            after = self.lstm(row.view(1, -1), state)
            here = slice(self.first[key], self.first[key] + self.sizes[key])
            logits: list[float] = (self.head.weight[here] @ after[0].view(-1) + self.head.bias[here]).tolist()
        return logits, after

    def forward(self, points: Points) -> tuple[Tensor, Tensor]:
        """Log chances of the options taken, and the entropy of every decision; both (points, longest), 0 where padded.

        Args:
            points: see `batched`.
        """
        rows = self.decision(points.keys) + self.option(points.before)
        states: list[Tensor] = []
        state = None
        for row in rows.unbind(1):
            state = self.lstm(row, state)
            states.append(state[0])
        mask = self.mask[points.keys]
        logs = self.head(torch.stack(states, 1)).masked_fill(~mask, -math.inf).log_softmax(-1)
        taken = logs.gather(-1, points.options.unsqueeze(-1)).squeeze(-1)
        entropies = -(logs.exp() * logs.masked_fill(~mask, 0.0)).sum(-1)
        return taken * points.real, entropies * points.real

    def batched(self, points: Sequence[Sequence[Taken]]) -> Points:
        """Convert points, each as its decisions in order, to tensors."""
        longest = max(len(point) for point in points)
        padding = next(iter(self.decisions)), 0
        padded = [[*point, *[padding] * (longest - len(point))] for point in points]
        options = torch.tensor([[self.token(taken) for taken in point] for point in padded])
        return Points(
            keys=torch.tensor([[self.decisions[key] for key, _ in point] for point in padded]),
            before=nn.functional.pad(options, (1, -1), value=_START),
            options=options - 1,
            real=torch.tensor([[float(index < len(point)) for index in range(longest)] for point in points]),
        )


def clipped(log_chances: Tensor, asked: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Return PPO's surrogate of every decision (equation 7): min(r A, clip(r, 1 - clip, 1 + clip) A).

    Args:
        log_chances: of the options taken, under the policy as it is.
        asked: the same when they were taken.
        advantages: A, of the same shape or broadcast to it.
        clip: limit of the probability ratio.
    """
    ratio = (log_chances - asked).exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


class PPO:
    """A recurrent network takes the decisions one after the other and learns from the last results, in clipped steps.

    Schulman et al., "Proximal Policy Optimization Algorithms" (https://arxiv.org/abs/1707.06347), over the
    autoregressive LSTM of Zoph and Le, "Neural Architecture Search with Reinforcement Learning"
    (https://arxiv.org/abs/1611.01578). The network is stepped inside the chooser, so conditional spaces need nothing
    else, and a decision may depend on those before it, which `reinforce` cannot learn. Every `batch` results, it makes
    `epochs` steps of Adam on the last `window` of them. The ratio's denominator is the chance at the time of the ask,
    so that results of parallel trials, told late, count for what they are.

    Rewards are ranks (`Rewards`), so that nothing has to be tuned to the metric; violations of constraints are
    rewarded below everything measured, and learnt from. A point that was proposed before is drawn again, from chances
    that become more even with every such draw; at last it is mutated.

    Args:
        spec: space and seed of the search; one objective; for several use `nsga2` or `evolution`. Targets shape the
            reward as MnasNet's.
        learning_rate: learning rate of Adam.
        entropy: weight of the entropy; more explores longer.
        batch: results between two updates.
        window: results that an update learns from.
        epochs: steps per update, each on the whole window.
        clip: limit of the probability ratio. Ratios are to the time of the ask, so that it limits what one result can
            change in all; the paper's 0.2 learns too little from 100 trials.
        width: units of the LSTM.
        memory: decay of the moving baseline.
        within: exponent of cost / bound where a soft target is met (MnasNet's alpha).
        beyond: exponent of cost / bound where a soft target is missed (MnasNet's beta).
    """

    def __init__(
        self,
        spec: SearchSpec,
        *,
        learning_rate: float = 0.01,
        entropy: float = 0.1,
        batch: int = 5,
        window: int = 20,
        epochs: int = 4,
        clip: float = 0.8,
        width: int = 32,
        memory: float = 0.95,
        within: float = 0.0,
        beyond: float = -1.0,
    ) -> None:
        check_single(spec, "ppo")
        if not 0 < learning_rate < math.inf or not 0 <= entropy < math.inf or not 0 <= memory < 1 or not 0 < clip < 1:
            raise ConfigError(
                "ppo: needs learning_rate > 0, entropy >= 0, memory in 0..1 (1 excluded) and clip between 0 and 1, "
                f"got learning_rate {learning_rate}, entropy {entropy}, memory {memory} and clip {clip}",
                kind="range",
                key="strategy",
            )
        if not 1 <= batch <= window or epochs < 1 or width < 1:
            raise ConfigError(
                "ppo: needs 1 <= batch <= window, epochs >= 1 and width >= 1, "
                f"got batch {batch}, window {window}, epochs {epochs} and width {width}",
                kind="range",
                key="strategy",
            )
        self._space = spec.space
        self._seed = spec.seed
        self._entropy = entropy
        self._batch = batch
        self._epochs = epochs
        self._clip = clip
        self._memory = memory
        self._rewards = Rewards(spec.targets, within=within, beyond=beyond)
        self._expected = 0.0
        self._policy = Policy(spec.space, width, generator(spec.seed, -1).randrange(2**63))
        self._adam = torch.optim.Adam(self._policy.parameters(), lr=learning_rate, fused=True)
        # Logits and state after a prefix of options; valid until the policy changes.
        self._walked: dict[tuple[Taken, ...], tuple[list[float], tuple[Tensor, Tensor]]] = {}
        self._running: dict[int, tuple[list[Taken], list[float]]] = {}
        self._results: deque[_Told] = deque(maxlen=window)
        self._fresh = 0
        self._seen = Seen()

    def ask(self, number: int) -> Proposal | None:
        """Propose a point drawn from the policy that was not proposed before."""
        rng = generator(self._seed, number)

        def following(temperature: float) -> Choose:
            taken: list[Taken] = []

            def choose(key: str, domain: Domain) -> Value:
                chances = softmax(self._logits(key, taken), temperature)
                value = value_of(domain, rng.choices(range(len(chances)), chances)[0], rng)
                taken.append((key, option_of(domain, value)))
                return value

            return choose

        def draw(attempt: int) -> Architecture:
            point = self._space.decide(following(1 + _WARMING * max(0, min(attempt, _PATIENT) - _PATIENCE)))
            return mutated(self._space, point, rng, changes=attempt // _PATIENT) if attempt >= _PATIENT else point

        point = unseen(self._space, draw, rng, self._seen)
        policy = noted(number, self._adopt(number, point))
        return Measure(point, origin=Origin(operator="policy", policy=policy))

    def recall(self, number: int, proposal: Proposal) -> None:
        """Remember what was proposed, and how likely it was."""
        self._adopt(number, measured(proposal))

    def tell(self, number: int, result: Result) -> None:
        """Remember what came out; learn when there is a new batch of it."""
        taken, log_chances = self._running.pop(number)
        advantage = self._rewards(result) - self._expected
        self._expected += (1 - self._memory) * advantage
        if not taken:
            return
        self._results.append(_Told(taken, log_chances, advantage))
        self._fresh += 1
        if self._fresh == self._batch:
            self._fresh = 0
            self._learn()

    def withdraw(self, number: int) -> None:
        """Forget the latest proposal."""
        self._running.pop(number)
        self._seen.take_back()

    @_one_thread()
    def _learn(self) -> None:
        """Take `epochs` steps up the clipped surrogate and the entropy of the last results."""
        points = self._policy.batched([told.taken for told in self._results])
        asked = nn.utils.rnn.pad_sequence([torch.tensor(t.log_chances) for t in self._results], batch_first=True)
        advantages = torch.tensor([[told.advantage] for told in self._results])
        for _ in range(self._epochs):
            log_chances, entropies = self._policy(points)
            gain = clipped(log_chances, asked, advantages, self._clip) + self._entropy * entropies
            self._adam.zero_grad()
            (-gain.sum() / len(self._results)).backward()
            clip_grad_norm_(self._policy.parameters(), _GRADIENT_NORM)
            self._adam.step()
        self._walked.clear()

    def _logits(self, key: str, taken: list[Taken]) -> list[float]:
        """Return the logits of a decision after those taken."""
        prefix = tuple(taken)
        if prefix not in self._walked:
            before = self._walked[prefix[:-1]][1] if prefix else None
            self._walked[prefix] = self._policy.step(key, prefix[-1] if prefix else None, before)
        return self._walked[prefix][0]

    def _adopt(self, number: int, point: Architecture) -> dict[str, list[float]]:
        """Remember a proposal, and return the probabilities of each decision's options after those taken before it."""
        taken = open_options(self._space, point)
        policy = {key: softmax(self._logits(key, taken[:index])) for index, (key, _) in enumerate(taken)}
        log_chances = [math.log(max(1e-30, policy[key][option])) for key, option in taken]
        self._running[number] = (taken, log_chances)
        self._seen.note(point)
        return policy
