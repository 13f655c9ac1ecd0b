"""Relaxations: how the numbers of a decision become shares of its options. Each is as short as its equation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import elu, gumbel_softmax

from nasforge.core.errors import ConfigError, did_you_mean
from nasforge.supernet.mixed import Share

Relaxation: TypeAlias = Callable[[Tensor, float], Share]
"""From a decision's alphas (one per option) and the temperature to the shares of its options in one step."""


def softmax(alphas: Tensor, temperature: float) -> Share:
    """Every option counts by its softmax: "DARTS", Liu et al. 2019, https://arxiv.org/abs/1806.09055, equation 2."""
    return Share(tuple(range(len(alphas))), torch.softmax(alphas, 0))


def gumbel_soft(alphas: Tensor, temperature: float) -> Share:
    """A relaxed sample of all options: "SNAS", Xie et al. 2019, https://arxiv.org/abs/1812.09926, equation 5."""
    return Share(tuple(range(len(alphas))), gumbel_softmax(alphas, tau=temperature, dim=0))


def gumbel_hard(alphas: Tensor, temperature: float) -> Share:
    """One sampled option, computed alone, with the gradient of the relaxed sample.

    "Searching for a Robust Neural Architecture in Four GPU Hours" (GDAS), Dong & Yang 2019,
    https://arxiv.org/abs/1910.04465, equations 4 to 6.
    """
    weights = gumbel_softmax(alphas, tau=temperature, hard=True, dim=0)
    return Share((int(weights.argmax()),), weights)


def dirichlet(alphas: Tensor, temperature: float) -> Share:
    """A sample of the simplex: "DrNAS", Chen et al. 2021, https://arxiv.org/abs/2006.10355, section 3.1."""
    return Share(tuple(range(len(alphas))), torch.distributions.Dirichlet(concentration(alphas)).rsample())


def concentration(alphas: Tensor) -> Tensor:
    """DrNAS' parameters of the Dirichlet distribution: elu(alpha) + 1, kept away from zero."""
    return elu(alphas) + 1 + 1e-4


def probabilities(name: str, alphas: Tensor) -> Tensor:
    """The expected share of every option, differentiable.

    For the softmax it is the share itself; a hard Gumbel sample takes an option with the probability of the softmax
    (Gumbel-max); a Dirichlet's mean is its concentration divided by the sum. The relaxed Gumbel sample has no closed
    form: its softmax, which it tends to as the temperature falls, stands for it.
    """
    if name == "dirichlet":
        wanted = concentration(alphas)
        return wanted / wanted.sum()
    return torch.softmax(alphas, 0)


def dirichlet_distance(alphas: Tensor) -> Tensor:
    """Kullback-Leibler divergence from the flat Dirichlet, DrNAS' regulariser (equation 6)."""
    flat = torch.ones_like(alphas)
    return torch.distributions.kl_divergence(
        torch.distributions.Dirichlet(concentration(alphas)), torch.distributions.Dirichlet(flat)
    )


def drawn(alphas: Tensor) -> tuple[int, Tensor]:
    """A sampled index and its log-probability: for decisions that no output can be weighted by, such as widths.

    Their gradient is the score function's, (loss - baseline) * grad log p (Williams 1992).
    """
    log_probabilities = torch.log_softmax(alphas, 0)
    index = int(torch.multinomial(log_probabilities.exp().detach(), 1))
    return index, log_probabilities[index]


RELAXATIONS: dict[str, Relaxation] = {
    "softmax": softmax,
    "gumbel_soft": gumbel_soft,
    "gumbel_hard": gumbel_hard,
    "dirichlet": dirichlet,
}
"""Differentiable ones by name; those that sample paths are in nasforge/supernet/paths.py."""


def relaxation_of(name: str) -> Relaxation:
    """The relaxation of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in RELAXATIONS:
        raise ConfigError(f"train_shared: no relaxation '{name}'; {did_you_mean(name, RELAXATIONS)}")
    return RELAXATIONS[name]
