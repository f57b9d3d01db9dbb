"""The Kinetics 3D ResNets (Hara et al., 2018, https://arxiv.org/abs/1711.09577), with the authors' state-dict keys."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Shortcut = Literal["A", "B"]

# Depth -> (bottleneck?, blocks of each stage).
DEPTHS: dict[int, tuple[bool, tuple[int, int, int, int]]] = {
    10: (False, (1, 1, 1, 1)),
    14: (True, (1, 1, 1, 1)),  # not among the authors'; the smallest with bottlenecks
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
    200: (True, (3, 24, 36, 3)),
}


class PadShortcut(nn.Module):
    """Shortcut A: every stride-th position, and zeros for the channels that are new; no parameters.

    Args:
        channels: C of the output.
        stride: along T, H and W.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels = channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, channels, T / stride, H / stride, W / stride)."""
        s = self.stride
        return F.pad(x[:, :, ::s, ::s, ::s], (0, 0, 0, 0, 0, 0, 0, self.channels - x.shape[1]))


class BasicBlock(nn.Module):
    """Two 3x3x3 convolutions and a shortcut.

    Args:
        in_channels: C of the input.
        width: C of the convolutions and of the output.
        stride: of the first convolution, along T, H and W.
        downsample: the shortcut, where the input's shape differs from the output's.
    """

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, T, H, W) -> (N, width, T / stride, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        out: Tensor = self.relu(x + shortcut)
        return out


class Bottleneck(nn.Module):
    """1x1x1, 3x3x3 (with the stride) and 1x1x1 convolutions, and a shortcut.

    Args:
        in_channels: C of the input.
        width: C of the convolutions; the output has 4 * width.
        stride: of the middle convolution, along T, H and W.
        downsample: the shortcut, where the input's shape differs from the output's.
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, T, H, W) -> (N, 4 * width, T / stride, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        out: Tensor = self.relu(x + shortcut)
        return out


class ResNet3d(nn.Module):
    """A ResNet with kernels along time: 3 x 16 x 112 x 112 becomes 512 or 2048 x 1 x 4 x 4, then a mean.

    Args:
        block: BasicBlock or Bottleneck.
        counts: blocks of each stage.
        num_classes: classes of the head; 0 for none, the output is then the pooled features.
        in_channels: C of the input.
        shortcut: "B" for a 1x1x1 convolution with norm, "A" for padding (the old Kinetics files of 18 and 34 layers).
        stem_size: kernel of the first convolution along time.
        stem_stride: its stride along time (space: always 2).
        stem_pool: whether a max pool of stride 2 follows.
        widen_factor: factor on the widths 64, 128, 256, 512.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        counts: Sequence[int],
        *,
        num_classes: int = 400,
        in_channels: int = 3,
        shortcut: Shortcut = "B",
        stem_size: int = 7,
        stem_stride: int = 1,
        stem_pool: bool = True,
        widen_factor: float = 1.0,
    ) -> None:
        super().__init__()
        widths = [int(w * widen_factor) for w in (64, 128, 256, 512)]
        self.conv1 = nn.Conv3d(
            in_channels, widths[0], (stem_size, 7, 7), (stem_stride, 2, 2), (stem_size // 2, 3, 3), bias=False
        )
        self.bn1 = nn.BatchNorm3d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d(3, 2, 1) if stem_pool else nn.Identity()
        stage = partial(_stage, block, shortcut=shortcut)
        e = block.expansion
        self.layer1 = stage(widths[0], widths[0], counts[0], stride=1)
        self.layer2 = stage(widths[0] * e, widths[1], counts[1], stride=2)
        self.layer3 = stage(widths[1] * e, widths[2], counts[2], stride=2)
        self.layer4 = stage(widths[2] * e, widths[3], counts[3], stride=2)
        self.num_features = widths[3] * e
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        for m in self.modules():
            if isinstance(m, nn.Conv3d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_channels, T, H, W) -> the last stage's (N, num_features, T / 16, H / 32, W / 32), rounded up."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        out: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, T, H, W) -> (N, num_classes), or (N, num_features) without a head."""
        out: Tensor = self.fc(self.forward_features(x).mean((2, 3, 4)))
        return out


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    in_channels: int,
    width: int,
    count: int,
    stride: int,
    shortcut: Shortcut,
) -> nn.Sequential:
    out = width * block.expansion
    downsample: nn.Module | None = None
    if stride != 1 or in_channels != out:
        if shortcut == "A":
            downsample = PadShortcut(out, stride)
        else:
            downsample = nn.Sequential(nn.Conv3d(in_channels, out, 1, stride, bias=False), nn.BatchNorm3d(out))
    return nn.Sequential(block(in_channels, width, stride, downsample), *(block(out, width) for _ in range(count - 1)))


def resnet3d(
    depth: int,
    *,
    num_classes: int = 400,
    in_channels: int = 3,
    shortcut: Shortcut = "B",
    stem_size: int = 7,
    stem_stride: int = 1,
    stem_pool: bool = True,
    widen_factor: float = 1.0,
) -> ResNet3d:
    """A Kinetics 3D ResNet.

    Args:
        depth: 10, 18, 34 (basic blocks), 14, 50, 101, 152 or 200 (bottlenecks).
        num_classes: classes of the head; 0 for none.
        in_channels: C of the input (N, C, T, H, W).
        shortcut: "B" for a 1x1x1 convolution with norm, "A" for padding (the old Kinetics files of 18 and 34 layers).
        stem_size: kernel of the first convolution along time.
        stem_stride: its stride along time.
        stem_pool: whether a max pool of stride 2 follows.
        widen_factor: factor on the widths 64, 128, 256, 512.

    Raises:
        ValueError: an unknown depth or shortcut.

    >>> sum(p.numel() for p in resnet3d(18, num_classes=8).parameters())
    33208008
    """
    if depth not in DEPTHS:
        raise ValueError(f"resnet3d depth {depth} must be one of {', '.join(map(str, DEPTHS))}")
    if shortcut not in ("A", "B"):
        raise ValueError(f"shortcut {shortcut!r} must be 'A' (padding) or 'B' (convolution)")
    bottleneck, counts = DEPTHS[depth]
    return ResNet3d(
        Bottleneck if bottleneck else BasicBlock,
        counts,
        num_classes=num_classes,
        in_channels=in_channels,
        shortcut=shortcut,
        stem_size=stem_size,
        stem_stride=stem_stride,
        stem_pool=stem_pool,
        widen_factor=widen_factor,
    )
