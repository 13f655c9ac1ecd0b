"""Zero-cost proxies: what an untrained network and one batch of images say of its accuracy after training.

Each takes a freshly initialised network, normalised images (N x C x H x W) and their labels (N), and gives one number,
more is better. All of them compute on copies of parameters and buffers, so the network stays as it is, and the loss is
the mean cross-entropy. Weights are the trainable parameters of two or more dimensions: those of convolutions and linear
layers, of attention, of a user's own layers; biases and the scales of normalisations are none. Unless it says otherwise
a proxy computes in training mode (batch statistics) without dropout.

Which of them are compared in "Zero-Cost Proxies for Lightweight NAS", https://arxiv.org/abs/2101.08134, and in
"NAS-Bench-Suite-Zero", https://arxiv.org/abs/2210.03230; docs/explanation/zero_cost.md compares.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from nasforge.core.ranges import check_number
from nasforge.evaluators.untrained import Undefined, copies, hooked, in_mode, output_of
from nasforge.models.costs import count_flops, count_params

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)
_CONVOLUTIONS = (nn.modules.conv._ConvNd,)
_aten = torch.ops.aten
_RECTIFIERS = frozenset(
    {
        *(_aten.relu, _aten.relu_, _aten.hardtanh, _aten.hardtanh_, _aten.leaky_relu, _aten.leaky_relu_),
        *(_aten.silu, _aten.silu_, _aten.hardswish, _aten.hardswish_, _aten.mish, _aten.mish_, _aten.gelu),
        *(_aten.elu, _aten.elu_, _aten.softplus, _aten._prelu_kernel, _aten.rrelu_with_noise),
    }
)


def synflow(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return how much flows from input to output along all paths: log of 1 + the sum of |weight * gradient|.

    Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow",
    https://arxiv.org/abs/2006.05467; as a score of networks, without normalisations, Abdelfattah et al.,
    https://arxiv.org/abs/2101.08134. Every parameter is replaced by its absolute value, the input is one image of ones,
    what is differentiated is the sum of the outputs. Of `images` only the shape counts, and `labels` do not.
    """
    tensors, weights = copies(network, lambda tensor: tensor.abs().double())
    ones = torch.ones_like(images[:1], dtype=torch.float64)
    with in_mode(network, training=False), _without(network, _NORMS):
        flow = output_of(network, tensors, ones).sum()
        gradients = torch.autograd.grad(flow, weights, allow_unused=True)
    return math.log1p(sum(_numbers((w * g).abs().sum() for w, g in _used(weights, gradients))))


def snip(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return how much the loss depends on the presence of every weight: the sum of |weight * loss gradient|.

    Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity", https://arxiv.org/abs/1810.02340.
    """
    weights, gradients = _gradients(network, images, labels)
    return math.fsum(_numbers((w * g).abs().sum() for w, g in _used(weights, gradients)))


def grad_norm(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return how steep the loss is: the sum of the Euclidean norms of its gradients by each layer's weights.

    Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS", https://arxiv.org/abs/2101.08134.
    """
    weights, gradients = _gradients(network, images, labels)
    return math.fsum(_numbers(g.norm() for _, g in _used(weights, gradients)))


def grasp(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return how well the gradient's norm is kept: minus the sum of weight * (Hessian times gradient).

    Wang et al., "Picking Winning Tickets Before Training by Preserving Gradient Flow",
    https://arxiv.org/abs/2002.07376, with the sign of https://arxiv.org/abs/2101.08134, by which more is better.
    """
    with sdpa_kernel(SDPBackend.MATH):  # the fused attention has no second derivative
        weights, gradients = _gradients(network, images, labels, create_graph=True)
        used = [gradient for _, gradient in _used(weights, gradients)]
        squared = torch.stack([(gradient.detach() * gradient).sum() for gradient in used]).sum()
        products = torch.autograd.grad(squared, weights, allow_unused=True)
    return -math.fsum(_numbers((w * product).sum() for w, product in _used(weights, products)))


def fisher(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return how much the loss depends on every channel: (activation * gradient)^2, summed over channels and layers.

    Turner et al., "BlockSwap: Fisher-guided Block Substitution for Network Compression",
    https://arxiv.org/abs/1906.04113: per channel of the output of a convolution or linear layer half the mean over the
    images of (the sum over pixels of activation * gradient of the loss) squared.
    """
    saliences: list[Tensor] = []

    def keep(module: nn.Module, _: Any, output: Tensor) -> None:
        channel = 1 if isinstance(module, _CONVOLUTIONS) else output.ndim - 1
        pixels = [axis for axis in range(1, output.ndim) if axis != channel]
        activation = output.detach().clone()  # an activation behind it may overwrite it

        def add(gradient: Tensor) -> None:
            product = activation * gradient
            per_channel = product.sum(pixels) if pixels else product
            saliences.append(per_channel.square().mean(0).sum())

        output.register_hook(add)  # type: ignore[no-untyped-call]

    with ExitStack() as stack:
        for module in network.modules():
            if isinstance(module, (*_CONVOLUTIONS, nn.Linear)):
                stack.enter_context(hooked(module.register_forward_hook(keep)))
        _gradients(network, images, labels)
    if not saliences:
        raise Undefined("it has no convolution or linear layer")
    return math.fsum(0.5 * salience for salience in _numbers(saliences))


def jacov(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return how differently the network answers the images: the score of their input gradients' correlations.

    Mellor et al., "Neural Architecture Search without Training", https://arxiv.org/abs/2006.04647, first version: with
    the eigenvalues v of the correlations between the images' gradients of the summed outputs, and k = 1e-5,
    minus the sum of log(v + k) + 1 / (v + k). At best all v are 1, which gives about minus the number of images.
    """
    tensors, _ = copies(network)
    images = images.detach().clone().requires_grad_()
    with in_mode(network):
        (jacobian,) = torch.autograd.grad(output_of(network, tensors, images).sum(), images)
    eigenvalues = torch.linalg.eigvalsh(torch.corrcoef(jacobian.flatten(1).double())) + 1e-5
    return -float((eigenvalues.log() + 1 / eigenvalues).sum())


def naswot(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return how well rectifiers separate the images: log |det K|, K counts the units in which two images agree.

    Mellor et al., "Neural Architecture Search without Training", https://arxiv.org/abs/2006.04647. A unit is an input
    of a ReLU, agreeing is having the same sign; the inputs of SiLU, GELU and the like are taken likewise, whether a
    layer or a function computes them.
    """
    tensors, _ = copies(network)
    codes = _Codes(len(images), images.device)
    with in_mode(network), torch.no_grad(), codes:
        output_of(network, tensors, images)
    if not codes.units:
        raise Undefined("it has no activation such as a ReLU")
    return float(torch.linalg.slogdet(codes.kernel.cpu()).logabsdet)


def swap(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return how many different answers rectifiers give to the images: the number of sample-wise activation patterns.

    Peng et al., "SWAP-NAS: Sample-Wise Activation Patterns for Ultra-fast NAS", https://arxiv.org/abs/2403.04161: the
    pattern of a unit has one bit for each image, 1 where the unit's input is positive. Units are those of `naswot`.
    Of N images at most 2^N patterns exist.
    """
    tensors, _ = copies(network)
    patterns = _Patterns(len(images))
    with in_mode(network), torch.no_grad(), patterns:
        output_of(network, tensors, images)
    if not patterns.packed:
        raise Undefined("it has no activation such as a ReLU")
    return float(patterns.count())


def swap_regularised(
    network: nn.Module, images: Tensor, labels: Tensor, *, params: float, spread: float | None = None
) -> float:
    """Return `swap` of a network, less the further its size is from the one that is wished for.

    Peng et al., section 3.3 of https://arxiv.org/abs/2403.04161: `swap` times exp(-((trainable parameters - mu)^2 /
    sigma)).

    Args:
        network: its score.
        images: N x C x H x W.
        labels: unused.
        params: trainable parameters that a network should have, the paper's mu.
        spread: parameters above or below it at which the score is divided by e, the square root of the paper's sigma;
            None: as many as `params`.

    Raises:
        ConfigError: `params` or `spread` is not above 0.
    """
    for name, number in (("params", params), ("spread", params if spread is None else spread)):
        check_number(number, f"proxy 'swap_regularised': {name}", over=0)
    distance = (count_params(network) - params) / (spread or params)
    return swap(network, images, labels) * math.exp(-(distance**2))


def log_params(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the logarithm of the number of trainable parameters.

    The baseline that many proxies do not beat: White et al., "A Deeper Look at Zero-Cost Proxies for Lightweight NAS",
    https://iclr-blog-track.github.io/2022/03/25/zero-cost-proxies/. `images` and `labels` do not count.
    """
    if not (count := count_params(network)):
        raise Undefined("it has no weights that are trained")
    return math.log(count)


def log_flops(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the logarithm of the multiply-adds of one image: the complexity of AZ-NAS.

    Lee and Ham, "AZ-NAS: Assembling Zero-Cost Proxies for Network Architecture Search",
    https://arxiv.org/abs/2403.19232. Of `images` only the shape counts, and `labels` do not.
    """
    with in_mode(network):
        count = count_flops(network, tuple(images.shape[1:]))
    if not count:
        raise Undefined("it multiplies nothing")
    return math.log(count)


def zen(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return how much features change with the input under Gaussian weights: the logarithm of the mean change.

    Lin et al., "Zen-NAS: A Zero-Shot NAS for High-Performance Deep Image Recognition",
    https://arxiv.org/abs/2102.01063: weights and inputs are drawn from N(0, 1), the inputs are moved by 0.01 times
    another draw, and the sum of absolute changes is taken of the last map with more than one pixel (before the global
    pooling; of the outputs where there is none). What every BatchNorm has divided by is given back: the logarithm of
    the root of its channels' mean variance is added. Of `images` only the shape counts, and `labels` do not.
    """
    tensors = _gaussian(network)
    features: list[Tensor] = []
    variances: list[Tensor] = []

    def keep_map(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            features[:] = [output.clone()]

    def keep_variance(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        axes = [axis for axis in range(inputs[0].ndim) if axis != 1]
        variances.append(inputs[0].var(axes, unbiased=False).mean())

    def last_map(inputs: Tensor) -> Tensor:
        features.clear()
        output = output_of(network, tensors, inputs)
        return features[0] if features else output

    inputs = torch.randn(images.shape).to(images.device)
    moved = inputs + 0.01 * torch.randn(images.shape).to(images.device)
    with in_mode(network), torch.no_grad(), ExitStack() as stack:
        for module in network.modules():
            if module is not network:
                stack.enter_context(hooked(module.register_forward_hook(keep_map)))
        here = last_map(inputs)
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                stack.enter_context(hooked(module.register_forward_pre_hook(keep_variance)))
        there = last_map(moved)
    change = (here - there).abs().flatten(1).sum(1).mean().item()
    if not change > 0:
        raise Undefined("its features do not depend on the input")
    return math.log(change) + sum(0.5 * math.log(variance) for variance in _numbers(variances))


# --- what they share ------------------------------------------------------------------------------------------------


def _gaussian(network: nn.Module) -> dict[str, Tensor]:
    """Copy all parameters and buffers: weights drawn from N(0, 1), biases 0, normalisations without effect."""
    tensors, _ = copies(network)
    for prefix, module in network.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            key = f"{prefix}.{name}" if prefix else name
            if key not in tensors:
                continue  # shared with a module that came before
            if isinstance(module, _NORMS):
                tensors[key] = torch.ones_like(parameter) if name == "weight" else torch.zeros_like(parameter)
            elif parameter.ndim >= 2:
                tensors[key] = torch.randn(parameter.shape).to(parameter.device)
            elif name == "bias":
                tensors[key] = torch.zeros_like(parameter)
    return tensors


def _gradients(
    network: nn.Module, images: Tensor, labels: Tensor, *, create_graph: bool = False
) -> tuple[list[Tensor], tuple[Tensor | None, ...]]:
    """Return the weights (copies) and the loss gradients by them, None for unused ones."""
    tensors, weights = copies(network)
    if not weights:
        raise Undefined("it has no weights that are trained")
    with in_mode(network):
        loss = cross_entropy(output_of(network, tensors, images), labels)
        return weights, torch.autograd.grad(loss, weights, allow_unused=True, create_graph=create_graph)


def _numbers(tensors: Iterable[Tensor]) -> list[float]:
    """Return the numbers in tensors of one element; a GPU is waited for once."""
    each = list(tensors)
    return torch.stack(each).tolist() if each else []


def _used(weights: list[Tensor], gradients: tuple[Tensor | None, ...]) -> list[tuple[Tensor, Tensor]]:
    """Return the weights that take part in the output, with their gradients."""
    return [(w.detach(), g) for w, g in zip(weights, gradients, strict=True) if g is not None]


@contextmanager
def _without(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[None]:
    """Turn modules of these kinds into identities."""
    with ExitStack() as stack:
        for module in network.modules():
            if isinstance(module, kinds):
                stack.enter_context(hooked(module.register_forward_hook(lambda module, inputs, output: inputs[0])))
        yield


class _Codes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts, for every pair of images, of the rectifiers' inputs whose signs agree.

    Attributes:
        kernel: N x N, these numbers.
        units: rectifier inputs of one image.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernel = torch.zeros(count, count, dtype=torch.float64, device=device)
        self.units = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._overloadpacket in _RECTIFIERS and len(args[0]) == len(self.kernel):
            code = (args[0] > 0).flatten(1).float()
            agreeing = code @ code.T + (1 - code) @ (1 - code).T
            self.kernel += agreeing.double()
            self.units += code.shape[1]
        return func(*args, **(kwargs or {}))


class _Patterns(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collector of the signs of the rectifiers' inputs, unit by unit, over all images.

    Attributes:
        packed: arrays of units x words; a word has the bits of 64 images.
    """

    def __init__(self, count: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._count = count
        self.packed: list[np.ndarray] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._overloadpacket in _RECTIFIERS and len(args[0]) == self._count:
            signs = (args[0] > 0).flatten(1).cpu().numpy()
            bits = np.zeros((-(-self._count // 64) * 64, signs.shape[1]), bool)
            bits[: self._count] = signs
            self.packed.append(np.ascontiguousarray(np.packbits(bits, axis=0).T).view(np.uint64))
        return func(*args, **(kwargs or {}))

    def count(self) -> int:
        """Return the number of different patterns."""
        words = np.concatenate(self.packed)
        patterns = words[:, 0]
        for word in words.T[1:]:  # numbers in place of the patterns so far, then of them and the next word
            _, numbers = np.unique(patterns, return_inverse=True)
            others, further = np.unique(word, return_inverse=True)
            patterns = numbers.astype(np.uint64) * np.uint64(len(others)) + further.astype(np.uint64)
        return len(np.unique(patterns))
