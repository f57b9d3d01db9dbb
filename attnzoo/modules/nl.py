"""Non-local block."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo import nd
from attnzoo.registry import register

MODES = ("embedded", "gaussian", "dot", "concat")


@register("nl", paper="https://arxiv.org/abs/1711.07971", site="stage")
class NonLocal(nd.Attention):
    """Each position adds a weighted mean over all positions (Wang et al., 2018).

    As in the PyTorch code most used (AlexHex7), whose batch norm starts at zero, so that the block starts as the
    identity; the authors' Caffe2 code scales the logits and pools before the projections. 3D: positions in T, H and W;
    subsampling leaves T alone.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        mode: "embedded" (softmax of projected products), "gaussian" (of the features themselves), "dot" (divided by the
            number of positions) or "concat" (a learned sum, ReLU, divided likewise).
        reduction: the projections have C // reduction channels, at least 1.
        subsample: whether keys and values are max-pooled by 2 along H and W.
        scale: whether the logits are divided by the square root of the projections' width (the authors' config).

    Raises:
        ValueError: an unknown mode.

    >>> sum(p.numel() for p in NonLocal(512).parameters())
    526592
    """

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int = 2,
        mode: Literal["embedded", "gaussian", "dot", "concat"] = "embedded",
        reduction: int = 2,
        subsample: bool = False,
        scale: bool = False,
    ) -> None:
        super().__init__(channels, spatial_dims)
        if mode not in MODES:
            raise ValueError(f"mode={mode!r} must be one of {', '.join(MODES)}")
        conv, width = nd.conv(spatial_dims), nd.squeeze(channels, reduction)
        self.mode, self.subsample = mode, subsample
        self.factor = (channels if mode == "gaussian" else width) ** -0.5 if scale else 1.0
        self.value = conv(channels, width, 1)
        self.out = conv(width, channels, 1)
        self.norm = nd.batch_norm(spatial_dims)(channels)
        nn.init.zeros_(self.norm.weight)
        if mode != "gaussian":
            self.query = conv(channels, width, 1)
            self.key = conv(channels, width, 1)
        if mode == "concat":
            self.pair = conv(2 * width, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend to features x (N, C, *spatial)."""
        self.check(x)
        query = (x if self.mode == "gaussian" else self.query(x)).flatten(2).transpose(1, 2)  # (N, positions, d)
        key = self._pool(x if self.mode == "gaussian" else self.key(x)).flatten(2)  # (N, d, pooled positions)
        value = self._pool(self.value(x)).flatten(2).transpose(1, 2)
        mixed = (self.affinity(query, key) @ value).transpose(1, 2)
        attended: Tensor = self.norm(self.out(mixed.reshape(x.shape[0], -1, *x.shape[2:])))
        return x + attended

    def affinity(self, query: Tensor, key: Tensor) -> Tensor:
        """Weights (N, positions, pooled positions) of query (N, positions, d) and key (N, d, pooled positions)."""
        if self.mode == "concat":
            # A linear map of the two side by side is the sum of a linear map of each.
            of_query, of_key = self.pair.weight.flatten().chunk(2)
            logits = ((query @ of_query).unsqueeze(2) + (of_key @ key).unsqueeze(1)).relu()
        else:
            logits = query @ key * self.factor
        weights: Tensor = logits.softmax(2) if self.mode in ("embedded", "gaussian") else logits / key.shape[2]
        return weights

    def _pool(self, x: Tensor) -> Tensor:
        if not self.subsample:
            return x
        size = [1 if axis == 0 and self.spatial_dims == 3 else min(2, s) for axis, s in enumerate(x.shape[2:])]
        return F.max_pool3d(x, size) if self.spatial_dims == 3 else F.max_pool2d(x, size)
