"""Gradients in mixed precision on the CPU are those of full precision, but for rounding."""

import pytest
import torch
from torch.nn import functional as F

from attnzoo.emotion.mixed import PaddedFirst


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("size", "window", "stride", "dilation"),
    [
        ((2, 7, 7), 3, 1, 1),  # layer3 of a 3D ResNet at 16 x 112 x 112
        ((2, 7, 7), 3, 2, 1),
        ((1, 4, 4), 3, 1, 3),
        ((1, 1, 1), 3, 2, 1),
        ((2, 4, 4), 7, 1, 1),
        ((1, 1), 3, 2, 1),
        ((2, 2), 3, 1, 2),
    ],
)
def test_gradients_of_windows_larger_than_their_input(
    size: tuple[int, ...], window: int, stride: int, dilation: int, channels_last: bool
) -> None:
    axes = len(size)
    conv = {2: F.conv2d, 3: F.conv3d}[axes]
    torch.manual_seed(0)
    features, weight = torch.randn(4, 32, *size), torch.randn(32, 32, *(window,) * axes) / 10
    if channels_last:
        weight = weight.to(memory_format={2: torch.channels_last, 3: torch.channels_last_3d}[axes])
    settings = {"stride": stride, "padding": window // 2 * dilation, "dilation": dilation}
    exact = [value.bfloat16().double().requires_grad_() for value in (features, weight)]
    conv(*exact, **settings).square().sum().backward()
    for _ in range(4):  # what is not initialised may be right by chance
        junk = [torch.full((10 ** (3 + i % 4),), torch.nan) for i in range(12)]
        del junk
        mixed = [value.clone().requires_grad_() for value in (features, weight)]
        with torch.autocast("cpu", torch.bfloat16), PaddedFirst():
            output = conv(*mixed, **settings)
        output.float().square().sum().backward()
        for one, other in zip(mixed, exact, strict=True):
            assert one.grad is not None
            assert other.grad is not None
            error = (one.grad.double() - other.grad).abs().max() / other.grad.abs().max()
            assert error < 0.02
