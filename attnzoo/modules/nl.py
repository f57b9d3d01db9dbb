"""Non-local block."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo import fast, nd
from attnzoo.registry import register

MODES = ("embedded", "gaussian", "dot", "concat")


@register(
    "nl",
    paper="https://arxiv.org/abs/1711.07971",
    site="stage",
    year=2018,
    golden=True,
    checked="AlexHex7's port (the authors' code is Caffe2)",
    formula="q, k, v = W x; y = x + norm(W_z softmax(q^T k) v), softmax over the positions",
)
class NonLocal(nd.Attention):
    """Each position adds a weighted mean over all positions (Wang et al., 2018).

    As in the PyTorch code most used (AlexHex7), whose batch norm starts at zero, so that the block starts as the
    identity; the authors' Caffe2 code has scale=True and subsample="input", timm's version reduction=8,
    divisor=8, scale="input". 3D: positions in T, H and W; subsampling leaves T alone.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        mode: "embedded" (softmax of projected products), "gaussian" (of the features themselves), "dot" (divided by the
            number of positions) or "concat" (a learned sum, ReLU, divided likewise).
        reduction: the projections have C // reduction channels, at least 1.
        subsample: True max-pools keys and values by 2 along H and W, "input" the features they are projected from.
        scale: True divides the logits by the square root of the width of queries and keys, "input" by that of C.
        divisor: None rounds C / reduction down; a number gives the nearest multiple of it that keeps 0.9 of that, as in
            timm.
        norm: whether the block ends in a batch norm; without one the last projection starts at zero.

    Raises:
        ValueError: an unknown `mode`, `subsample` or `scale`.

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
        subsample: bool | Literal["input"] = False,
        scale: bool | Literal["input"] = False,
        divisor: int | None = None,
        norm: bool = True,
    ) -> None:
        super().__init__(channels, spatial_dims)
        if mode not in MODES:
            raise ValueError(f"mode={mode!r} must be one of {', '.join(MODES)}")
        for option, value in (("subsample", subsample), ("scale", scale)):
            if value not in (False, True, "input"):
                raise ValueError(f"{option}={value!r} must be False, True or 'input'")
        conv, width = nd.conv(spatial_dims), nd.squeeze(channels, reduction, divisor=divisor, keep=0.9)
        self.mode, self.subsample, self.pool_first = mode, bool(subsample), subsample == "input"
        self.factor = (channels if mode == "gaussian" or scale == "input" else width) ** -0.5 if scale else 1.0
        self.value = conv(channels, width, 1)
        self.out = conv(width, channels, 1)
        self.norm: nn.Module = nd.batch_norm(spatial_dims)(channels) if norm else nn.Identity()
        for parameter in (self.norm if norm else self.out).parameters():
            nn.init.zeros_(parameter)
        if mode != "gaussian":
            self.query = conv(channels, width, 1)
            self.key = conv(channels, width, 1)
        if mode == "concat":
            self.pair = conv(2 * width, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend to features x (N, C, *spatial)."""
        self.check(x)
        query = (x if self.mode == "gaussian" else self.query(x)).flatten(2).transpose(1, 2)  # (N, positions, d)
        source = self._pool(x) if self.pool_first else x
        key, value = source if self.mode == "gaussian" else self.key(source), self.value(source)
        if self.subsample and not self.pool_first:
            key, value = self._pool(key), self._pool(value)
        mixed = self._mixed(query, key.flatten(2), value.flatten(2).transpose(1, 2), fast.usable(self, x))
        features = nd.laid_out_as(mixed.transpose(1, 2).unflatten(2, x.shape[2:]), x)
        attended: Tensor = self.norm(self.out(features))
        return x + attended

    def _mixed(self, query: Tensor, key: Tensor, value: Tensor, fused: bool) -> Tensor:
        """The means (N, positions, d) of value (N, pooled positions, d), weighted by the affinity of query and key."""
        fits = self.mode in ("embedded", "gaussian") and query.shape[2] == value.shape[2] and query.dtype == value.dtype
        if fused and fits and key.shape[2] > 4 * key.shape[1]:  # on small maps it takes longer
            return fast.attention(query, key.mT, value, self.factor)
        return self.affinity(query, key) @ value

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
        size = [1 if axis == 0 and self.spatial_dims == 3 else min(2, s) for axis, s in enumerate(x.shape[2:])]
        return F.max_pool3d(x, size) if self.spatial_dims == 3 else F.max_pool2d(x, size)
