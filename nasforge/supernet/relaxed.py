"""A supernet whose decisions are shares of their options, and the alphas that say how large."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nasforge.core.alphas import derive, without
from nasforge.core.architecture import MODEL, Architecture, Value
from nasforge.core.errors import ConfigError
from nasforge.models.costs import count_flops
from nasforge.supernet.mixed import Share
from nasforge.supernet.network import Supernet
from nasforge.supernet.relaxations import drawn, relaxation_of


class Relaxed(nn.Module):
    """A supernet whose decisions are shares of their options; in training mode every forward pass samples again.

    Decisions that cannot be shares (open widths) are drawn, and learn by the score function.

    Attributes:
        supernet: what is trained.
        relaxation: turns alphas into shares.
        alphas: decision without `model.` -> one number per option; on the CPU; no parameters of this module, since the
            weights' optimizer must not touch them.
        temperature: of Gumbel samples.
        learning: whether gradients reach the alphas.
        underived: option that is no candidate of what is derived; empty: all are.
        taken: decision -> index, for those of which the latest sample took one option.
        draws: log-probabilities of the widths of the latest sample.
    """

    def __init__(
        self, supernet: Supernet, relaxation: str, alphas: Mapping[str, Sequence[float]] | None = None
    ) -> None:
        """Start alphas near zero, drawn from torch's generator (as DARTS: 1e-3 times a normal draw).

        Raises:
            ConfigError: unknown relaxation, or alphas that are not of this space.
        """
        super().__init__()
        self.supernet = supernet
        self.relaxation = relaxation_of(relaxation)
        self.temperature = 1.0
        self.learning = True
        self.underived = ""
        self.taken: dict[str, int] = {}
        self.draws: list[Tensor] = []
        self.alphas: dict[str, Tensor] = {}
        for key in supernet.decisions:
            options = supernet.space.domains[MODEL + key].values
            start = 1e-3 * torch.randn(len(options))
            if alphas is not None:
                numbers = alphas.get(MODEL + key)
                if numbers is None or len(numbers) != len(options):
                    raise ConfigError(
                        f"train_shared: the alphas must have {len(options)} numbers for '{MODEL}{key}'",
                        kind="invalid",
                        key=MODEL + key,
                    )
                start = torch.tensor(numbers, dtype=torch.float32)
            self.alphas[key] = start.requires_grad_()
        self.settle()

    @property
    def plain(self) -> dict[str, tuple[float, ...]]:
        """The alphas as numbers, decision key -> one per option."""
        return {MODEL + key: tuple(alphas.tolist()) for key, alphas in self.alphas.items()}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run N x C x H x W -> N x classes."""
        if self.training:
            self.sample()
        out: torch.Tensor = self.supernet(x)
        return out

    def sample(self) -> None:
        """Take new shares, by the relaxation."""
        device = next(self.supernet.parameters()).device
        shares: dict[str, Share] = {}
        widths: dict[str, Value] = {}
        self.taken, self.draws = {}, []
        for key, values in self.alphas.items():
            alphas = values if self.learning else values.detach()
            if key in self.supernet.widths:
                index, log_probability = drawn(alphas)
                widths[key] = self.supernet.widths[key][index]
                self.draws.append(log_probability)
                self.taken[key] = index
            else:
                share = self.relaxation(alphas, self.temperature)
                if len(share.active) == 1:
                    self.taken[key] = share.active[0]
                shares[key] = share
        weighted = {key: share.weights for key, share in shares.items() if share.weights is not None}
        for key, weights in zip(weighted, moved(list(weighted.values()), device), strict=True):
            shares[key] = Share(shares[key].active, weights)  # once for all places of the decision
        self.supernet.mix(shares, widths)

    @property
    def derived(self) -> Architecture:
        """The architecture that the alphas stand for first."""
        return next(derive(self.supernet.space, without(self.supernet.space, self.plain, self.underived)))

    @property
    def likeliest(self) -> dict[str, int]:
        """Decision without `model.` -> index of the option that is derived first."""
        rows = without(self.supernet.space, self.plain, self.underived)
        return {key.removeprefix(MODEL): max(range(len(row)), key=row.__getitem__) for key, row in rows.items()}

    def options(self, key: str) -> Sequence[Value]:
        """Return the values of a decision, in the order of its alphas."""
        return self.supernet.space.domains[MODEL + key].values

    def settle(self) -> None:
        """Let the most likely option of every decision run."""
        widths, taken = self.supernet.widths, self.likeliest
        shares = {key: Share((index,)) for key, index in taken.items() if key not in widths}
        self.supernet.mix(shares, {key: values[taken[key]] for key, values in widths.items()})


def moved(tensors: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
    """Return one-dimensional tensors on a device: to a GPU in one copy there, and one back for their gradients."""
    if device.type == "cpu" or not tensors:
        return tensors
    return torch.split(torch.cat(list(tensors)).to(device), [len(tensor) for tensor in tensors])


def forward_flops(relaxed: Relaxed, shape: tuple[int, int, int]) -> float:
    """Return the multiply-adds of one image through the relaxed network; the mean of some paths if sampled."""
    total = 0
    samples = 8 if relaxed.relaxation.single or relaxed.supernet.widths else 1
    learning, relaxed.learning = relaxed.learning, False
    for _ in range(samples):
        relaxed.sample()
        total += count_flops(relaxed.supernet, shape)
    relaxed.learning = learning
    relaxed.settle()
    return total / samples
