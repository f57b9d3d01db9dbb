"""Attention in residual networks: where it goes, what stays, how it comes out again, and what users then do with it."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.models import byobnet, cspnet, maxxvit, nfnet
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torchvision.models.resnet import BasicBlock

import attnzoo
from attnzoo.backbones.resnet3d import resnet3d
from attnzoo.inject import attentions

# As thin as their families allow: the wiring is the same.
THIN = {"channels": (16, 32, 64, 128), "num_classes": 5}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "timm18": partial(timm.create_model, "resnet18", **THIN),
    "timm50": partial(timm.create_model, "resnet50", **THIN),
    "torchvision18": partial(torchvision.models.resnet18, num_classes=5),
    "torchvision50": partial(torchvision.models.resnet50, num_classes=5, width_per_group=16),
    "resnet3d18": partial(resnet3d, 18, num_classes=5, widen_factor=0.25),
    "resnet3d50": partial(resnet3d, 50, num_classes=5, widen_factor=0.25),
    # One block a stage, for what is slow.
    "timm10": partial(timm.create_model, "resnet10t", **THIN),
    "torchvision10": partial(torchvision.models.ResNet, BasicBlock, [1, 1, 1, 1], num_classes=5),
    "resnet3d10": partial(resnet3d, 10, num_classes=5, widen_factor=0.25),
}
MAIN = [name for name in NETWORKS if not name.endswith("10")]
# Options that fit the widths of all of them; the others' defaults do.
FITS: dict[str, dict[str, Any]] = {
    "sa": {"groups": 4},
    "epsa": {"groups": (1, 2, 2, 4)},
    "mpe": {"groups": 8},
    "se": {"reduction": 4},
    "cbam": {"reduction": 4},
}
MODULES = ["se", "cbam", "ca", "sa", "triplet", "epsa", "mpe"]
COUNTS = {"10": (1, 1, 1, 1), "18": (2, 2, 2, 2), "50": (3, 4, 6, 3)}


@cache
def _prototype(network: str) -> nn.Module:
    torch.manual_seed(0)
    model = NETWORKS[network]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):  # timm's last norm of a block starts with weight 0
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, 0.0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def fresh(network: str) -> nn.Module:
    return copy.deepcopy(_prototype(network))


def images(network: str, batch: int = 2) -> Tensor:
    size = (4, 32, 32) if "3d" in network else (32, 32)
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def inject(model: nn.Module, name: str, **options: Any) -> nn.Module:
    torch.manual_seed(2)
    return attnzoo.inject(model, name, **{**FITS.get(name, {}), **options})


def anatomy(model: nn.Module) -> list[tuple[str, int]]:
    """Names and identities of all modules and tensors, in order."""
    tensors = model.state_dict(keep_vars=True).items()
    return [(name, id(thing)) for name, thing in (*model.named_modules(), *tensors)]


def paths(network: str, site: str, stages: tuple[int, ...] = (1, 2, 3, 4)) -> list[str]:
    """Where a site is, in words of the authors' networks: block conv1-bn1-conv2-bn2[-conv3-bn3]."""
    counts, bottleneck = COUNTS[network[-2:]], network.endswith("50")
    child = {
        "out": "bn3" if bottleneck else "bn2",
        "mid": "conv3" if bottleneck else "conv2",
        "conv": "conv2" if bottleneck else "conv1",
    }
    if site == "stage":
        return [f"layer{s}.{counts[s - 1] - 1}" for s in stages]
    return [f"layer{s}.{i}.{child[site]}" for s in stages for i in range(counts[s - 1])]


@pytest.mark.filterwarnings("ignore:for .*num_batches_tracked.* copying from a non-meta")  # torch fills it in itself
@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("network", MAIN)
def test_keys_and_tensors_stay_and_eject_leaves_no_trace(network: str, name: str) -> None:
    with torch.device("meta"):
        model = NETWORKS[network]()
    whole = anatomy(model)
    before = model.state_dict(keep_vars=True)
    for site in ("out", "mid", "stage", "conv")[: 4 if name == "epsa" else 3]:
        versions = {key: value._version for key, value in before.items()}
        with torch.device("meta"):
            assert inject(model, name, site=site) is model
        after = model.state_dict(keep_vars=True)
        new, gone = [k for k in after if k not in before], [k for k in before if k not in after]
        assert all(".attn." in key for key in new)
        assert list(dict.fromkeys(key.split(".attn.")[0] for key in new)) == paths(network, site)
        assert gone == ([f"{path}.weight" for path in paths(network, site)] if site == "conv" else [])
        # Same names, in the same order, for the same tensors, never written to.
        assert [key for key in after if key in before] == [key for key in before if key not in gone]
        assert all(after[key] is before[key] and after[key]._version == versions[key] for key in after if key in before)
        plain = model.load_state_dict(before, strict=False)
        assert sorted(plain.unexpected_keys) == sorted(gone)
        assert set(plain.missing_keys) == {key for key in new if not key.endswith("num_batches_tracked")}
        model.load_state_dict(after, strict=True)
        assert attnzoo.eject(model) is model
        assert anatomy(model) == whole


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("network", MAIN)
def test_eject_gives_the_output_back(network: str, name: str) -> None:
    model, x = fresh(network), images(network)
    with torch.no_grad():
        plain = model(x)
        injected = inject(model, name)(x)
        assert injected.isfinite().all()
        assert not torch.allclose(injected, plain, rtol=1e-3), "the attention does nothing"
        state = model.state_dict()
        assert all(
            torch.equal(value, state[key]) for key, value in _prototype(network).state_dict().items() if key in state
        )
        other = inject(fresh(network), name)
        other.load_state_dict(state, strict=True)
        assert torch.equal(other(x), injected)
        assert torch.equal(attnzoo.eject(model)(x), plain)


@pytest.mark.parametrize("site", ["out", "mid", "stage", "conv"])
@pytest.mark.parametrize("network", MAIN)
def test_each_site_is_where_it_says(network: str, site: str) -> None:
    """The same attention, brought in by hooks on the plain network, gives the same output."""
    model, plain, x = fresh(network), fresh(network), images(network)
    inject(model, "epsa" if site == "conv" else "se", site=site, stages=(2, 4))
    attention = {prefix.removesuffix(".attn"): module for prefix, module in attentions(model).items()}
    assert list(attention) == paths(network, site, (2, 4))
    for path, module in attention.items():
        place = plain.get_submodule(path)
        if site == "mid":
            place.register_forward_pre_hook(lambda _, args, module=module: module(*args))
        elif site == "conv":
            conv = model.get_submodule(path).base
            assert [b.stride for b in module.convs] == [conv.stride] * 4
            place.register_forward_hook(lambda _, args, __, module=module: module(*args))
        else:
            place.register_forward_hook(lambda _, __, out, module=module: module(out))
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))


@pytest.mark.parametrize("name", [m for m in MODULES if attnzoo.spec(m).site != "conv"])
@pytest.mark.parametrize("network", MAIN)
def test_identity_changes_nothing_at_first_and_trains(network: str, name: str) -> None:
    model, plain, x = inject(fresh(network), name, identity=True), fresh(network), images(network)
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))
        assert torch.equal(model.train()(x), plain.train()(x))
    model, plain, x = model.double(), plain.double(), x.double()  # the first steps are small
    before = {key: value.clone() for key, value in model.state_dict().items()}
    alphas = [key for key in before if key.endswith("alpha")]
    assert len(alphas) == len(paths(network, attnzoo.spec(name).site))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.tensor([0, 1])).backward()
        optimizer.step()
    after = model.state_dict()
    assert all(after[key] != before[key] for key in alphas)
    for prefix, attention in attentions(model).items():
        weights = [f"{prefix}.{n}" for n, _ in attention.named_parameters() if n != "alpha"]
        assert any(not torch.equal(after[key], before[key]) for key in weights), prefix
    assert not torch.equal(model.eval()(x), plain.eval()(x))


def refused(model: nn.Module, error: type[Exception], shown: tuple[str, ...], name: str, **options: Any) -> None:
    """An injection that raises one clear line and changes nothing."""
    before = anatomy(model)
    with pytest.raises(error) as caught:
        attnzoo.inject(model, name, **options)
    assert all(value in str(caught.value) for value in shown), str(caught.value)
    assert "\n" not in str(caught.value)
    assert anatomy(model) == before


@pytest.mark.parametrize(
    ("error", "shown", "name", "options"),
    [
        (ValueError, ("'mpa'", "mpe"), "mpa", {}),
        (TypeError, ("'group'", "groups"), "mpe", {"group": 8}),
        (ValueError, ("5", "1, 2, 3, 4"), "se", {"stages": (1, 5)}),
        (ValueError, ("0", "1, 2, 3, 4"), "se", {"stages": (0,)}),
        (ValueError, ("stages",), "se", {"stages": ()}),
        (ValueError, ("'inside'", "out, mid, conv, stage"), "se", {"site": "inside"}),
        (ValueError, ("se", "convolution"), "se", {"site": "conv"}),
        (ValueError, ("epsa", "identity"), "epsa", {"identity": True, "groups": (1, 2, 2, 4)}),
        (ValueError, ("'middle'", "first", "last"), "se", {"blocks": "middle"}),
        (ValueError, ("2", "0 to 1"), "se", {"blocks": (0, 2)}),
        (ValueError, ("-3", "0 to 1"), "se", {"blocks": (-3,)}),
        (ValueError, ("blocks",), "se", {"blocks": ()}),
        (ValueError, ("blocks",), "se", {"blocks": lambda stage, index: False}),
        # fits layer2, layer3 and layer4 but not the 64 channels of layer1, and the other way round
        (ValueError, ("layer1.0", "64", "groups=128"), "mpe", {"groups": 128, "stages": (4, 3, 2, 1)}),
        (ValueError, ("layer1.0", "64"), "sa", {"stages": (4, 1)}),
        # given by the place of injection, never by the user
        (TypeError, ("stride",), "epsa", {"stride": 2, "groups": (1, 2, 2, 4)}),
        (TypeError, ("stride",), "epsa", {"stride": 2, "site": "out", "groups": (1, 2, 2, 4)}),
        (TypeError, ("out_channels",), "epsa", {"out_channels": 8, "site": "mid", "groups": (1, 2, 2, 4)}),
        (ValueError, ("spatial_dims=3 at", "it has 2"), "se", {"spatial_dims": 3}),
    ],
)
def test_refuses_what_does_not_fit(
    error: type[Exception], shown: tuple[str, ...], name: str, options: dict[str, Any]
) -> None:
    refused(fresh("torchvision18"), error, shown, name, **options)


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.Sequential(nn.Conv2d(3, 8, 3))])
def test_refuses_a_network_without_stages(model: nn.Module) -> None:
    refused(model, ValueError, (type(model).__name__, "layer1"), "se")


@pytest.mark.parametrize("site", ["out", "mid", "stage", "conv"])
@pytest.mark.parametrize("network", ["torchvision18", "timm50", "resnet3d18"])
def test_refuses_a_second_injection_at_one_place(network: str, site: str) -> None:
    name = "epsa" if site == "conv" else "se"
    model = inject(fresh(network), name, site=site, stages=(2, 3))
    place = paths(network, site, (2,))[0]
    refused(model, ValueError, (place, "eject"), name, site=site, **FITS[name])
    assert anatomy(inject(attnzoo.eject(model), name, site=site))  # the way out that the message names


@pytest.mark.parametrize(
    ("blocks", "chosen"),
    [
        (None, {1: (0, 1, 2), 3: (0, 1, 2, 3, 4, 5)}),
        ("all", {1: (0, 1, 2), 3: (0, 1, 2, 3, 4, 5)}),
        ("first", {1: (0,), 3: (0,)}),
        ("last", {1: (2,), 3: (5,)}),
        ((0, 2), {1: (0, 2), 3: (0, 2)}),
        ([-1, 0, 0], {1: (0, 2), 3: (0, 5)}),
        (lambda stage, index: stage == 3 and index % 2, {3: (1, 3, 5)}),
    ],
)
def test_chooses_stages_and_blocks(blocks: Any, chosen: dict[int, tuple[int, ...]]) -> None:
    with torch.device("meta"):
        model = inject(NETWORKS["timm50"](), "se", stages=(3, 1), blocks=blocks)
    wanted = {f"layer{stage}.{i}.bn3.attn" for stage, indices in chosen.items() for i in indices}
    assert set(attentions(model)) == wanted
    assert len(list(attnzoo.attn_parameters(model))) == 2 * len(wanted)


def mixed(network: str) -> nn.Module:
    """Every site at once, in separate injections, one of them an identity that has been trained away from it."""
    model = inject(fresh(network), "se", stages=(1, 2, 4))
    inject(model, "mpe", stages=(2,), identity=True)
    inject(model, "epsa", stages=(3, 4))
    inject(model, "cbam", stages=(4,), site="stage")
    inject(model, "triplet", stages=(3,))
    for key, value in model.state_dict().items():
        if key.endswith("alpha"):
            value.fill_(0.5)
    return model.eval()


MIXED = ["torchvision10", "timm10", "resnet3d10"]


@pytest.mark.parametrize("network", [*MIXED, "torchvision18", "timm50"])
def test_injections_at_different_places_live_together(network: str) -> None:
    plain, model, x = fresh(network), mixed(network), images(network)
    places = [
        *((path, "se") for path in paths(network, "out", (1, 2, 4))),
        *((path, "mpe") for path in paths(network, "mid", (2,))),
        *((path, "epsa") for path in paths(network, "conv", (3, 4))),
        *((path, "cbam") for path in paths(network, "stage", (4,))),
        *((path, "triplet") for path in paths(network, "out", (3,))),
    ]
    found = attentions(model)
    assert found.keys() == {f"{path}.attn" for path, _ in places}
    for path, name in places:
        module = getattr(found[f"{path}.attn"], "attention", found[f"{path}.attn"])  # an identity start wraps it
        assert type(module) is attnzoo.spec(name).cls
    other = mixed(network)
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other(x), model(x))
    assert torch.equal(attnzoo.eject(model)(x), plain(x))
    assert list(model.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("network", MIXED)
def test_attention_parameters_and_state_are_those_that_are_new(network: str) -> None:
    plain, model, x = fresh(network), mixed(network), images(network)
    own = {id(p) for p in attnzoo.attn_parameters(model)}
    state = model.state_dict()
    assert own == {id(p) for name, p in model.named_parameters() if ".attn." in name}
    assert list(attnzoo.attn_state_dict(model)) == [key for key in state if key not in plain.state_dict()]
    # The attention alone can be saved and carried to another copy of the network.
    other = mixed(network)
    for parameter in attnzoo.attn_parameters(other):
        nn.init.normal_(parameter)
    assert not torch.allclose(other(x), model(x))
    loaded = other.load_state_dict(attnzoo.attn_state_dict(model), strict=False)
    assert not loaded.unexpected_keys
    # torch fills in num_batches_tracked by itself, in some cases
    others = state.keys() - attnzoo.attn_state_dict(model).keys()
    assert {k for k in others if not k.endswith("tracked")} <= set(loaded.missing_keys) <= others
    assert torch.equal(other(x), model(x))
    assert list(attnzoo.attn_parameters(plain)) == []
    assert attnzoo.attn_state_dict(plain) == {}


def test_load_state_dict_reports_keys_as_the_user_knows_them() -> None:
    model = inject(fresh("torchvision18"), "se", stages=(1,))
    state = model.state_dict()
    for key in ("layer1.0.bn2.weight", "layer1.1.bn2.attn.fc.0.weight"):
        part = {k: v for k, v in state.items() if k != key} | {"layer1.0.bn2.extra": torch.zeros(1)}
        result = model.load_state_dict(part, strict=False)
        assert result.missing_keys == [key]
        assert result.unexpected_keys == ["layer1.0.bn2.extra"]


def test_state_dict_works_below_and_above_the_network() -> None:
    model, other = mixed("torchvision18"), mixed("torchvision18")
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    for name in ("layer1.0.bn2", "layer4.1", "layer4"):
        part = model.get_submodule(name).state_dict()
        whole = {k.removeprefix(f"{name}."): v for k, v in model.state_dict().items() if k.startswith(f"{name}.")}
        assert list(part) == list(whole)
        other.get_submodule(name).load_state_dict(part, strict=True)
        assert all(torch.equal(v, whole[k]) for k, v in other.get_submodule(name).state_dict().items())
    above, its_other = nn.ModuleDict({"net": model}), nn.ModuleDict({"net": other})
    assert list(above.state_dict()) == [f"net.{key}" for key in model.state_dict()]
    assert torch.equal(above.state_dict()["net.layer1.0.bn2.weight"], fresh("torchvision18").layer1[0].bn2.weight)
    its_other.load_state_dict(above.state_dict(), strict=True, assign=True)
    x = images("torchvision18")
    assert torch.equal(other(x), model(x))


def _saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda m: pickle.loads(pickle.dumps(m)), "save": _saved}  # noqa: S301


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("network", MIXED)
def test_copies_are_complete_and_independent(network: str, way: str) -> None:
    model, x = mixed(network), images(network)
    y = model(x)
    twin = COPIES[way](model)
    assert torch.equal(twin(x), y)
    assert list(twin.state_dict()) == list(model.state_dict())
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in model.parameters()}
    twin.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(attnzoo.eject(twin)(x), fresh(network)(x))
    assert torch.equal(model(x), y), "ejecting from the copy touched the original"


@pytest.mark.parametrize("network", MIXED)
def test_sync_batch_norm_conversion_keeps_the_attention(network: str) -> None:
    model, x = mixed(network), images(network)
    y, keys = model(x), list(model.state_dict())
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    kinds = {type(m) for m in model.modules()}
    assert nn.SyncBatchNorm in kinds
    assert not kinds & {nn.BatchNorm2d, nn.BatchNorm3d}
    assert torch.equal(model.eval()(x), y)
    assert list(model.state_dict()) == keys


@pytest.fixture
def compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("network", ["torchvision10", "resnet3d10"])
def test_compiles_into_one_graph(network: str) -> None:
    model, x = mixed(network), images(network)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("network", ["timm10", "resnet3d10"])
def test_exports_with_a_dynamic_batch(network: str) -> None:
    model = mixed(network)
    program = torch.export.export(model, (images(network),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for batch in (2, 3):
        x = images(network, batch)
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("network", MIXED)
def test_fx_fusion_of_convolution_and_norm_keeps_the_attention(network: str) -> None:
    model, x = mixed(network), images(network)
    with torch.no_grad():
        fused = fuse(model)
        norms = [sum(isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d) for m in net.modules()) for net in (fused, model)]
        assert norms[0] < norms[1], "nothing was fused"
        torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(fused(x), fresh(network)(x), rtol=1e-3)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("network", MAIN)
def test_epsa_takes_the_stride_and_eject_brings_the_same_convolution_back(network: str, stage: int) -> None:
    model = fresh(network)
    places = paths(network, "conv", (stage,))
    convs = [model.get_submodule(path) for path in places]
    values = [conv.weight.clone() for conv in convs]
    inject(model, "epsa", stages=(stage,))
    assert all(id(conv.weight) not in {id(p) for p in model.parameters()} for conv in convs), "it must not be trained"
    for path, conv in zip(places, convs, strict=True):
        x = torch.randn(1, conv.in_channels, *(9,) * (conv.weight.ndim - 2))
        assert model.get_submodule(path)(x).shape == conv(x).shape
    attnzoo.eject(model.train())
    for path, conv, value in zip(places, convs, values, strict=True):
        assert model.get_submodule(path) is conv
        assert torch.equal(conv.weight, value)
        assert conv.training


def test_eject_brings_the_convolution_to_where_the_network_is_now() -> None:
    model = attnzoo.eject(inject(fresh("torchvision18"), "epsa").double().eval())
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert model(images("torchvision18").double()).dtype == torch.float64


@pytest.mark.parametrize("site", [None, "conv"])
@pytest.mark.parametrize(
    ("device", "dtype"), [("cpu", torch.float64), ("cpu", torch.bfloat16), ("meta", torch.float16)]
)
def test_attention_goes_where_the_network_is(site: str | None, device: str, dtype: torch.dtype) -> None:
    for training in (False, True):
        model = fresh("torchvision18").to(device, dtype).train(training).requires_grad_(False)
        inject(model, "epsa" if site else "mpe", identity=not site)
        assert {(p.device.type, p.dtype) for p in model.parameters()} == {(device, dtype)}
        assert {m.training for m in model.modules()} == {training}
        assert all(p.requires_grad for p in attnzoo.attn_parameters(model)), "a frozen network must not freeze it"
        trainable = {id(p) for p in model.parameters() if p.requires_grad}
        assert trainable == {id(p) for p in attnzoo.attn_parameters(model)}


def _group_norm() -> nn.Module:
    return torchvision.models.resnet18(norm_layer=lambda c: nn.GroupNorm(8, c))


@pytest.mark.parametrize(
    "build",
    [
        partial(timm.create_model, "resnet50_gn"),
        _group_norm,
        partial(torchvision.models.resnet50, norm_layer=torchvision.ops.FrozenBatchNorm2d),
        partial(timm.create_model, "resnet18", norm_layer="layernorm2d"),
    ],
    ids=["timm group norm", "torchvision group norm", "frozen batch norm", "layer norm"],
)
@pytest.mark.parametrize("site", ["out", "mid", "stage"])
def test_other_norms_than_batch_norm(build: Callable[[], nn.Module], site: str) -> None:
    model = build().eval()
    x = images("torchvision18")
    y = model(x)
    inject(model, "se", site=site)
    assert len(attentions(model)) in (4, 8, 16)
    assert model(x).isfinite().all()
    assert torch.equal(attnzoo.eject(model)(x), y)


@pytest.mark.parametrize(("depth", "norm"), [("18", "bn2"), ("50", "bn3")])
def test_timm_layer_is_attention_at_site_out(depth: str, norm: str) -> None:
    """timm puts its attn_layer where the papers put SE: its own wiring checks ours."""
    layer = attnzoo.timm_layer("cbam", reduction=4)
    theirs = timm.create_model(f"resnet{depth}", block_args={"attn_layer": layer}, **THIN).eval()
    ours = inject(fresh(f"timm{depth}"), "cbam", reduction=4)
    theirs.load_state_dict({k.replace(f".{norm}.attn.", ".se."): v for k, v in ours.state_dict().items()}, strict=True)
    x = images("timm18")
    with torch.no_grad():
        assert torch.equal(theirs(x), ours(x))
    assert len(attentions(theirs)) == len(attentions(ours))
    assert all(".se." in key for key in attnzoo.attn_state_dict(theirs))
    counts = [sum(p.numel() for p in attnzoo.attn_parameters(net)) for net in (theirs, ours)]
    assert counts[0] == counts[1]


def _csp(layer: Any) -> nn.Module:
    config = cspnet.model_cfgs["cspresnet50"]
    return cspnet.CspNet(replace(config, stages=replace(config.stages, attn_layer=layer)))


def _coat(layer: Any) -> nn.Module:
    config = maxxvit.model_cfgs["coatnet_0_rw"]
    return maxxvit.MaxxVit(replace(config, conv_cfg=replace(config.conv_cfg, attn_layer=layer)), img_size=64)


@pytest.mark.parametrize(
    ("build", "blocks"),
    [
        (lambda layer: timm.create_model("res2net50_26w_4s", block_args={"attn_layer": layer}), 16),
        (lambda layer: timm.create_model("resnext50_32x4d", block_args={"attn_layer": layer}), 16),
        (lambda layer: byobnet.ByobNet(byobnet.model_cfgs["eca_resnext26ts"], attn_layer=layer), 8),
        (lambda layer: timm.create_model("resnetaa50", block_args={"attn_layer": layer}), 16),
        (lambda layer: timm.create_model("skresnet18", block_args={"attn_layer": layer}), 8),
        (lambda layer: nfnet.NormFreeNet(replace(nfnet.model_cfgs["nf_resnet26"], attn_layer=layer)), 8),
        (_csp, 13),
        (_coat, 5),
        (lambda layer: timm.create_model("nfnet_l0", attn_layer=layer), 12),
        (lambda layer: timm.create_model("bat_resnext26ts", attn_layer=layer), 8),
    ],
    ids=["res2net", "resnext", "byobnet", "resnetaa", "sknet", "nfnet", "cspnet", "maxxvit", "nfnet_l0", "bat"],
)
@pytest.mark.parametrize("name", ["mpe", "se"])
def test_timm_layer_in_other_families(name: str, build: Callable[[Any], nn.Module], blocks: int) -> None:
    with torch.device("meta"):
        model = build(attnzoo.timm_layer(name, **FITS[name])).eval()
        y = model(torch.empty(2, 3, 64, 64))
    assert y.shape == (2, 1000)
    found = attentions(model)
    assert len(found) == blocks
    assert {type(m) for m in found.values()} == {attnzoo.spec(name).cls}
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_timm_layer_heeds_device_and_dtype_and_checks_options_at_once() -> None:
    layer = attnzoo.timm_layer("se", reduction=8)(64, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in layer.parameters()} == {("meta", torch.float64)}
    assert sum(p.numel() for p in layer.parameters()) == 2 * 64 * 8
    for options in ({"reducton": 8}, {"spatial_dims": 3}, {"channels": 3}):
        with pytest.raises(TypeError, match="reduction"):
            attnzoo.timm_layer("se", **options)


# Parameters and state-dict entries of the authors' ImageNet networks (K = 1000), ResNet-50 and ResNet-101.
AUTHORS = [
    ("se", {}, (28_071_976, 352), (49_292_328, 692)),
    ("cbam", {}, (28_089_624, 480), (49_330_172, 956)),
    ("sa", {"site": "out"}, (25_557_740, 416), (44_550_684, 824)),
    ("triplet", {}, (25_561_832, 608), (44_559_060, 1220)),
    ("epsa", {}, (22_561_715, 432), (38_900_279, 857)),
    ("se", {"bias": True}, (28_088_024, 384), None),
    ("epsa", {"kernels": (3, 5, 7, 9), "groups": (1, 4, 8, 16)}, (22_561_715, 432), None),
]


@pytest.mark.parametrize(("name", "options", "r50", "r101"), AUTHORS)
@pytest.mark.parametrize("family", [timm.create_model, torchvision.models.get_model])
def test_networks_have_the_authors_size(
    family: Callable[[str], nn.Module],
    name: str,
    options: dict[str, Any],
    r50: tuple[int, int],
    r101: tuple[int, int] | None,
) -> None:
    for depth, size in (("50", r50), ("101", r101)):
        if size is None:
            continue
        with torch.device("meta"):
            model = family(f"resnet{depth}")
            attnzoo.inject(model, name, **options)
        assert (sum(p.numel() for p in model.parameters()), len(model.state_dict())) == size
