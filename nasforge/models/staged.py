"""The staged network: a stem, three stages of layers, global average pooling, a head. The flagship builder."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from torch import nn

from nasforge.core.architecture import Value
from nasforge.core.errors import BuildError
from nasforge.core.protocols import Pick
from nasforge.core.ranges import Range, shown
from nasforge.models.blocks.catalogue import ACTIVATIONS, BlockOption, BlockOptions
from nasforge.models.blocks.conv import Activation, ConvNorm


def build(
    pick: Pick,
    *,
    in_channels: int,
    classes: int,
    strides: Sequence[int] = (1, 2, 2),
    stem_width: int = 16,
    stem_stride: int = 1,
    width_multiplier: float = 1.0,
    dropout: float = 0.0,
    layers: int = 4,
    blocks: Mapping[str, str] | None = None,
) -> nn.Sequential:
    """Build a network for images N x C x H x W -> logits N x classes.

    Reads the decisions `activation`, and for each stage i `stage{i}.width`, `stage{i}.layer0.block` and
    `stage{i}.layer{j}.block`; the options of a block are those of `nasforge.models.blocks.catalogue`, `identity` makes
    a stage shallower. Decisions nested below an option (`stage0.layer1.block.bottleneck.reduction`) are read where the
    block takes them.

    Args:
        pick: answers the decisions.
        in_channels: C of the images.
        classes: number of logits.
        strides: one per stage, taken by its first layer; the number of stages is its length.
        stem_width: channels after the first 3x3 convolution, before the multiplier.
        stem_stride: stride of that convolution; 2 for large images.
        width_multiplier: scales all widths.
        dropout: probability in front of the classifier.
        layers: most layers of a stage.
        blocks: blocks of your own, name -> "module:Class", called like ours; their names become options.

    Raises:
        BuildError: an argument out of range, or an option that this builder does not have.
    """
    check_arguments("staged", strides, stem_width, stem_stride, width_multiplier, dropout, layers)
    options = BlockOptions(blocks)
    activation: Activation = partial(pick, "activation", ACTIVATIONS)

    channels = scaled(stem_width, width_multiplier)
    network: OrderedDict[str, nn.Module] = OrderedDict()
    network["stem"] = ConvNorm(in_channels, channels, 3, stem_stride, activation=activation)
    for i, stride in enumerate(strides):
        width = scaled(pick.width(f"stage{i}.width"), width_multiplier)
        stage: OrderedDict[str, nn.Module] = OrderedDict()
        for j in range(layers):
            shape = (channels, width, stride) if j == 0 else (width, width, 1)
            stage[f"layer{j}"] = pick_block(pick, f"stage{i}.layer{j}.block", options, shape, activation)
        network[f"stage{i}"] = nn.Sequential(stage)
        channels = width
    network.update(head(channels, classes, activation, dropout))
    return nn.Sequential(network)


def pick_block(
    pick: Pick,
    key: str,
    options: Mapping[str, BlockOption],
    shape: tuple[int, int, int],
    activation: Activation,
) -> nn.Module:
    """Build the block decided for `key`, with the decisions nested below it.

    Args:
        pick: answers the decisions.
        key: the decision.
        options: name -> block.
        shape: (in_channels, out_channels, stride).
        activation: made where the block needs one.
    """

    def thunk(name: str) -> Callable[[], nn.Module]:
        option = options[name]
        make = partial(option.make, *shape, activation=activation)
        return partial(with_settings, pick, f"{key}.{name}", make, option.searched)

    block: nn.Module = pick(key, _Thunks(options, thunk))
    return block


class _Thunks(Mapping[Value, Callable[[], nn.Module]]):
    """The options of a block as `pick` takes them; a block is imported when its option is asked for."""

    def __init__(self, options: Mapping[str, BlockOption], thunk: Callable[[str], Callable[[], nn.Module]]) -> None:
        self._options, self._thunk = options, thunk

    def __getitem__(self, option: Value) -> Callable[[], nn.Module]:
        return self._thunk(option)  # type: ignore[arg-type]  # another value is a KeyError

    def __iter__(self) -> Iterator[Value]:
        return iter(self._options)

    def __len__(self) -> int:
        return len(self._options)


def with_settings(
    pick: Pick, prefix: str, make: Callable[..., nn.Module], searched: Mapping[str, Sequence[Value]]
) -> nn.Module:
    """Call `make` with every searched setting decided at `prefix.setting`; each value is a separate option.

    A supernet that mixes the values holds one module for each combination.
    """
    if not searched:
        return make()
    (setting, values), *rest = searched.items()
    thunks = {v: partial(with_settings, pick, prefix, partial(make, **{setting: v}), dict(rest)) for v in values}
    module: nn.Module = pick(f"{prefix}.{setting}", thunks)
    return module


def head(channels: int, classes: int, activation: Activation, dropout: float) -> OrderedDict[str, nn.Module]:
    """Make normalisation and activation, global average pooling, dropout, classifier.

    The first two make blocks fit to stand last whose output is linear or not normalised (inverted, pre-activation).
    """
    return OrderedDict(
        norm=nn.BatchNorm2d(channels),
        activation=activation(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        dropout=nn.Dropout(dropout),
        classifier=nn.Linear(channels, classes),
    )


def scaled(width: int, multiplier: float) -> int:
    """Return `width * multiplier`, rounded, at least one channel."""
    return max(1, round(width * multiplier))


def check_arguments(
    builder: str,
    strides: Sequence[int],
    stem_width: int,
    stem_stride: int,
    width_multiplier: float,
    dropout: float,
    layers: int,
) -> None:
    """Check all arguments of `builder`. Raises BuildError with every one that is out of range."""
    problems = []
    if not isinstance(strides, (list, tuple)) or not strides or any(s not in (1, 2, 4) for s in strides):
        problems.append(f"strides must be a list of 1, 2 or 4, one per stage, got {strides!r}")
    count, above_0, share = Range(whole=True, least=1), Range(over=0), Range(least=0, below=1)
    for name, value, allowed in (
        ("stem_width", stem_width, count),
        ("stem_stride", stem_stride, count),
        ("layers", layers, count),
        ("width_multiplier", width_multiplier, above_0),
        ("dropout", dropout, share),
    ):
        if value not in allowed:
            problems.append(f"{name} must be {allowed}, got {shown(value)}")
    if problems:
        raise BuildError(f"builder '{builder}': " + "; ".join(problems), kind="range")
