"""torchvision's ResNet with the sizes of a released file."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attnzoo.official.entries import Entries
from attnzoo.official.names import count


def _stem(origin: Any, shell: Mapping[str, Tensor]) -> tuple[nn.Module, int]:
    """The first convolution, or the three of a deep stem with what stands between, and its width."""
    names = [f"conv1.{i}.weight" for i in (0, 3, 6)] if "conv1.0.weight" in shell else ["conv1.weight"]
    layers: list[nn.Module] = []
    width = 0
    for name in names:
        weight = shell.get(name, torch.empty(0))
        if weight.ndim != 4:
            raise ValueError(f"{origin} is no file of a ResNet: missing keys {name}")
        layers += [nn.BatchNorm2d(width), nn.ReLU()] if layers else []
        width, given, _, kernel = weight.shape
        # A small stem of one convolution, for small images, keeps their size.
        stride = 2 if not layers and (kernel > 3 or len(names) > 1) else 1
        layers.append(nn.Conv2d(given, width, kernel, stride, kernel // 2, bias=False))
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers), width


def resnet(origin: Any, file: Entries) -> nn.Module:
    """torchvision's ResNet with the sizes of a file, and the layout of the SE authors' Caffe networks if it is one.

    Those have a bottleneck's stride in its first convolution (GCT's too), a max pool without padding, and in basic
    blocks a ReLU before the attention.

    Args:
        origin: what messages call the file.
        file: its entries.

    Raises:
        ValueError: it lacks what a ResNet has; the message names it.

    >>> from attnzoo.official.families import FAMILIES
    >>> resnet("cat.pth", Entries(FAMILIES["se"], {}))
    Traceback (most recent call last):
    ValueError: cat.pth is no file of a ResNet: missing keys conv1.weight
    """
    from timm.layers import BatchNormAct2d
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

    shell, caffe = file.shell, file.caffe

    def size(*entries: str) -> int:
        """The length of the first of some entries that is there."""
        for entry in entries:
            if entry in shell and shell[entry].ndim:
                return shell[entry].shape[0]
        raise ValueError(f"{origin} is no file of a ResNet: missing keys {entries[0]}")

    stem, width = _stem(origin, shell)
    classes = size("fc.weight", "fc.bias")
    deep = any(re.match(r"layer\d\.\d+\.conv3\.", key) for key in shell)
    with torch.device("meta"):  # for its class and its forward; its layers are made below
        model: Any = ResNet(Bottleneck if deep else BasicBlock, [1, 1, 1, 1])
    model.conv1 = stem
    model.bn1 = nn.BatchNorm2d(width)
    if isinstance(stem, nn.Conv2d) and stem.stride == (1, 1):
        model.maxpool = nn.Identity()
    elif caffe:
        model.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
    for stage in (1, 2, 3, 4):
        layer = f"layer{stage}"
        blocks_there = count(rf"^{layer}\.", shell)
        if not blocks_there:
            raise ValueError(f"{origin} is no file of a ResNet: missing keys {layer}.*")
        blocks = []
        for i in range(blocks_there):
            at, last = f"{layer}.{i}", "3" if deep else "2"
            inner = size(*(f"{at}.{key}" for key in ("bn1.weight", "conv1.weight", "bn1.bias")))
            out = size(*(f"{at}.{key}" for key in (f"bn{last}.weight", f"conv{last}.weight", f"bn{last}.bias")))
            stride = 2 if stage > 1 and i == 0 else 1
            downsample = None
            if stride > 1 or width != out:
                pooled = shell.get(f"{at}.downsample.1.weight", torch.empty(0)).ndim > 1  # as in ResNet-D
                conv = nn.Conv2d(width, out, 1, 1 if pooled else stride, bias=False)
                pool = [nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)] if pooled else []
                downsample = nn.Sequential(*pool, conv, nn.BatchNorm2d(out))
            conv2 = shell.get(f"{at}.conv2.weight", torch.empty(inner, inner))
            groups = max(1, inner // conv2.shape[1]) if conv2.ndim > 1 else 1
            if deep:
                # torchvision rounds planes * base_width / 64 down to the width of one group.
                base = 64 * (inner // groups + 0.5) / (out // 4)
                block: Any = Bottleneck(width, out // 4, stride, downsample, groups, base)
            else:
                block = BasicBlock(width, out, stride, downsample)
            if (caffe or file.family.place == "before") and deep and groups == 1:
                block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
            elif caffe and not deep:
                block.bn2 = BatchNormAct2d(out)
            if file.family.place == "conv" and not any(key.startswith(f"{at}.bn2.") for key in shell):
                block.bn2 = nn.Identity()  # the attention has its own norms
            blocks.append(block)
            width = out
        setattr(model, layer, nn.Sequential(*blocks))
    model.fc = nn.Linear(width, classes)
    model.num_features, model.num_classes = width, classes
    network: nn.Module = model
    return network
