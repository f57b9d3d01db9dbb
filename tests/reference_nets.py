"""The authors' networks as plain functions of their state dicts, and the names and shapes of those state dicts.

Written from the papers' formulas and the keys alone, on nothing but torch.nn.functional: a second opinion on what the
released weights mean. `NETWORKS` lists the networks; `logits` computes any of them and fails if it leaves a key unread.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Entry = tuple[str, tuple[int, ...]]  # a key and its shape
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class Weights:
    """A state dict under a prefix, which notes what was read."""

    def __init__(self, state: Mapping[str, Tensor], prefix: str = "", read: set[str] | None = None) -> None:
        self.state, self.prefix = state, prefix
        self.read = set() if read is None else read

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.state

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(self.prefix + name)
        return self.state[self.prefix + name]

    def get(self, name: str) -> Tensor | None:
        return self[name] if name in self else None  # noqa: SIM401 this is what it would call

    def under(self, prefix: str) -> "Weights":
        return Weights(self.state, self.prefix + prefix, self.read)

    def unread(self) -> list[str]:
        return [key for key in self.state if key not in self.read and not key.endswith("num_batches_tracked")]


def conv(w: Weights, name: str, x: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """A convolution that keeps the size up to its stride; groups follow from the weight's shape.

    In GCT's networks each is the second of a pair.
    """
    if f"{name}.0.alpha" in w:
        x, name = gct(w.under(f"{name}.0."), x), f"{name}.1"
    weight = w[f"{name}.weight"]
    bias = w.get(f"{name}.bias")
    padding = dilation * (weight.shape[-1] // 2)
    return F.conv2d(x, weight, bias, stride, padding, dilation, x.shape[1] // weight.shape[1])


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    mean, var, weight, bias = (w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, mean, var, weight, bias)


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    """A linear map of (N, C), whether its weight is 2D or that of a 1x1 convolution."""
    return F.linear(x, w[f"{name}.weight"].flatten(1), w.get(f"{name}.bias"))


def se(w: Weights, x: Tensor) -> Tensor:
    pairs = [("se.fc.0", "se.fc.2"), ("se.fc1", "se.fc2"), ("se_module.fc1", "se_module.fc2")]
    down, up = next(pair for pair in pairs if f"{pair[0]}.weight" in w)
    return x * linear(w, up, linear(w, down, x.mean((2, 3))).relu()).sigmoid()[:, :, None, None]


def cbam(w: Weights, x: Tensor) -> Tensor:
    w = w.under("cbam.")
    pools = x.mean((2, 3)), x.amax((2, 3))
    by_channel = sum(linear(w, "ChannelGate.mlp.3", linear(w, "ChannelGate.mlp.1", p).relu()) for p in pools)
    x = x * torch.sigmoid(by_channel)[:, :, None, None]
    maps = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
    return x * norm(w, "SpatialGate.spatial.bn", conv(w, "SpatialGate.spatial.conv", maps)).sigmoid()


def bam(w: Weights, x: Tensor) -> Tensor:
    c, s = w.under("channel_att.gate_c.gate_c_"), w.under("spatial_att.gate_s.gate_s_")
    channel = linear(c, "fc_final", norm(c, "bn_1", linear(c, "fc_0", x.mean((2, 3)))).relu())
    spatial = norm(s, "bn_reduce0", conv(s, "conv_reduce0", x)).relu()
    for i in (0, 1):
        spatial = norm(s, f"bn_di_{i}", conv(s, f"conv_di_{i}", spatial, dilation=4)).relu()
    return x * (1 + (channel[:, :, None, None] * conv(s, "conv_final", spatial)).sigmoid())


def sa(w: Weights, x: Tensor) -> Tensor:
    w = w.under("sa.")
    n, c, height, width = x.shape
    own = w["cweight"].numel()  # channels of either half of a group
    grouped = x.reshape(n, c // (2 * own), 2 * own, height, width)
    first, second = grouped[:, :, :own], grouped[:, :, own:]
    along = {name: w[name].reshape(1, 1, own, 1, 1) for name in ("cweight", "cbias", "sweight", "sbias")}
    first = first * (along["cweight"] * first.mean((3, 4), keepdim=True) + along["cbias"]).sigmoid()
    var, mean = torch.var_mean(second, (3, 4), correction=0, keepdim=True)
    normed = (second - mean) / (var + 1e-5).sqrt()
    normed = normed * w["gn.weight"].reshape(1, 1, own, 1, 1) + w["gn.bias"].reshape(1, 1, own, 1, 1)
    second = second * (along["sweight"] * normed + along["sbias"]).sigmoid()
    both = torch.cat([first, second], 2).reshape(n, c, height, width)
    return both[:, torch.arange(c).reshape(2, c // 2).T.flatten()]


TRIPLET = [  # how the attribute of the block, the three gates and the convolution in them have been called
    ("triplet_attention.", ("ChannelGateH", "ChannelGateW", "SpatialGate"), "spatial"),
    ("pcam.", ("ChannelGateH", "ChannelGateW", "SpatialGate"), "spatial"),
    ("triplet_attention.", ("cw", "hc", "hw"), "conv"),
    ("triplet.", ("cw", "hc", "hw"), "conv"),
]


def triplet(w: Weights, x: Tensor) -> Tensor:
    names = next(n for n in TRIPLET if f"{n[0]}{n[1][0]}.{n[2]}.conv.weight" in w)
    w = w.under(names[0])

    def gate(name: str, pooled: tuple[Tensor, Tensor]) -> Tensor:
        path = f"{name}.{names[2]}"
        return norm(w, f"{path}.bn", conv(w, f"{path}.conv", torch.stack(pooled, 1))).sigmoid()

    cw = gate(names[1][0], (x.amax(2), x.mean(2)))  # (N, 1, C, W)
    hc = gate(names[1][1], (x.amax(3).mT, x.mean(3).mT))  # (N, 1, H, C)
    hw = gate(names[1][2], (x.amax(1), x.mean(1)))  # (N, 1, H, W)
    return (x * cw.permute(0, 2, 1, 3) + x * hc.permute(0, 3, 2, 1) + x * hw) / 3


def eca(w: Weights, x: Tensor) -> Tensor:
    weight = w["eca.conv.weight"]
    along = F.conv1d(x.mean((2, 3))[:, None], weight, padding=weight.shape[-1] // 2)
    return x * along[:, 0, :, None, None].sigmoid()


def sge(w: Weights, x: Tensor) -> Tensor:
    weight, bias = w["sge.weight"], w["sge.bias"]
    grouped = x.unflatten(1, (weight.shape[1], -1))
    likeness = (grouped * grouped.mean((3, 4), keepdim=True)).sum(2)
    deviation, mean = torch.std_mean(likeness, (2, 3), correction=1, keepdim=True)
    gate = (weight * (likeness - mean) / (deviation + 1e-5) + bias).sigmoid()
    return (grouped * gate[:, :, None]).flatten(1, 2)


def simam(x: Tensor, regularisation: float) -> Tensor:
    squares = (x - x.mean((2, 3), keepdim=True)) ** 2
    variance = squares.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3] - 1)
    return x * (squares / (4 * (variance + regularisation)) + 0.5).sigmoid()


def srm(w: Weights, x: Tensor) -> Tensor:
    var, mean = torch.var_mean(x, (2, 3), correction=1)
    style = torch.stack([mean, (var + 1e-5).sqrt()], 2)
    return x * norm(w, "rclb.bn", (style * w["rclb.cfc"]).sum(2)).sigmoid()[:, :, None, None]


def fca(w: Weights, x: Tensor) -> Tensor:
    basis = w["att.dct_layer.weight"]
    spectrum = (F.adaptive_avg_pool2d(x, basis.shape[1:]) * basis).sum((2, 3))
    return x * linear(w, "att.fc.2", linear(w, "att.fc.0", spectrum).relu()).sigmoid()[:, :, None, None]


def gct(w: Weights, x: Tensor) -> Tensor:
    embedding = w["alpha"] * ((x * x).sum((2, 3), keepdim=True) + 1e-5).sqrt()
    across = ((embedding * embedding).mean(1, keepdim=True) + 1e-5).sqrt()
    return x * (1 + (embedding * w["gamma"] / across + w["beta"]).tanh())


def epsa(w: Weights, x: Tensor, stride: int) -> Tensor:
    parts = [conv(w, f"conv2.conv_{i}", x, stride) for i in (1, 2, 3, 4)]
    gates = [linear(w, "conv2.se.fc2", linear(w, "conv2.se.fc1", part.mean((2, 3))).relu()).sigmoid() for part in parts]
    shares = torch.stack(gates).softmax(0)[..., None, None]
    return torch.cat([parts[i] * shares[i] for i in (3, 2, 1, 0)], 1)


def splat(w: Weights, x: Tensor, stride: int, pool: str) -> Tensor:
    w = w.under("conv2.")
    radix, groups = len(w["fc2.bias"]) // x.shape[1], x.shape[1] // w["fc1.weight"].shape[1]
    if stride > 1 and pool == "before":
        x = F.avg_pool2d(x, 3, stride, padding=1)
    splits = norm(w, "bn0", conv(w, "conv", x)).relu().unflatten(1, (radix, -1))
    hidden = linear_of_groups(w, "fc1", splits.sum(1).mean((2, 3)), groups)
    hidden = norm(w, "bn1", hidden[:, :, None, None]).relu()[:, :, 0, 0]
    shares = linear_of_groups(w, "fc2", hidden, groups).reshape(len(x), groups, radix, -1)
    shares = shares.softmax(2) if radix > 1 else shares.sigmoid()
    out = (splits * shares.transpose(1, 2).reshape(len(x), radix, -1, 1, 1)).sum(1)
    return F.avg_pool2d(out, 3, stride, padding=1) if stride > 1 and pool == "after" else out


def linear_of_groups(w: Weights, name: str, x: Tensor, groups: int) -> Tensor:
    weight, bias = w[f"{name}.weight"].flatten(1).chunk(groups), w[f"{name}.bias"].chunk(groups)
    return torch.cat([F.linear(part, weight[i], bias[i]) for i, part in enumerate(x.chunk(groups, 1))], 1)


def sk(w: Weights, x: Tensor, stride: int) -> Tensor:
    dense = norm(w, "bn2", conv(w, "conv2", x, stride)).relu()
    grouped = norm(w, "bn2g", conv(w, "conv2g", x, stride)).relu()
    pooled = (dense.mean((2, 3)) + grouped.mean((2, 3)))[:, :, None, None]
    hidden = norm(w, "bn_fc1", conv(w, "conv_fc1", pooled)).relu()
    shares = conv(w, "conv_fc2", hidden).unflatten(1, (2, -1)).softmax(1)
    return dense * shares[:, 0] + grouped * shares[:, 1]


def res2net(w: Weights, x: Tensor, stride: int, first: bool) -> Tensor:
    width = w["convs.0.weight"].shape[0]
    *parts, last = x.split(width, 1)
    done: list[Tensor] = []
    for i, part in enumerate(parts):
        given = part if first or i == 0 else part + done[-1]
        done.append(norm(w, f"bns.{i}", conv(w, f"convs.{i}", given, stride)).relu())
    return torch.cat([*done, F.avg_pool2d(last, 3, stride, padding=1) if first else last], 1)


AFTER: dict[str, Callable[[Weights, Tensor], Tensor]] = {
    "se": se,
    "cbam": cbam,
    "sa": sa,
    "triplet": triplet,
    "eca": eca,
    "sge": sge,
    "srm": srm,
    "fca": fca,
}


def block(
    w: Weights, x: Tensor, attention: str, stride: int, first: bool, regularisation: float, pool: str = "after"
) -> Tensor:
    """One residual block; the Caffe networks are the ones whose squeeze is called se_module."""
    caffe, bottleneck = "se_module.fc1.weight" in w, "bn3.weight" in w
    early = stride if caffe or attention == "gct" or not bottleneck else 1  # Caffe strides in the first convolution
    late = stride // early
    out = norm(w, "bn1", conv(w, "conv1", x, early)).relu()
    if attention == "simam":
        out = norm(w, "bn2", simam(conv(w, "conv2.0", out, late), regularisation))
    elif attention == "epsa":
        out = norm(w, "bn2", epsa(w, out, late))
    elif attention == "sk":
        out = sk(w, out, late)
    elif attention == "splat":
        out = splat(w, out, late, pool)
    elif attention == "res2net":
        out = res2net(w, out, late, first)
    else:
        out = norm(w, "bn2", conv(w, "conv2", out, late))
    if bottleneck:
        out = norm(w, "bn3", conv(w, "conv3", out.relu()))
    elif caffe:
        out = out.relu()
    if attention in AFTER:
        out = AFTER[attention](w, out)
    if attention == "splat" and "downsample.1.weight" in w:
        pooled = F.avg_pool2d(x, stride, stride, ceil_mode=True, count_include_pad=False)
        x = norm(w, "downsample.2", conv(w, "downsample.1", pooled))
    elif "downsample.0.weight" in w:
        x = norm(w, "downsample.1", conv(w, "downsample.0", x, stride))
    elif "downsample.0.alpha" in w:
        x = norm(w, "downsample.2", conv(w, "downsample.1", gct(w.under("downsample.0."), x), stride))
    return (out + x).relu()


def logits(
    state: Mapping[str, Tensor], x: Tensor, attention: str, regularisation: float = 0.1, pool: str = "after"
) -> Tensor:
    """The classes' logits (N, classes) of images x (N, 3, H, W) in eval mode.

    Args:
        state: the authors' names and tensors, without nesting or prefix.
        x: images.
        attention: our name of the module, "" for a plain ResNet.
        regularisation: SimAM's lambda, which is in no checkpoint.
        pool: where ResNeSt pools, "after" its attention or "before" it, which is in no checkpoint either.
    """
    w = Weights(state)
    caffe = "layer0.conv1.weight" in w
    stem = w.under("layer0." if caffe else "stem." if attention == "gct" else "")
    if "conv1.0.weight" in stem:  # a deep stem
        x = norm(stem, "conv1.1", conv(stem, "conv1.0", x, stride=2)).relu()
        x = conv(stem, "conv1.6", norm(stem, "conv1.4", conv(stem, "conv1.3", x)).relu())
    else:
        x = conv(stem, "conv1", x, stride=2)
    x = norm(stem, "bn1", x).relu()
    x = F.max_pool2d(x, 3, 2, ceil_mode=True) if caffe else F.max_pool2d(x, 3, 2, padding=1)
    for stage in (1, 2, 3, 4):
        i = 0
        while f"layer{stage}.{i}.bn1.weight" in w:
            stride = 2 if stage > 1 and i == 0 else 1
            x = block(w.under(f"layer{stage}.{i}."), x, attention, stride, i == 0, regularisation, pool)
            i += 1
        if attention == "bam" and stage < 4:
            x = bam(w.under(f"bam{stage}."), x)
    out = linear(w, "last_linear" if caffe else "fc", x.mean((2, 3)))
    assert not w.unread(), f"the reference left unread: {w.unread()}"
    return out


def _norm(name: str, c: int) -> Iterator[Entry]:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (c,)
    yield f"{name}.num_batches_tracked", ()


def _mapping(name: str, c: int, hidden: int, ones: int, bias: bool) -> Iterator[Entry]:
    """Weight, and bias if any, of a linear map (ones = 0) or 1x1 convolution (ones = 2) from c to hidden."""
    yield f"{name}.weight", (hidden, c, *(1,) * ones)
    if bias:
        yield f"{name}.bias", (hidden,)


def _squeeze(first: str, second: str, c: int, hidden: int, ones: int, bias: bool) -> Iterator[Entry]:
    yield from _mapping(first, c, hidden, ones, bias)
    yield from _mapping(second, hidden, c, ones, bias)


@dataclass(frozen=True)
class Network:
    """One network of the field: which attention, how deep, and what differs from its fellows.

    Args:
        attention: our name of the module.
        depth: 18, 34, 50 or 101.
        naming: SE: "bias", "timm" or "caffe"; triplet: an index of `TRIPLET`; otherwise "", the authors' only one.
        params: the parameters that its authors' code has, where published or measured.
        kernels: ECA's kernel of each stage, EPSA's of each branch; the first one is triplet's.
        groups: of EPSA's branches; the first one is the blocks' second convolution's.
        classes: outputs.
        width: of the first stage's blocks inside; of a part in Res2Net.
        parts: Res2Net's scale.
    """

    attention: str
    depth: int
    naming: str = ""
    params: int | None = None
    kernels: tuple[int, ...] = (7,)
    groups: tuple[int, ...] = (1,)
    classes: int = 1000
    width: int = 64
    parts: int = 1

    @property
    def places(self) -> int:
        """How many attention modules it has."""
        blocks = sum(BLOCKS[self.depth])
        return {"bam": 3, "gct": 3 * blocks + 5}.get(self.attention, blocks)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the state dict."""
        return dict(self._entries())

    def _entries(self) -> Iterator[Entry]:
        basic, caffe = self.depth < 50, self.naming == "caffe"
        stem = "layer0." if caffe else "stem." if self.attention == "gct" else ""
        if self.attention == "splat":
            for i, (wide, seen) in {0: (32, 3), 3: (32, 32), 6: (64, 32)}.items():
                yield f"conv1.{i}.weight", (wide, seen, 3, 3)
                yield from _norm(f"conv1.{i + 1}", wide) if i < 6 else ()
        else:
            yield from self._conv(f"{stem}conv1", 64, 3, 7)
        yield from _norm(f"{stem}bn1", 64)
        given = 64
        for stage, blocks in enumerate(BLOCKS[self.depth]):
            # A stage has 256, 512, ... outputs whatever its bottlenecks' width (ResNeXt, Res2Net, EPSANet-Large).
            planes, out = (self.width << stage) * self.parts, (64 if basic else 256) << stage
            for i in range(blocks):
                name = f"layer{stage + 1}.{i}"
                yield from ((f"{name}.{key}", shape) for key, shape in self._block(stage, given, planes, out, basic))
                if i == 0 and (stage or given != out):
                    # GCT's convolution is the second of a pair, and ResNeSt's comes after a pool.
                    at = {"gct": ("", ".2"), "splat": (".1", ".2")}.get(self.attention, (".0", ".1"))
                    yield from self._conv(f"{name}.downsample{at[0]}", out, given, 1)
                    yield from _norm(f"{name}.downsample{at[1]}", out)
                given = out
            if self.attention == "bam" and stage < 3:
                yield from ((f"bam{stage + 1}.{key}", shape) for key, shape in self._bam(out))
        head = "last_linear" if caffe else "fc"
        yield f"{head}.weight", (self.classes, given)
        yield f"{head}.bias", (self.classes,)

    def _block(self, stage: int, given: int, planes: int, out: int, basic: bool) -> Iterator[Entry]:
        k = 3 if basic else 1
        yield from self._conv("conv1", planes, given, k)
        yield from _norm("bn1", planes)
        if self.attention == "res2net":
            part = planes // self.parts
            for i in range(self.parts - 1):
                yield f"convs.{i}.weight", (part, part, 3, 3)
                yield from _norm(f"bns.{i}", part)
        else:
            yield from self._second(planes)
            if self.attention != "splat":
                yield from _norm("bn2", planes)
        if not basic:
            yield from self._conv("conv3", out, planes, 1)
            yield from _norm("bn3", out)
        yield from self._after(stage, out)

    def _conv(self, name: str, out: int, given: int, k: int) -> Iterator[Entry]:
        if self.attention == "gct":  # in front of each, in a pair
            yield from ((f"{name}.0.{part}", (1, given, 1, 1)) for part in ("alpha", "gamma", "beta"))
            name = f"{name}.1"
        yield f"{name}.weight", (out, given, k, k)

    def _second(self, c: int) -> Iterator[Entry]:
        if self.attention == "splat":
            hidden = max(32, c // 2)
            yield "conv2.conv.weight", (2 * c, c // 2, 3, 3)
            yield from _norm("conv2.bn0", 2 * c)
            yield from _mapping("conv2.fc1", c, hidden, 2, True)
            yield from _norm("conv2.bn1", hidden)
            yield from _mapping("conv2.fc2", hidden, 2 * c, 2, True)
            return
        if self.attention == "epsa":
            part = c // 4
            for i, (k, g) in enumerate(zip(self.kernels, self.groups, strict=True)):
                yield f"conv2.conv_{i + 1}.weight", (part, c // g, k, k)
            yield from _squeeze("conv2.se.fc1", "conv2.se.fc2", part, part // 16, 2, True)
            return
        yield from self._conv(f"conv2{'.0' if self.attention == 'simam' else ''}", c, c // self.groups[0], 3)
        if self.attention == "sk":
            yield "conv2g.weight", (c, c // 32, 3, 3)
            yield from _norm("bn2g", c)
            yield "conv_fc1.weight", (c // 16, c, 1, 1)
            yield from _norm("bn_fc1", c // 16)
            yield "conv_fc2.weight", (2 * c, c // 16, 1, 1)

    def _after(self, stage: int, c: int) -> Iterator[Entry]:
        if self.attention == "se":
            if self.naming == "timm":  # hidden width in multiples of 8
                yield from _squeeze("se.fc1", "se.fc2", c, -(-c // 128) * 8, 2, True)
            elif self.naming == "caffe":
                yield from _squeeze("se_module.fc1", "se_module.fc2", c, c // 16, 2, True)
            else:
                yield from _squeeze("se.fc.0", "se.fc.2", c, c // 16, 0, self.naming == "bias")
        elif self.attention == "cbam":
            yield from _squeeze("cbam.ChannelGate.mlp.1", "cbam.ChannelGate.mlp.3", c, c // 16, 0, True)
            yield "cbam.SpatialGate.spatial.conv.weight", (1, 2, 7, 7)
            yield from _norm("cbam.SpatialGate.spatial.bn", 1)
        elif self.attention == "sa":
            for part in ("cweight", "cbias", "sweight", "sbias"):
                yield f"sa.{part}", (1, c // 128, 1, 1)
            yield "sa.gn.weight", (c // 128,)
            yield "sa.gn.bias", (c // 128,)
        elif self.attention == "triplet":
            attribute, gates, inner = TRIPLET[int(self.naming or 0)]
            for gate in gates:
                yield f"{attribute}{gate}.{inner}.conv.weight", (1, 2, self.kernels[0], self.kernels[0])
                yield from _norm(f"{attribute}{gate}.{inner}.bn", 1)
        elif self.attention == "eca":
            yield "eca.conv.weight", (1, 1, self.kernels[stage])
        elif self.attention == "sge":
            yield "sge.weight", (1, 64, 1, 1)
            yield "sge.bias", (1, 64, 1, 1)
        elif self.attention == "srm":
            yield "rclb.cfc", (c, 2)
            yield from _norm("rclb.bn", c)
        elif self.attention == "fca":
            yield "att.dct_layer.weight", (c, 56 >> stage, 56 >> stage)
            yield from _squeeze("att.fc.0", "att.fc.2", c, c // 16, 0, False)

    @staticmethod
    def _bam(c: int) -> Iterator[Entry]:
        channel, spatial, hidden = "channel_att.gate_c.gate_c_", "spatial_att.gate_s.gate_s_", c // 16
        yield from _squeeze(f"{channel}fc_0", f"{channel}fc_final", c, hidden, 0, True)
        yield from _norm(f"{channel}bn_1", hidden)
        yield from _mapping(f"{spatial}conv_reduce0", c, hidden, 2, True)
        yield from _norm(f"{spatial}bn_reduce0", hidden)
        for i in (0, 1):
            yield f"{spatial}conv_di_{i}.weight", (hidden, hidden, 3, 3)
            yield f"{spatial}conv_di_{i}.bias", (hidden,)
            yield from _norm(f"{spatial}bn_di_{i}", hidden)
        yield from _mapping(f"{spatial}conv_final", hidden, 1, 2, True)


_SMALL = {"kernels": (3, 5, 7, 9), "groups": (1, 4, 8, 16)}
_LARGE = {"kernels": (3, 5, 5, 7), "groups": (32, 32, 32, 32), "width": 128}
NETWORKS: dict[str, Network] = {
    "se_resnet18": Network("se", 18),
    "se_resnet34": Network("se", 34),
    "se_resnet50": Network("se", 50, params=28_071_976),
    "se_resnet101": Network("se", 101, params=49_292_328),
    "insight_se_resnet18": Network("se", 18, "bias"),
    "insight_se_resnet50": Network("se", 50, "bias", params=28_088_024),
    "insight_se_resnet101": Network("se", 101, "bias"),
    "timm_seresnet18": Network("se", 18, "timm"),
    "timm_seresnet50": Network("se", 50, "timm", params=28_088_024),
    "timm_seresnet101": Network("se", 101, "timm"),
    "legacy_seresnet18": Network("se", 18, "caffe"),
    "legacy_seresnet50": Network("se", 50, "caffe", params=28_088_024),
    "legacy_seresnet101": Network("se", 101, "caffe"),
    "cbam_resnet18": Network("cbam", 18),
    "cbam_resnet50": Network("cbam", 50, params=28_089_624),
    "cbam_resnet101": Network("cbam", 101, params=49_330_172),
    "bam_resnet18": Network("bam", 18),
    "bam_resnet50": Network("bam", 50, params=25_915_099),
    "bam_resnet101": Network("bam", 101, params=44_907_227),
    "sa_resnet50": Network("sa", 50, params=25_557_740),
    "sa_resnet101": Network("sa", 101, params=44_550_684),
    "triplet_resnet18": Network("triplet", 18),
    "triplet_resnet18_pcam": Network("triplet", 18, "1"),
    "triplet_resnet18_k3": Network("triplet", 18, "2", kernels=(3,)),
    "triplet_resnet18_root": Network("triplet", 18, "3"),
    "triplet_resnet50": Network("triplet", 50, params=25_561_832),
    "triplet_resnet101": Network("triplet", 101, params=44_559_060),
    "epsanet50_small": Network("epsa", 50, params=22_561_715, **_SMALL),
    "epsanet101_small": Network("epsa", 101, params=38_900_279, **_SMALL),
    "epsanet50_large": Network("epsa", 50, params=27_899_518, **_LARGE),
    "epsanet101_large": Network("epsa", 101, params=49_592_198, **_LARGE),
    "eca_resnet18": Network("eca", 18, kernels=(3, 3, 3, 3)),
    "eca_resnet50_k3557": Network("eca", 50, kernels=(3, 5, 5, 7), params=25_557_112),
    "eca_resnet101_k3357": Network("eca", 101, kernels=(3, 3, 5, 7), params=44_549_317),
    "sge_resnet18": Network("sge", 18),
    "sge_resnet50": Network("sge", 50, params=25_559_080),
    "sge_resnet101": Network("sge", 101, params=44_553_384),
    "srm_resnet50": Network("srm", 50, params=25_617_448),
    "srm_resnet101": Network("srm", 101),
    "fcanet34": Network("fca", 34),
    "fcanet50": Network("fca", 50, params=28_071_976),
    "fcanet101": Network("fca", 101, params=49_292_328),
    "gct_resnet50": Network("gct", 50, params=25_624_625),
    "gct_resnet101": Network("gct", 101),
    "simam_resnet18": Network("simam", 18),
    "simam_resnet50": Network("simam", 50, params=25_557_032),
    "simam_resnet101": Network("simam", 101),
    "simam_resnext50_32x4d": Network("simam", 50, groups=(32,), width=128),
    "insight_sk_resnet50": Network("sk", 50, params=26_154_496),
    "insight_sk_resnet101": Network("sk", 101),
    "res2net50_26w_4s": Network("res2net", 50, width=26, parts=4, params=25_699_120),
    "res2net50_14w_8s": Network("res2net", 50, width=14, parts=8),
    "res2net101_26w_4s": Network("res2net", 101, width=26, parts=4),
    "resnest50": Network("splat", 50, params=27_483_240),
    "resnest101": Network("splat", 101),
}
