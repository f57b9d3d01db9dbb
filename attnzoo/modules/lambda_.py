"""Lambda layer (LambdaNetworks)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo import fast, nd
from attnzoo.registry import register


@register(
    "lambda",
    paper="https://arxiv.org/abs/2102.08602",
    site="conv",
    year=2021,
    golden=True,
    checked="timm's layer",
    formula="q, k, v = W x; y = (v softmax(k)^T + v r^T) q, softmax over the positions, r for relative positions",
)
class LambdaLayer(nd.Attention):
    """Linear maps made of all positions and of each one's neighbourhood, applied to its queries (Bello, 2021).

    It takes the place of a convolution. As in timm, since the author released no PyTorch code, and with the local form
    of the positions, a convolution. 3D: cubic neighbourhoods.

    Args:
        channels: C of the (N, C, *spatial) input.
        out_channels: C of the output, which is (N, out_channels, *spatial / stride); as `channels` if None.
        stride: of the average pool that follows, one number or one per axis.
        spatial_dims: 2 or 3.
        heads: of the queries, which share the maps; must divide out_channels.
        key_width: channels of the keys and of a head's queries.
        kernel_size: odd edge of the neighbourhood, timm's r.
        bias: whether the projection has biases.

    Raises:
        ValueError: heads, widths or an even kernel size that do not fit.

    >>> sum(p.numel() for p in LambdaLayer(512).parameters())
    108192
    """

    def __init__(
        self,
        channels: int,
        *,
        out_channels: int | None = None,
        stride: int | Sequence[int] = 1,
        spatial_dims: int = 2,
        heads: int = 4,
        key_width: int = 16,
        kernel_size: int = 9,
        bias: bool = False,
    ) -> None:
        super().__init__(channels, spatial_dims)
        width = nd.split(channels if out_channels is None else out_channels, heads, "heads")
        if key_width < 1:
            raise ValueError(f"key_width={key_width} must be at least 1")
        self.heads, self.widths = heads, (heads * key_width, key_width, width)
        self.strides = nd.per_axis(stride, spatial_dims)
        conv, norm = nd.conv(spatial_dims), nd.batch_norm(spatial_dims)
        self.qkv = conv(channels, sum(self.widths), 1, bias=bias)
        self.norm_q = norm(heads * key_width)
        self.norm_v = norm(width)
        self.local = conv(1, key_width, nd.odd(kernel_size), padding=kernel_size // 2)
        nn.init.trunc_normal_(self.qkv.weight, std=channels**-0.5)
        nn.init.trunc_normal_(self.local.weight, std=key_width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Attend to features x (N, C, *spatial), giving (N, out_channels, *spatial / stride)."""
        self.check(x)
        query, key, value = self.qkv(x).split(self.widths, 1)
        value = self.norm_v(value)
        query = self.norm_q(query).flatten(2).unflatten(1, (self.heads, -1))
        query = query.permute(0, 3, 1, 2)  # (N, positions, heads, width of keys)
        content = key.flatten(2).softmax(2) @ value.flatten(2).mT  # (N, width of keys, width of values)
        inferred = not torch.is_grad_enabled() and fast.compiled(x, self)  # compiled, its gradients gain nothing
        if x.ndim == 4 and (inferred or fast.usable(self, x)):
            out = self._quick(query, value, content, transposed=inferred and nd.channels_last(x) is not None)
        else:
            # One map a channel of the values: each is convolved alike.
            local = self.local(value.flatten(0, 1).unsqueeze(1)).unflatten(0, value.shape[:2]).flatten(3)
            maps = local.permute(0, 3, 2, 1) + content.unsqueeze(1)  # (N, positions, width of keys, width of values)
            out = query @ maps  # (N, positions, heads, width of values)
        out = out.flatten(2).mT.unflatten(2, x.shape[2:])
        return nd.mean_pool(nd.laid_out_as(out, x), self.strides)

    def _quick(self, query: Tensor, value: Tensor, content: Tensor, transposed: bool) -> Tensor:
        """The same without copies of the maps, which are far larger than all else."""
        # The values, as a third axis of one channel, stay side by side, and the keys become the innermost axis.
        image = value.movedim(1, -1).contiguous().unsqueeze(-1).movedim(-1, 1)  # (N, 1, H, W, width of values)
        local = F.conv3d(image, self.local.weight.unsqueeze(-1), self.local.bias, padding=(*self.local.padding, 0))
        maps = local.flatten(2, 3).transpose(1, 2)  # (N, positions, width of keys, width of values)
        # The compiler copies each map of features in channels_last, unless it multiplies from the other side.
        out = (maps.mT @ query.mT).mT if transposed else query @ maps
        return out + (query.flatten(1, 2) @ content).view(out.shape)
