"""LeNet-5."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from nasforge.models.staged import scaled
from nasforge.models.textbook import Textbook, stem_stride


def lenet(width: float = 1.0, *, in_channels: int = 1, classes: int = 10, pixels: int = 32) -> nn.Sequential:
    """Build LeNet-5: LeCun et al. 1998, https://doi.org/10.1109/5.726791, section II.B.

    Its usual form of 61,706 parameters: all maps of S2 feed all of C3, pooling is a plain mean, tanh, a linear
    classifier. The paper has 60,000: ten of sixteen maps of C3 see a part of S2 alone, each pooled map has a trainable
    factor and bias, and the output layer measures distances to fixed patterns.

    Images of 28 to 31 pixels are padded by 2, as the paper centres digits of 28 in 32 pixels; smaller ones also in
    front of C3. Above 40 pixels C1 has the stride of the stem; C5 covers whatever map is left.
    """
    stride, padding = stem_stride(pixels), 2 if pixels < 32 else 0
    inner = 2 if pixels < 28 else 0
    side = (pixels + 2 * padding - 5) // stride + 1
    side = (side // 2 + 2 * inner - 4) // 2
    c1, c3, c5, f6 = (scaled(channels, width) for channels in (6, 16, 120, 84))
    return nn.Sequential(
        OrderedDict(
            c1=nn.Sequential(nn.Conv2d(in_channels, c1, 5, stride, padding), nn.Tanh()),
            s2=nn.AvgPool2d(2),
            c3=nn.Sequential(nn.Conv2d(c1, c3, 5, padding=inner), nn.Tanh()),
            s4=nn.AvgPool2d(2),
            c5=nn.Sequential(nn.Conv2d(c3, c5, side), nn.Tanh()),
            pool=nn.AdaptiveAvgPool2d(1),  # one number of each map already, unless the images are not square
            flatten=nn.Flatten(),
            f6=nn.Sequential(nn.Linear(c5, f6), nn.Tanh()),
            dropout=nn.Dropout(0.0),
            classifier=nn.Linear(f6, classes),
        )
    )


LENET = Textbook("lenet", "LeNet-5", lenet)
