"""A small user-defined builder, found by `toy_builder:build`, for tests of delivery."""

from torch import nn


def build(pick, *, in_channels, classes):
    """A convolution, batch normalisation and dropout, so that train and eval mode differ."""
    width = pick.width("width")
    activation = pick("activation", {"relu": nn.ReLU, "silu": nn.SiLU})
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        activation,
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(4 * width, classes),
    )
