"""A builder whose helpers a test changes between the training and the loading."""

import random

from torch import nn

PADDING_MODE = "zeros"
DILATIONS = (1,)


def conv(in_channels, width, dilation):
    return nn.Conv2d(in_channels, width, 3, padding=dilation, dilation=dilation, padding_mode=PADDING_MODE)


def build(pick, *, in_channels, classes):
    """A convolution of a helper, normalised, before the classifier."""
    width = pick("width", {4: lambda: 4, 8: lambda: 8})
    first = conv(in_channels, width, random.choice(DILATIONS))
    return nn.Sequential(
        first, nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, classes)
    )
