"""Conformance suite for blocks of the builder `staged`: run it on your own.

    import pytest
    from nasforge.testing.blocks import CHECKS

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_conformance(check):
        check(MyBlock)

A check takes what the registry takes, a class called as `Block(in_channels, out_channels, stride, *, activation)`, and
raises AssertionError with the reason. Settings without a default are not passed: use `functools.partial` for them. A
block may refuse shapes by a BuildError, but not all of `SHAPES`.
"""

# ruff: noqa: S101 - a check reports failures by AssertionError, as tests do

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from nasforge.core.errors import BuildError
from nasforge.models.costs import count_flops, memory_mb
from nasforge.models.registration import check_state
from nasforge.training.gradients import check_gradients

Block = Callable[..., nn.Module]
SHAPES = ((8, 8, 1), (8, 12, 1), (8, 12, 2), (7, 5, 2))
"""Input channels, output channels, stride."""
SIDE = 7


def _blocks(block: Block) -> Iterator[tuple[tuple[int, int, int], nn.Module]]:
    refused = []
    for number, shape in enumerate(SHAPES):
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(number)
                made = block(*shape, activation=nn.ReLU)
        except BuildError as error:
            refused.append(str(error))
            continue
        yield shape, made
    assert len(refused) < len(SHAPES), f"the block refuses all shapes: {refused[0]}"


def check_shapes(block: Block) -> None:
    """Check that N x Cin x H x W becomes N x Cout x ceil(H / stride) x ceil(W / stride), also for unequal sides."""
    for (in_channels, out_channels, stride), module in _blocks(block):
        for height, width in ((SIDE, SIDE + 1), (SIDE + 1, SIDE + 1)):
            with torch.no_grad():
                got = tuple(module(torch.rand(2, in_channels, height, width)).shape)
            expected = (2, out_channels, -(-height // stride), -(-width // stride))
            assert got == expected, f"{in_channels} -> {out_channels}, stride {stride}: {got} instead of {expected}"


def check_costs(block: Block) -> None:
    """Check that multiply-adds and memory can be counted on the meta device, and that every layer is registered."""
    for (in_channels, *_), module in _blocks(block):
        shape = (in_channels, SIDE, SIDE)
        assert count_flops(module.to("meta"), shape) >= 0
        assert memory_mb(module.to("meta"), shape, 2) >= 0


def check_saved_state(block: Block) -> None:
    """Check that a block with the state_dict of another one answers as that does."""
    for shape, module in _blocks(block):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(99)
            other = block(*shape, activation=nn.ReLU)
        check_state(module, other, (shape[0], SIDE, SIDE))


def check_evaluation(block: Block) -> None:
    """Check that in eval mode an image has the same answer each time, whatever other images are in its batch."""
    for (in_channels, *_), module in _blocks(block):
        images = torch.rand(3, in_channels, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            module.eval()
            together, again, alone = module(images), module(images), module(images[:1])
        assert torch.equal(together, again), "two passes in eval mode differ"
        assert torch.allclose(together[:1], alone, atol=1e-5), "an image's answer depends on the others of its batch"


def check_gradients_agree(block: Block) -> None:
    """Check that gradients agree with two-sided differences in float64, see `nasforge.training.gradients`."""
    for (in_channels, out_channels, stride), module in _blocks(block):
        outcome = check_gradients(module, (in_channels, SIDE, SIDE))
        where = f"{in_channels} -> {out_channels}, stride {stride}"
        assert outcome.agrees, f"{where}: {outcome.disagreement}"
        assert not outcome.unchecked, f"{where}: not checked: {outcome.unchecked[0]}"


CHECKS: tuple[Callable[[Block], None], ...] = (
    check_shapes,
    check_costs,
    check_saved_state,
    check_evaluation,
    check_gradients_agree,
)
