"""The same modules in other libraries, with our weights in them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

Names = Mapping[str, str | tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Peer:
    """One module of another library.

    Attributes:
        provider: the library.
        module: ours.
        build: makes theirs from channels and spatial_dims.
        names: of their layers or tensors -> of ours; several of ours are theirs in one, and where several of theirs
            have the same name they are parts of ours, in order.
        options: ours, with which the two are the same module.
        similar: why they are not the same; empty where they compute the same thing.
        adjust: what is left to do to theirs after our weights are in it.
        dims: the numbers of spatial axes that theirs is for.
    """

    provider: str
    module: str
    build: Callable[[int, int], Any]
    names: Names = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    similar: str = ""
    adjust: Callable[[Any], None] = lambda theirs: None
    dims: tuple[int, ...] = (2,)

    def make(self, ours: nn.Module, channels: int, spatial_dims: int) -> nn.Module:
        """Theirs, with the weights of ours where they compute the same thing.

        Args:
            ours: the module, made with `options`.
            channels: C.
            spatial_dims: 2 or 3.

        Raises:
            ImportError: the library is not installed.
            ValueError: it has no such module for so many spatial axes.
        """
        if find_spec(PACKAGES[self.provider]) is None:
            raise ImportError(f'needs {PACKAGES[self.provider]}: pip install "attnzoo[bench]"')
        if spatial_dims not in self.dims:
            raise ValueError(f"{self.provider} has it in {self.dims[0]}D only")
        dtype = next((p.dtype for p in ours.parameters()), None)
        theirs: nn.Module = self.build(channels, spatial_dims).to(dtype)
        if not self.similar:
            theirs.load_state_dict(translated(theirs, ours.state_dict(), self.names))
            self.adjust(theirs)
        return theirs


PACKAGES = {"timm": "timm", "fightingcv": "fightingcv_attention", "monai": "monai"}
# What cannot be compared, and why.
LEFT_OUT = {
    "pytorch-attention": "its distribution on PyPI holds no code",
    "fightingcv DoubleAttention (a2)": "its softmaxes are over the batch",
    "fightingcv DAModule (pam, cam)": "it takes 512 channels on 7x7 positions alone",
    "fightingcv PSA (epsa)": "it writes into its input, its weights are not registered, and its backward pass raises",
}


def translated(theirs: nn.Module, ours: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """The state of a peer's module, with the values of ours.

    Args:
        theirs: a module with the same parameters and buffers in other shapes (1x1 convolutions for linear maps).
        ours: our state.
        names: as in `Peer`; what is not named is called the same.

    >>> theirs, ours = nn.Sequential(nn.Conv2d(3, 2, 1)), nn.Linear(3, 2)
    >>> translated(theirs, ours.state_dict(), {"0": ""})["0.weight"].shape
    torch.Size([2, 3, 1, 1])
    """
    state, taken = {}, dict.fromkeys(ours, 0)
    for key, value in theirs.state_dict().items():
        place, _, leaf = key.rpartition(".")
        wanted = names.get(key) or names.get(place, place)
        places = (wanted,) if isinstance(wanted, str) else wanted
        keys = places if key in names else [f"{at}.{leaf}".lstrip(".") for at in places]
        if len(keys) == 1 and value.ndim and ours[keys[0]].numel() > value.numel():
            start = taken[keys[0]]
            part = ours[keys[0]].narrow(0, start, len(value))
            taken[keys[0]] = start + len(value)
        else:
            part = torch.cat([ours[k] for k in keys]) if len(keys) > 1 else ours[keys[0]]
        state[key] = part.reshape(value.shape).clone()
    return state


def _timm_se(channels: int, spatial_dims: int) -> Any:
    from timm.layers import SEModule

    return SEModule(channels, rd_divisor=1, bias=False)


def _timm_ese(channels: int, spatial_dims: int) -> Any:
    from timm.layers import EffectiveSEModule

    return EffectiveSEModule(channels)


def _timm_eca(channels: int, spatial_dims: int) -> Any:
    from timm.layers import EcaModule

    return EcaModule(kernel_size=3)


def _timm_cbam(channels: int, spatial_dims: int) -> Any:
    from timm.layers.cbam import CbamModule

    return CbamModule(channels, mlp_bias=True)


def _max_first(theirs: Any) -> None:
    """timm's kernel sees the mean first; the authors' momentum."""
    theirs.spatial.conv.conv.weight.data = theirs.spatial.conv.conv.weight.data.flip(1)
    theirs.spatial.conv.bn.momentum = 0.01


def _timm_ca(channels: int, spatial_dims: int) -> Any:
    from timm.layers.coord_attn import CoordAttn

    return CoordAttn(channels, rd_channels=max(8, channels // 32), bias=True)


def _timm_gc(channels: int, spatial_dims: int) -> Any:
    from timm.layers.global_context import GlobalContext

    return GlobalContext(channels, rd_ratio=1 / 16, fuse_add=True, fuse_scale=False)


def _same_eps(theirs: Any) -> None:
    theirs.mlp_add.norm.eps = 1e-5


def _timm_nl(channels: int, spatial_dims: int) -> Any:
    from timm.layers.non_local_attn import NonLocalAttn

    return NonLocalAttn(channels, use_scale=False, rd_ratio=1 / 2)


def _timm_sk(channels: int, spatial_dims: int) -> Any:
    from timm.layers import SelectiveKernel

    return SelectiveKernel(channels, groups=32, keep_3x3=False, split_input=False)


def _timm_ge(channels: int, spatial_dims: int) -> Any:
    from timm.layers import GatherExcite

    return GatherExcite(channels, use_mlp=False)


def _timm_splat(channels: int, spatial_dims: int) -> Any:
    from timm.layers import SplitAttn

    return SplitAttn(channels, norm_layer=nn.BatchNorm2d)


def _timm_ela(channels: int, spatial_dims: int) -> Any:
    from timm.layers.coord_attn import EfficientLocalAttn

    return EfficientLocalAttn(channels)


def _timm_lambda(channels: int, spatial_dims: int) -> Any:
    from timm.layers.lambda_layer import LambdaLayer

    return LambdaLayer(channels, r=9)


def _timm_halo(channels: int, spatial_dims: int) -> Any:
    from timm.layers.halo_attn import HaloAttn

    return HaloAttn(channels)


def _timm_bot(channels: int, spatial_dims: int) -> Any:
    from timm.layers.bottleneck_attn import BottleneckAttn

    return BottleneckAttn(channels, feat_size=(14, 14))


def _fightingcv(file: str, name: str, *args: Any, **options: Any) -> Callable[[int, int], Any]:
    """Makes a class of fightingcv_attention; the argument `...` stands for the channels."""

    def build(channels: int, spatial_dims: int) -> Any:
        import importlib

        cls = getattr(importlib.import_module(f"fightingcv_attention.attention.{file}"), name)
        return cls(*(channels if arg is ... else arg for arg in args), **options)

    return build


def _monai_se(channels: int, spatial_dims: int) -> Any:
    from monai.networks.blocks.squeeze_and_excitation import ChannelSELayer

    return ChannelSELayer(spatial_dims, channels, r=16)


_POSITIONS: Names = {"pos_embed.height_rel": "positions.0", "pos_embed.width_rel": "positions.1"}
_SK_LAYERS: Names = {f"convs.{i}.{theirs}": f"convs.{i}.{j}" for i in (0, 1) for j, theirs in enumerate(("conv", "bn"))}
_BAM_LAYERS: Names = {
    **{f"ca.ca.{layer}{i}": f"channel.{3 * i + j}" for i in range(3) for j, layer in enumerate(("fc", "bn"))},
    "ca.ca.last_fc": "channel.9",
    "sa.sa.conv_reduce1": "spatial.0",
    "sa.sa.bn_reduce1": "spatial.1",
    **{f"sa.sa.{layer}_{i}": f"spatial.{3 + 3 * i + j}" for i in range(3) for j, layer in enumerate(("conv", "bn"))},
    "sa.sa.last_conv": "spatial.12",
}

PEERS = (
    Peer("timm", "se", _timm_se, {"fc1": "fc.0", "fc2": "fc.2"}),
    Peer("timm", "ese", _timm_ese),
    Peer("timm", "eca", _timm_eca),
    Peer(
        "timm",
        "cbam",
        _timm_cbam,
        {
            "channel.fc1": "mlp.0",
            "channel.fc2": "mlp.2",
            "spatial.conv.conv": "spatial.conv",
            "spatial.conv.bn": "spatial.bn",
        },
        adjust=_max_first,
    ),
    Peer("timm", "ca", _timm_ca),
    Peer(
        "timm",
        "gc",
        _timm_gc,
        {"conv_attn": "mask", "mlp_add.fc1": "add.0", "mlp_add.norm": "add.1", "mlp_add.fc2": "add.3"},
        adjust=_same_eps,
    ),
    Peer("timm", "nl", _timm_nl, {"t": "query", "p": "key", "g": "value", "z": "out"}),
    Peer(
        "timm",
        "sk",
        _timm_sk,
        {
            **{f"paths.{i}.{theirs}": f"convs.{i}.{j}" for i in (0, 1) for j, theirs in enumerate(("conv", "bn"))},
            "attn.fc_reduce": "fc.0",
            "attn.bn": "fc.1",
            "attn.fc_select": ("fcs.0", "fcs.1"),
        },
        {"min_width": 1, "divisor": 8, "norm": True, "bias": False},
    ),
    Peer("timm", "ge", _timm_ge),
    Peer("timm", "splat", _timm_splat),
    Peer(
        "timm",
        "ela",
        _timm_ela,
        {"conv_h": "strips.0.0", "conv_w": "strips.1.0", "norm_h": "strips.0.1", "norm_w": "strips.1.1"},
        {"shared": False, "norm_groups": 1, "act": True},
    ),
    Peer("timm", "lambda", _timm_lambda, {"conv_lambda": "local"}),
    Peer("timm", "halo", _timm_halo, {"q": "query", "kv": "key_value", **_POSITIONS}),
    Peer("timm", "bot", _timm_bot, _POSITIONS),
    Peer("fightingcv", "se", _fightingcv("SEAttention", "SEAttention", ..., 16)),
    Peer(
        "fightingcv",
        "eca",
        _fightingcv("ECAAttention", "ECAAttention", 3),
        similar="its convolution has a bias besides",
    ),
    Peer(
        "fightingcv",
        "cbam",
        _fightingcv("CBAM", "CBAMBlock", ..., 16, 7),
        similar="adds x, has no norm, and no biases in its MLP",
    ),
    Peer(
        "fightingcv",
        "bam",
        _fightingcv("BAM", "BAMBlock", ..., 16, dia_val=1),  # it fails with another dilation
        _BAM_LAYERS,
        {"combine": "add", "layers": 3, "depth": 3, "dilation": 1},
    ),
    Peer("fightingcv", "ca", _fightingcv("CoordAttention", "CoordAtt", ..., ...)),
    Peer("fightingcv", "sa", _fightingcv("ShuffleAttention", "ShuffleAttention", ..., G=64)),
    Peer("fightingcv", "sge", _fightingcv("SGE", "SpatialGroupEnhance", 64)),
    Peer("fightingcv", "simam", _fightingcv("SimAM", "SimAM", ...)),
    Peer("fightingcv", "sk", _fightingcv("SKAttention", "SKAttention", ..., [3, 5], 16, 32, 32), _SK_LAYERS),
    Peer(
        "fightingcv",
        "triplet",
        _fightingcv("TripletAttention", "TripletAttention"),
        {f"{p}.conv.{layer}": f"{p}.{layer}" for p in ("cw", "hc", "hw") for layer in ("conv", "bn")},
    ),
    Peer(
        "fightingcv",
        "cca",
        _fightingcv("CrissCrossAttention", "CrissCrossAttention", ...),
        dict.fromkeys(("query_conv", "key_conv", "value_conv"), "project"),
    ),
    Peer("monai", "se", _monai_se, {}, {"bias": True}, dims=(2, 3)),
)
