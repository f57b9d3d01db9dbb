"""Attention in every family of residual networks, and in any other network by pattern."""

import copy
import pickle
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import timm
import timm.optim
import torch
import torchvision
from monai.networks.nets.resnet import ResNet as MonaiResNet
from monai.networks.nets.resnet import ResNetBlock, ResNetBottleneck
from timm.layers import EcaModule, SEModule, convert_sync_batchnorm
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.video import resnet as video

import attnzoo
from attnzoo.backbones.resnet3d import resnet3d
from attnzoo.inject import attentions

ONE = {"layers": (1, 1, 1, 1), "channels": (16, 32, 64, 128), "num_classes": 5}
V2 = {"layers": (1, 1, 1, 1), "channels": (32, 64, 128, 256), "num_classes": 5}


def _video(block_conv: Any, convs: list[Any], stem: Any) -> nn.Module:
    return video.VideoResNet(video.BasicBlock, convs, [1, 1, 1, 1], stem, num_classes=5)


def _monai(block: Any) -> nn.Module:
    return MonaiResNet(block, [1, 1, 1, 1], [8, 16, 32, 64], spatial_dims=3, n_input_channels=3, num_classes=5)


# One block a stage; what stands beside the name: is it 3D, and where are `out`, `mid` and `conv` in a block.
BOTTLENECK = {"out": "bn3", "mid": "conv3", "conv": "conv2"}
BASIC = {"out": "bn2", "mid": "conv2", "conv": "conv1"}
UNITS = {"out": "conv2.1", "mid": "conv2.0", "conv": "conv1.0"}
FAMILIES: dict[str, tuple[Callable[[], nn.Module], int, dict[str, str]]] = {
    "timm resnet": (partial(timm.create_model, "resnet50", **ONE), 2, BOTTLENECK),
    "timm resnetd": (partial(timm.create_model, "resnet50d", **ONE), 2, BOTTLENECK),
    "timm resnext": (partial(timm.create_model, "resnext50_32x4d", **ONE, cardinality=4), 2, BOTTLENECK),
    "timm wide": (partial(timm.create_model, "wide_resnet50_2", **ONE), 2, BOTTLENECK),
    "timm seresnet": (partial(timm.create_model, "seresnet50", **ONE), 2, BOTTLENECK),
    "timm ecaresnet": (partial(timm.create_model, "ecaresnet26t", **ONE), 2, BOTTLENECK),
    "timm res2net": (partial(timm.create_model, "res2net50_26w_4s", **ONE), 2, BOTTLENECK),
    "timm resnest": (partial(timm.create_model, "resnest50d", **ONE), 2, BOTTLENECK),
    "timm resnetv2": (
        partial(timm.create_model, "resnetv2_50", **V2),
        2,
        {"out": "conv3", "mid": "norm3", "conv": "conv2"},
    ),
    "torchvision resnet": (partial(ResNet, Bottleneck, [1, 1, 1, 1], num_classes=5, width_per_group=16), 2, BOTTLENECK),
    "torchvision resnext": (
        partial(ResNet, Bottleneck, [1, 1, 1, 1], num_classes=5, groups=8, width_per_group=4),
        2,
        BOTTLENECK,
    ),
    "torchvision wide": (partial(ResNet, Bottleneck, [1, 1, 1, 1], num_classes=5, width_per_group=32), 2, BOTTLENECK),
    "torchvision r3d": (partial(_video, None, [video.Conv3DSimple] * 4, video.BasicStem), 3, UNITS),
    "torchvision mc3": (
        partial(_video, None, [video.Conv3DSimple, *[video.Conv3DNoTemporal] * 3], video.BasicStem),
        3,
        UNITS,
    ),
    "torchvision r2plus1d": (partial(_video, None, [video.Conv2Plus1D] * 4, video.R2Plus1dStem), 3, UNITS),
    "attnzoo resnet3d": (partial(resnet3d, 10, num_classes=5, widen_factor=0.25), 3, BASIC),
    "monai basic": (partial(_monai, ResNetBlock), 3, BASIC),
    "monai bottleneck": (partial(_monai, ResNetBottleneck), 3, BOTTLENECK),
}
NO_CONV = ("timm res2net", "timm resnest")  # conv2 is made of parts, or is an attention itself
FITS: dict[str, dict[str, Any]] = {"se": {"reduction": 4}, "mpe": {"groups": 4}, "epsa": {"groups": (1, 1, 1, 1)}}
every_family = pytest.mark.parametrize("family", FAMILIES)


def lively(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):  # some last norms of a block start with weight 0
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, 0.0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


@cache
def _prototype(family: str) -> nn.Module:
    torch.manual_seed(0)
    model = FAMILIES[family][0]()
    return lively(model)


def fresh(family: str) -> nn.Module:
    return copy.deepcopy(_prototype(family))


def images(family: str, batch: int = 2) -> Tensor:
    size = (4, 32, 32) if FAMILIES[family][1] == 3 else (32, 32)
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def inject(model: nn.Module, name: str, **options: Any) -> nn.Module:
    torch.manual_seed(2)
    return attnzoo.inject(model, name, **{**FITS.get(name, {}), **options})


def blocks_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    if hasattr(model, "layer1"):
        return [(f"layer{s}.0", model.get_submodule(f"layer{s}.0")) for s in (1, 2, 3, 4)]
    return [(f"stages.{s}.blocks.0", model.get_submodule(f"stages.{s}.blocks.0")) for s in range(4)]


def injected(family: str) -> nn.Module:
    """Attention at every site that the family has."""
    model = inject(fresh(family), "se")
    inject(model, "mpe", stages=(2, 3))
    inject(model, "triplet", stages=(4,), site="stage")
    if family not in NO_CONV:
        inject(model, "epsa", stages=(4,))
    return model.eval()


@every_family
@pytest.mark.parametrize("site", ["out", "mid", "stage", "conv"])
def test_attention_is_where_the_site_says(family: str, site: str) -> None:
    """The same attention, brought in by hooks on the plain network, gives the same output; eject gives it back."""
    name = {"conv": "epsa", "stage": "triplet"}.get(site, "se")
    model, plain, x = fresh(family), fresh(family), images(family)
    if site == "conv" and family in NO_CONV:
        with pytest.raises(ValueError, match="no convolution that could be replaced"):
            inject(model, name, site=site)
        return
    with torch.no_grad():
        before = model(x)
        inject(model, name, site=site)
        found = {prefix.removesuffix(".attn"): module for prefix, module in attentions(model).items()}
        child = FAMILIES[family][2].get(site)
        places = [path if site == "stage" else f"{path}.{child}" for path, _ in blocks_of(plain)]
        assert [path for path in found if path in places] == places
        for path in places:
            module, place = found[path], plain.get_submodule(path)
            if site == "mid" and child != "norm3":  # where the norm stands in front of the convolution
                place.register_forward_pre_hook(lambda _, args, module=module: module(*args))
            elif site == "conv":
                place.register_forward_hook(lambda _, args, __, module=module: module(*args))
            else:
                place.register_forward_hook(lambda _, __, out, module=module: module(out))
        assert torch.equal(model(x), plain(x))
        assert not torch.allclose(model(x), before, rtol=1e-3)
        assert torch.equal(attnzoo.eject(model)(x), before)


@every_family
def test_a_plain_checkpoint_loads_and_the_whole_makes_a_round_trip(family: str) -> None:
    plain, model, x = fresh(family).state_dict(), inject(fresh(family), "se"), images(family)
    result = model.load_state_dict(plain, strict=False)
    assert not result.unexpected_keys
    new = set(model.state_dict()) - set(plain)
    assert new == {key for key in model.state_dict() if ".attn." in key}
    assert set(result.missing_keys) == new
    other = inject(fresh(family), "se")
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other(x), model(x))


@every_family
@pytest.mark.parametrize("site", ["out", "mid", "stage"])
def test_an_identity_start_is_bit_equal_and_trains(family: str, site: str) -> None:
    x = images(family)
    model = inject(fresh(family), "se", site=site, identity=True)
    with torch.no_grad():
        assert torch.equal(model(x), fresh(family)(x))
    model(x).square().sum().backward()
    alphas = [p for key, p in model.named_parameters() if key.endswith("alpha")]
    assert len(alphas) == 4
    assert all(p.grad is not None and p.grad.abs() > 0 for p in alphas)


@every_family
def test_copies_average_pickle_and_sync_norm_keep_the_attention(family: str) -> None:
    model, x = injected(family), images(family)
    with torch.no_grad():
        y = model(x)
        assert torch.equal(copy.deepcopy(model)(x), y)
        assert torch.equal(pickle.loads(pickle.dumps(model))(x), y)  # noqa: S301
        average = ModelEmaV3(model, decay=0.5)
        for parameter in attnzoo.attn_parameters(model):
            parameter += 1
        average.update(model)
        shift = [
            (a - b).abs().max()
            for a, b in zip(
                attnzoo.attn_parameters(average.module), attnzoo.attn_parameters(injected(family)), strict=True
            )
        ]
        assert all(0.4 < value < 0.6 for value in shift), "the average has the attention's half step"
        # torch's own conversion drops the activation that timm keeps in the norms of resnetv2.
        convert = convert_sync_batchnorm if family == "timm resnetv2" else nn.SyncBatchNorm.convert_sync_batchnorm
        twin = convert(injected(family)).eval()
        assert any(isinstance(m, nn.SyncBatchNorm) for m in twin.modules())
        assert torch.equal(twin(x), y)
        assert list(twin.state_dict()) == list(model.state_dict())


@every_family
def test_fusion_of_convolution_and_norm_keeps_the_attention(family: str) -> None:
    model, x = injected(family), images(family)
    with torch.no_grad():
        y = model(x)
        torch.testing.assert_close(fuse(model)(x), y, rtol=1e-4, atol=1e-4)


@every_family
def test_compiles_and_exports(family: str) -> None:
    model, x = injected(family), images(family)
    with torch.no_grad():
        y = model(x)
        program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.testing.assert_close(program.module()(x), y, rtol=1e-4, atol=1e-4)
        torch.compiler.reset()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), y, rtol=1e-4, atol=1e-4)
        torch.compiler.reset()


@every_family
def test_frozen_network_trains_attention_alone_with_layer_decay(family: str) -> None:
    model = injected(family).requires_grad_(False)
    for parameter in attnzoo.attn_parameters(model):
        parameter.requires_grad_(True)
    assert {key for key, p in model.named_parameters() if p.requires_grad} == {
        key for key, _ in model.named_parameters() if ".attn." in key
    }
    if family.startswith("timm"):
        groups = timm.optim.param_groups_layer_decay(model, weight_decay=0.1, layer_decay=0.5)
        assert {id(p) for g in groups for p in g["params"]} == {id(p) for p in attnzoo.attn_parameters(model)}
        scale = {id(p): g["lr_scale"] for g in groups for p in g["params"]}
        by_stage = [
            {scale[id(p)] for key, p in model.named_parameters() if key.startswith(path) and p.requires_grad}
            for path in ("layer1", "layer4", "stages.0", "stages.3")
        ]
        first, last = (s for s in by_stage if s)
        assert max(first) < min(last), "attention is as deep as the block it stands in"


@pytest.mark.parametrize(
    ("family", "own"), [("timm seresnet", SEModule), ("timm ecaresnet", EcaModule)], ids=["se", "eca"]
)
def test_own_attention_stays_or_goes(family: str, own: type[nn.Module]) -> None:
    x = images(family)
    kept, without, plain = inject(fresh(family), "mpe"), inject(fresh(family), "mpe", replace_own=True), fresh(family)
    count = [sum(isinstance(m, own) for m in model.modules()) for model in (kept, without, plain)]
    assert count == [4, 0, 4]
    # Without its own attention it is the plain ResNet with ours: that one's weights load with none left over.
    assert not [key for key in without.state_dict() if ".se." in key]
    with torch.no_grad():
        y = plain(x)
        reference = fresh(family)
        for _, block in blocks_of(reference):
            block.se = None
        inject(reference, "mpe")
        reference.load_state_dict(without.state_dict(), strict=True)
        assert torch.equal(without(x), reference(x))
        assert torch.equal(attnzoo.eject(without)(x), y), "eject brings the own attention back"
        assert list(without.state_dict()) == list(plain.state_dict())
    with pytest.raises(ValueError, match="attention of its own"):
        inject(fresh("timm resnet"), "mpe", replace_own=True)
    with pytest.raises(ValueError, match="attention of its own"):
        inject(fresh(family), "triplet", site="stage", replace_own=True)


@pytest.mark.parametrize(
    ("build", "where", "name", "count"),
    [
        (partial(timm.create_model, "regnetx_002"), {"s*.b1.conv3": "after"}, "se", 4),
        (
            partial(timm.create_model, "densenet121", growth_rate=8),
            {"features.transition*.conv": "before"},
            "ca",
            3,
        ),
        (partial(timm.create_model, "convnext_atto"), {"stages.*.blocks.0.conv_dw": "after"}, "triplet", 4),
        (partial(torchvision.models.mobilenet_v2), {"features.*.conv.1.0": "before"}, "se", 16),
        (partial(timm.create_model, "skresnet18"), {"layer*.0.conv1": "replace"}, "sk", 4),
        (partial(timm.create_model, "seresnet50"), {"layer*.0.se": "replace"}, "se", 4),
        (partial(torchvision.models.resnet18), {"layer[34].*.conv2": "after", "layer1.0.conv1": "before"}, "simam", 5),
        (partial(timm.create_model, "resnet18"), {"layer4.*.conv2": "replace", "layer2.0.conv1": "replace"}, "epsa", 3),
        (partial(torchvision.models.video.s3d), {"features.*.branch1.0": "before"}, "se", 9),
    ],
    ids=["regnet", "densenet", "convnext", "mobilenet", "sknet", "seresnet", "resnet", "replaced", "s3d"],
)
def test_patterns_put_attention_into_any_network(
    build: Callable[[], nn.Module], where: dict[str, Any], name: str, count: int
) -> None:
    torch.manual_seed(0)
    model = lively(build())
    keys, size = list(model.state_dict()), (16, 224, 224) if "features.*.branch1.0" in where else (64, 64)
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        y = model(x)
        attnzoo.inject(model, name, where=where)
        assert len(attentions(model)) == count
        changed = model(x)
        assert changed.shape == y.shape
        assert not torch.equal(changed, y)
        assert torch.equal(attnzoo.eject(model)(x), y)
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize(
    ("where", "name", "options", "shown"),
    [
        ({"layer9.*": "after"}, "se", {}, ("'layer9.*'", "conv1")),
        ({"layer1.0": "around"}, "se", {}, ("'around'", "before")),
        ({"relu": "after"}, "se", {}, ("relu", "ReLU", "channels")),
        ({"layer2.0.conv1": "replace"}, "se", {}, ("layer2.0.conv1", "128", "64", "stride")),
        ({"layer1.0.conv1": "replace"}, "epsa", {"identity": True}, ("identity", "layer1.0.conv1")),
        ({"layer1.0": "after"}, "se", {"site": "out"}, ("where", "site")),
        ({"layer1.0": "after"}, "se", {"stages": (1,)}, ("where", "stages")),
    ],
)
def test_patterns_that_do_not_fit_are_refused(
    where: dict[str, Any], name: str, options: dict[str, Any], shown: tuple[str, ...]
) -> None:
    model = torchvision.models.resnet18()
    keys = list(model.state_dict())
    with pytest.raises(ValueError) as error:  # noqa: PT011
        attnzoo.inject(model, name, where=where, **options)
    assert all(value in str(error.value) for value in shown), str(error.value)
    assert "\n" not in str(error.value)
    assert list(model.state_dict()) == keys


def test_a_place_named_twice_gets_attention_once() -> None:
    model = torchvision.models.resnet18()
    keys = list(model.state_dict())
    attnzoo.inject(model, "se", where={"layer1.0.bn2": "after", "layer1.*.bn2": "after"})
    assert list(attentions(model)) == ["layer1.0.bn2.attn", "layer1.1.bn2.attn"]
    assert list(attnzoo.eject(model).state_dict()) == keys
    with pytest.raises(ValueError, match=r"after and before layer1\.0\.bn2"):
        attnzoo.inject(model, "se", where={"layer1.0.bn2": "after", "layer1.0.bn[2]": "before"})
    assert list(model.state_dict()) == keys


def test_what_was_replaced_comes_back_to_where_the_network_went() -> None:
    with torch.device("meta"):
        model = attnzoo.inject(resnet3d(10, widen_factor=0.25), "epsa", groups=(1, 1, 1, 1))
    attnzoo.eject(model.to_empty(device="cpu"))
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_a_stem_called_layer0_is_no_stage() -> None:
    with torch.device("meta"):
        model = attnzoo.inject(timm.create_model("legacy_seresnet50"), "cbam", replace_own=True)
    assert len(attentions(model)) == 16
    assert not [key for key in model.state_dict() if "se_module" in key]


@pytest.mark.parametrize(
    ("wrap", "shown"),
    [
        (nn.DataParallel, ("DataParallel", "model.module")),
        (partial(torch.compile, backend="eager"), ("compiled", "plain")),
        (lambda model: model.compile(backend="eager") or model, ("compiled", "plain")),
        (lambda model: nn.Sequential(nn.DataParallel(model)), ("DataParallel", "model.module")),
    ],
    ids=["parallel", "compiled", "compiled in place", "inside"],
)
def test_wrapped_networks_are_refused(wrap: Callable[[nn.Module], nn.Module], shown: tuple[str, ...]) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        attnzoo.inject(wrap(resnet3d(10, widen_factor=0.125)), "se")
    assert all(value in str(error.value) for value in shown), str(error.value)


@pytest.mark.parametrize(
    ("model", "options", "shown"),
    [
        (None, {}, ("model=None", "nn.Module")),
        ("resnet18", {}, ("'resnet18'", "nn.Module")),
        (resnet3d(10, widen_factor=0.125), {"blocks": 1}, ("blocks=1", "(1,)")),
        (resnet3d(10, widen_factor=0.125), {"stages": 3.0}, ("stages=3.0", "list")),
        (resnet3d(10, widen_factor=0.125), {"stages": "34"}, ("stages='34'", "list")),
        (resnet3d(10, widen_factor=0.125), {"where": "layer1"}, ("where='layer1'", "after")),
    ],
    ids=["none", "a name", "blocks", "stages", "text", "where"],
)
def test_arguments_of_another_type_are_refused(model: Any, options: dict[str, Any], shown: tuple[str, ...]) -> None:
    with pytest.raises(TypeError) as error:
        attnzoo.inject(model, "se", **options)
    assert all(value in str(error.value) for value in shown), str(error.value)


def _train_step(model: nn.Module, x: Tensor, labels: Tensor) -> None:
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # each process would see half of the batch
            module.eval()
    nn.functional.cross_entropy(model(x), labels).backward()


def _two_processes(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = nn.parallel.DistributedDataParallel(torch.load(f"{folder}/model.pt", weights_only=False))
    x, labels = torch.load(f"{folder}/batch.pt", weights_only=True)
    _train_step(model, x[rank::2], labels[rank::2])
    if rank == 1:
        torch.save({key: p.grad for key, p in model.module.named_parameters()}, f"{folder}/gradients.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("family", ["timm resnet", "torchvision r3d"])
def test_two_processes_train_it_as_one(family: str, tmp_path: Path) -> None:
    """Gradients under DDP are those of one process on the whole batch."""
    model, x, labels = injected(family), images(family, 4), torch.tensor([0, 1, 2, 3])
    torch.save(model, tmp_path / "model.pt")
    torch.save((x, labels), tmp_path / "batch.pt")
    _train_step(model, x, labels)
    torch.multiprocessing.spawn(_two_processes, (str(tmp_path),), nprocs=2)
    gradients = torch.load(tmp_path / "gradients.pt", weights_only=True)
    assert gradients.keys() == {key for key, _ in model.named_parameters()}
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[key], parameter.grad, rtol=1e-3, atol=1e-5, msg=key)
