"""Differentiable architecture search: weights and alphas learn in turn, on halves of the training split.

    min_alpha  L_val(w*(alpha), alpha)      with  w*(alpha) = argmin_w L_train(w, alpha)

"DARTS", Liu et al. 2019, https://arxiv.org/abs/1806.09055, equations 3 to 8. The weights' half of it is the ordinary
training loop; this is the other half.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nasforge.core.alphas import Settings
from nasforge.core.errors import ConfigError
from nasforge.data.augment import normalise
from nasforge.data.split import Split
from nasforge.supernet.cost_term import CostTerm
from nasforge.supernet.mixed import mixtures_in
from nasforge.supernet.network import Supernet
from nasforge.supernet.relaxations import Relaxation
from nasforge.supernet.relaxed import Relaxed
from nasforge.tasks.task import Criterion
from nasforge.training.device import without_tf32
from nasforge.training.hooks import Hook, Step

_HIGHEST_RATE = 0.05
_BASELINE_DECAY = 0.9


class AlphaSteps(Hook):
    """The steps of the alphas, one before each step of the weights.

    Attributes:
        relaxed: whose alphas learn.
    """

    name = "alternating"

    def __init__(
        self,
        relaxed: Relaxed,
        split: Split,
        settings: Settings,
        *,
        steps: int,
        epochs: int,
        batch_size: int,
        seed: int,
        device: torch.device,
        bf16: bool = False,
        layout: torch.memory_format = torch.contiguous_format,
        criterion: Criterion = cross_entropy,
        cost_terms: Mapping[str, float] | None = None,
        bounds: Mapping[str, float] | None = None,
        diagnose: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        """Prepare the steps; only the costs of the options are computed.

        Args:
            relaxed: the training loop moves its supernet to `device`.
            split: the alphas' half of the training split.
            settings: how they learn.
            steps: of the whole training.
            epochs: likewise.
            batch_size: images per step.
            seed: of the order of images.
            device: where the weights are.
            bf16: whether to multiply in bfloat16.
            layout: of the images.
            criterion: what the weights lower, by which `second_order` looks ahead; the alphas lower cross-entropy.
            cost_terms: `cost/flops` or `cost/params` -> weight of its expectation, relative to its bound, in the loss.
            bounds: metric -> bound; the term's weight then rises while the most likely network is above it. A term
                without a bound is relative to what is derived at the start.
            diagnose: further metrics at every epoch's end.

        Raises:
            ConfigError: settings or terms that this relaxation cannot take.
        """
        check_order(settings, relaxed.relaxation, relaxed.supernet)
        self.relaxed = relaxed
        relaxed.underived = settings.underived
        self._split = split
        self._settings = settings
        self._warmup_steps = settings.warmup_epochs * max(1, steps // max(1, epochs))
        self._steps = steps
        self._epochs = epochs
        self._batch_size = min(batch_size, len(split))
        self._seed = seed
        self._device = device
        self._bf16, self._layout = bf16, layout
        self._criterion = criterion
        self._diagnose = diagnose
        papers_steps, papers_rate = relaxed.relaxation.paper
        shorter = max(1.0, papers_steps / max(1, steps))
        rate = settings.learning_rate or min(_HIGHEST_RATE, papers_rate * shorter)
        self._adam = torch.optim.Adam(
            list(relaxed.alphas.values()), lr=rate, betas=(0.5, 0.999), weight_decay=settings.weight_decay
        )
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))
        self._baseline: float | None = None
        self._skipping = 0
        self._terms = {
            metric: CostTerm(relaxed, metric, weight, (bounds or {}).get(metric), split.shape)
            for metric, weight in (cost_terms or {}).items()
        }
        self._without_weights = _options_without_weights(relaxed.supernet)
        relaxed.settle()  # counting the costs changed what runs

    @property
    def settled(self) -> bool:
        """True if the search collapsed and was ended."""
        return self._skipping >= 2

    def before_step(self, step: Step) -> None:
        """Take a step of Adam on the alphas; the weights and their gradients stay as they are.

        Args:
            step: the weights' step that follows. Its learning rate is how far `second_order` looks ahead.
        """
        number = step.number
        progress = number / max(1, self._steps - 1)
        start, end = self._settings.temperature, self._settings.last_temperature
        self.relaxed.temperature = start + (end - start) * progress
        if number >= self._warmup_steps:
            self.relaxed.learning = True
            images, truth = self._batch(number)
            self._adam.zero_grad(set_to_none=True)
            if self._settings.second_order:
                weights = [p for p in self.relaxed.parameters() if p.requires_grad]
                alphas = list(self.relaxed.alphas.values())
                with without_tf32():  # it compares networks that are a hundredth apart
                    gradients = unrolled_gradient(
                        lambda: self._train_loss(step),
                        lambda: self._loss(images, truth),
                        weights,
                        alphas,
                        step.learning_rate,
                    )
                for alpha, gradient in zip(alphas, gradients, strict=True):
                    alpha.grad = gradient
                extra = self._penalty() + self._regulariser()
                if extra.requires_grad:
                    extra.backward(inputs=alphas)  # type: ignore[no-untyped-call]
            else:
                loss = self._loss(images, truth)
                total = loss + self._penalty() + self._regulariser() + self._score(loss)
                # by the alphas alone: the weights' gradients, a third of the work, are not computed
                total.backward(inputs=list(self.relaxed.alphas.values()))  # type: ignore[no-untyped-call]
            self._adam.step()
        self.relaxed.learning = False  # the weights' step that follows takes the alphas as they are

    def metrics(self, done: int) -> Mapping[str, float]:
        """Return diagnostics and the metrics of collapse.

        Those are the share of decisions that take an option without weights, and the entropy (1: undecided, 0:
        decided).
        """
        metrics = {"alphas/skips": self._skips(), "alphas/entropy": self._entropy()}
        for metric, term in self._terms.items():
            metrics[f"alphas/derived_{metric.removeprefix('cost/')}"] = term.derived()
            metrics[f"alphas/weight_{metric.removeprefix('cost/')}"] = term.weight
        late = done > max(self._settings.warmup_epochs, self._epochs / 2)
        over = late and metrics["alphas/skips"] > self._settings.stop_at_skips
        self._skipping = self._skipping + 1 if over else 0
        metrics["alphas/collapsed"] = float(self.settled)
        self.relaxed.settle()
        return {**metrics, **self._diagnose()}

    def state_dict(self) -> dict[str, Any]:
        """Return alphas, Adam's state, baseline and weights of the cost terms."""
        return {
            "alphas": {key: alpha.detach().clone() for key, alpha in self.relaxed.alphas.items()},
            "adam": self._adam.state_dict(),
            "baseline": self._baseline,
            "skipping": self._skipping,
            "terms": {metric: [term.weight, term.baseline] for metric, term in self._terms.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""
        with torch.no_grad():
            for key, alpha in self.relaxed.alphas.items():
                alpha.copy_(state["alphas"][key])
        self._adam.load_state_dict(state["adam"])
        self._baseline, self._skipping = state["baseline"], state["skipping"]
        for metric, (weight, baseline) in state["terms"].items():
            self._terms[metric].weight, self._terms[metric].baseline = weight, baseline
        self.relaxed.settle()

    def _batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Return the batch of a step, a function of its number, so that no batch state has to be saved."""
        per_pass = max(1, len(self._split) // self._batch_size)
        turn, position = divmod(number, per_pass)
        if self._order[0] != turn:
            generator = torch.Generator().manual_seed(self._seed + turn)
            self._order = (turn, torch.randperm(len(self._split), generator=generator))
        where = self._order[1][position * self._batch_size : (position + 1) * self._batch_size]
        images, labels = self._split.batch(where, self._device)
        return normalise(images, self._split.mean, self._split.std).contiguous(memory_format=self._layout), labels

    def _train_loss(self, step: Step) -> Tensor:
        """Return the loss of the weights' step, with the same dropout in all comparisons."""
        with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(self._seed + step.number)
            return self._loss(step.inputs, step.labels, self._criterion)

    def _loss(self, inputs: Tensor, labels: Tensor, criterion: Criterion = cross_entropy) -> Tensor:
        # second order compares networks a hundredth apart, which bf16 could not tell from each other
        bf16 = self._bf16 and not self._settings.second_order
        with torch.autocast(self._device.type, torch.bfloat16, enabled=bf16):
            logits = self.relaxed(inputs)
        return criterion(logits.float(), labels)

    def _score(self, loss: Tensor) -> Tensor:
        """Return a surrogate whose gradient is the score function's, for the drawn options."""
        if not self.relaxed.draws:
            return torch.zeros(())
        value = float(loss.detach())
        baseline = value if self._baseline is None else self._baseline
        self._baseline = _BASELINE_DECAY * baseline + (1 - _BASELINE_DECAY) * value
        return (value - baseline) * torch.stack(self.relaxed.draws).sum()

    def _penalty(self) -> Tensor:
        if not self._terms:
            return torch.zeros((), device=self._device)
        total = torch.zeros(())
        for term in self._terms.values():
            total = total + term.penalty()
        return total.to(self._device)

    def _regulariser(self) -> Tensor:
        distance = self.relaxed.relaxation.distance
        if distance is None or not self._settings.regulariser:
            return torch.zeros((), device=self._device)
        distances = [distance(a) for k, a in self.relaxed.alphas.items() if k not in self.relaxed.supernet.widths]
        return (self._settings.regulariser * torch.stack(distances).sum()).to(self._device)

    def _skips(self) -> float:
        taken = self.relaxed.likeliest
        decided = [free[taken[key]] for key, free in self._without_weights.items() if not all(free)]
        return sum(decided) / len(decided) if decided else 0.0

    def _entropy(self) -> float:
        entropies = []
        for alphas in self.relaxed.alphas.values():
            p = self.relaxed.relaxation.probabilities(alphas.detach())
            entropies.append(float(-(p * p.clamp_min(1e-12).log()).sum()) / math.log(len(p)))
        return sum(entropies) / len(entropies) if entropies else 0.0


def check_order(settings: Settings, relaxation: Relaxation, supernet: Supernet) -> None:
    """Refuse `second_order` where it is impossible: raises ConfigError."""
    if settings.second_order and not relaxation.second_order:
        raise ConfigError(
            "train_shared: second_order needs relaxation softmax. Set it, or leave second_order out",
            kind="conflict",
            key="second_order",
        )
    if settings.second_order and supernet.widths:
        raise ConfigError(
            f"second_order needs fixed widths, open are {', '.join(supernet.widths)}: use the first order, or leave "
            "each width one value in the space's YAML (in Python: space.fixed)",
            kind="unsupported",
            key="second_order",
        )


def unrolled_gradient(
    train_loss: Callable[[], Tensor],
    validation_loss: Callable[[], Tensor],
    weights: Sequence[Tensor],
    alphas: Sequence[Tensor],
    learning_rate: float,
) -> list[Tensor]:
    """Return DARTS' second-order gradient of the alphas, equations 7 and 8.

        w'  = w - xi * grad_w L_train(w, alpha)
        d   = grad_alpha L_val(w', alpha)
              - xi * (grad_alpha L_train(w+, alpha) - grad_alpha L_train(w-, alpha)) / (2 eps)
        w+- = w +- eps * grad_w' L_val(w', alpha),   eps = 0.01 / ||grad_w' L_val(w', alpha)||

    Args:
        train_loss: L_train of the weights and alphas as they are when it is called.
        validation_loss: L_val likewise.
        weights: changed in place and given back as they were.
        alphas: what is differentiated by.
        learning_rate: xi.

    Returns:
        One gradient per alpha.
    """

    def gradients(loss: Tensor, of: Sequence[Tensor]) -> list[Tensor]:
        computed = torch.autograd.grad(loss, of, allow_unused=True)
        return [torch.zeros_like(x) if g is None else g for x, g in zip(of, computed, strict=True)]

    kept = [weight.detach().clone() for weight in weights]
    at_once = all(weight.is_cuda for weight in weights)  # a call per tensor is what a GPU would wait for
    shifted, norm_of = (_shift_at_once, _norm_at_once) if at_once else (_shift, _norm)

    def shift(directions: Sequence[Tensor], by: float) -> None:
        with torch.no_grad():
            shifted(weights, kept, directions, by)

    shift(gradients(train_loss(), weights), -learning_rate)
    both = gradients(validation_loss(), (*weights, *alphas))
    ahead, direct = both[: len(weights)], both[len(weights) :]
    eps = 0.01 / max(norm_of(ahead), 1e-12)
    shift(ahead, eps)
    above = gradients(train_loss(), alphas)
    shift(ahead, -eps)
    below = gradients(train_loss(), alphas)
    shift(ahead, 0.0)
    return [d - learning_rate * (up - down) / (2 * eps) for d, up, down in zip(direct, above, below, strict=True)]


def _shift(weights: Sequence[Tensor], starts: Sequence[Tensor], directions: Sequence[Tensor], by: float) -> None:
    for weight, start, direction in zip(weights, starts, directions, strict=True):
        weight.copy_(start + by * direction)


def _shift_at_once(
    weights: Sequence[Tensor], starts: Sequence[Tensor], directions: Sequence[Tensor], by: float
) -> None:
    torch._foreach_copy_(list(weights), torch._foreach_add(list(starts), list(directions), alpha=by))


def _norm(gradients: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))


def _norm_at_once(gradients: Sequence[Tensor]) -> float:
    return float(nn.utils.get_total_norm(gradients))


def _options_without_weights(supernet: Supernet) -> dict[str, list[bool]]:
    """Return for every mixed decision which options have no parameters: skips, poolings, zeros."""
    weightless: dict[str, list[bool]] = {}
    for mixture in mixtures_in(supernet):
        free = [not any(True for _ in option.parameters()) for option in mixture.children()]
        weightless[mixture.key] = [a and b for a, b in zip(weightless.get(mixture.key, free), free, strict=True)]
    return weightless
