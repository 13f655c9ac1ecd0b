"""Relaxations: how the numbers of a decision become shares of its options. Each is as short as its equation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import elu, gumbel_softmax

from nasforge import registry
from nasforge.core.errors import ConfigError, did_you_mean
from nasforge.supernet.mixed import Share


def likelihoods(alphas: Tensor) -> Tensor:
    """Return the softmax of the alphas: the chance of every option, differentiable."""
    return torch.softmax(alphas, 0)


@dataclass(frozen=True)
class Relaxation:
    """One way to turn the alphas of a decision into shares of its options.

    Attributes:
        share: from a decision's alphas (one per option) and the temperature to the shares of its options in one step.
        probabilities: from alphas to the expected share of every option, differentiable.
        distance: from alphas to the term that `Settings.regulariser` weighs; None: there is no such term.
        single: whether a step computes one option of every decision, so that it takes a single path.
        second_order: whether the shares are a smooth function of the alphas, as DARTS' second order needs.
        paper: steps and learning rate of the alphas in the paper; a shorter training has a higher rate.
    """

    share: Callable[[Tensor, float], Share]
    probabilities: Callable[[Tensor], Tensor] = likelihoods
    distance: Callable[[Tensor], Tensor] | None = None
    single: bool = False
    second_order: bool = False
    paper: tuple[int, float] = (97_500, 3e-4)

    def __call__(self, alphas: Tensor, temperature: float) -> Share:
        """Return the shares of one step."""
        return self.share(alphas, temperature)


def softmax(alphas: Tensor, temperature: float) -> Share:
    """Weight options by their softmax: "DARTS", Liu et al. 2019, https://arxiv.org/abs/1806.09055, equation 2."""
    return Share(tuple(range(len(alphas))), torch.softmax(alphas, 0))


def gumbel_soft(alphas: Tensor, temperature: float) -> Share:
    """Draw a relaxed sample: "SNAS", Xie et al. 2019, https://arxiv.org/abs/1812.09926, equation 5."""
    return Share(tuple(range(len(alphas))), gumbel_softmax(alphas, tau=temperature, dim=0))


def gumbel_hard(alphas: Tensor, temperature: float) -> Share:
    """Draw one option, computed alone, with the gradient of the relaxed sample.

    "Searching for a Robust Neural Architecture in Four GPU Hours" (GDAS), Dong & Yang 2019,
    https://arxiv.org/abs/1910.04465, equations 4 to 6.
    """
    weights = gumbel_softmax(alphas, tau=temperature, hard=True, dim=0)
    return Share((int(weights.argmax()),), weights)


def dirichlet(alphas: Tensor, temperature: float) -> Share:
    """Draw from the simplex: "DrNAS", Chen et al. 2021, https://arxiv.org/abs/2006.10355, section 3.1."""
    return Share(tuple(range(len(alphas))), torch.distributions.Dirichlet(concentration(alphas)).rsample())


def concentration(alphas: Tensor) -> Tensor:
    """Return DrNAS' parameters of the Dirichlet distribution: elu(alpha) + 1, kept away from zero."""
    return elu(alphas) + 1 + 1e-4


def dirichlet_mean(alphas: Tensor) -> Tensor:
    """Return the mean of the Dirichlet distribution: its concentration divided by the sum."""
    parameters = concentration(alphas)
    return parameters / parameters.sum()


def dirichlet_distance(alphas: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence from the flat Dirichlet, DrNAS' regulariser (equation 6)."""
    flat = torch.ones_like(alphas)
    return torch.distributions.kl_divergence(
        torch.distributions.Dirichlet(concentration(alphas)), torch.distributions.Dirichlet(flat)
    )


def drawn(alphas: Tensor) -> tuple[int, Tensor]:
    """Draw an index with its log-probability, for decisions that cannot weight an output, such as widths.

    Their gradient is the score function's, (loss - baseline) * grad log p (Williams 1992).
    """
    log_probabilities = torch.log_softmax(alphas, 0)
    index = int(torch.multinomial(log_probabilities.exp().detach(), 1))
    return index, log_probabilities[index]


SOFTMAX = Relaxation(softmax, second_order=True, paper=(19_500, 3e-4))
GUMBEL_SOFT = Relaxation(gumbel_soft)
"""Its expectation has no closed form; the softmax, which it approaches as the temperature falls, is used instead."""
GUMBEL_HARD = Relaxation(gumbel_hard, single=True)
"""The Gumbel-max trick: an option is sampled with the probability of its softmax."""
DIRICHLET = Relaxation(dirichlet, dirichlet_mean, dirichlet_distance, paper=(39_000, 6e-4))


def is_relaxation(name: str) -> bool:
    """Return whether a name is of a relaxation; `nasforge.supernet.paths` has those that sample paths."""
    return ":" in name or name in registry.names("relaxation")


def relaxation_of(name: str) -> Relaxation:
    """Return the relaxation of that name.

    Raises:
        ConfigError: there is none.
    """
    if not is_relaxation(name):
        raise ConfigError(
            f"train_shared: no relaxation '{name}'; {did_you_mean(name, registry.names('relaxation'))}",
            kind="unknown",
            key="relaxation",
        )
    relaxation = registry.get("relaxation", name)
    if not isinstance(relaxation, Relaxation):
        raise ConfigError(
            f"relaxation '{name}' is a {type(relaxation).__name__}, expected a Relaxation. Wrap the function: "
            "Relaxation(share), see docs/howto/plugins.md",
            kind="type",
            key="relaxation",
        )
    return relaxation
