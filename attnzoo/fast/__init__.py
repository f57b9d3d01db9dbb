"""What the fast forms of modules are made of.

A module's definition stays the one that is read, exported and counted; a fast form stands beside it, gives the same
values and gradients, and is used where operations are carried out one by one on a CPU: not under the compiler,
exporters and functorch, with forward-mode derivatives, or on other devices. A few of them the compiler does not find by
itself, and is given too.
"""

from attnzoo.fast.convs import column_conv, conv_norm, narrow_conv, pointwise, single_conv, strip_conv
from attnzoo.fast.cross import CrossMaps, cross_gated, cross_gradients
from attnzoo.fast.mixes import mixed
from attnzoo.fast.pools import max_and_mean, mean, moments
from attnzoo.fast.products import derivative_of_all, gated, of_all, product, scale
from attnzoo.fast.recompute import ByHand, recomputed
from attnzoo.fast.samples import by_sample
from attnzoo.fast.softmax import attention, weighted_mean
from attnzoo.fast.sums import conv_means, weighted_convs
from attnzoo.fast.when import compiled, eager, usable

__all__ = [
    "ByHand",
    "CrossMaps",
    "attention",
    "by_sample",
    "column_conv",
    "compiled",
    "conv_means",
    "conv_norm",
    "cross_gated",
    "cross_gradients",
    "derivative_of_all",
    "eager",
    "gated",
    "max_and_mean",
    "mean",
    "mixed",
    "moments",
    "narrow_conv",
    "of_all",
    "pointwise",
    "product",
    "recomputed",
    "scale",
    "single_conv",
    "strip_conv",
    "usable",
    "weighted_convs",
    "weighted_mean",
]
