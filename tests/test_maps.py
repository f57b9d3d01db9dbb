"""What a network looks at, against closed forms and captum; the network is left as it was."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from captum.attr import LayerGradCam, LayerGradientXActivation
from torch import Tensor, nn

from attnzoo import create, inject, nd
from attnzoo.backbones.resnet3d import resnet3d
from attnzoo.inject import Attached
from attnzoo.maps import activation_layer, activation_map, branch_weights, enlarge, gate_maps

SPATIAL = {2: (5, 7), 3: (3, 5, 7)}
OPTIONS: dict[str, dict[str, Any]] = {
    "sa": {"groups": 2},
    "sge": {"groups": 4},
    "ema": {"groups": 4},
    "lct": {"groups": 4},
    "nl": {},
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Pattern(nd.Gate):
    """A gate made by hand."""

    def __init__(self, gate: Tensor) -> None:
        super().__init__()
        self.pattern = gate

    def gate(self, x: Tensor) -> Tensor:
        return self.pattern.expand(x.shape[0], *self.pattern.shape[1:])


class Times(nn.Module):
    """Attention that is no gate."""

    def __init__(self, factor: float, plus: float = 0.0) -> None:
        super().__init__()
        self.factor, self.plus = factor, plus

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x + self.plus


def alone(attention: nn.Module) -> nn.Module:
    """A network that is nothing but attention."""
    return Attached(nn.Identity(), attention).eval()


def shaken(module: nn.Module) -> nn.Module:
    """Random values in every parameter and buffer, since many attentions start as something simple."""
    for value in [*module.parameters(), *module.buffers()]:
        if value.is_floating_point():
            with torch.no_grad():
                value.copy_(torch.rand(value.shape) + 0.1)
    return module.eval()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("width", [1, 4, 8])
def test_a_gate_made_by_hand_is_what_the_map_shows(dims: int, width: int) -> None:
    """Of one, one per group of two channels, or one per channel."""
    pattern = torch.rand(1, width, *SPATIAL[dims])
    found = gate_maps(alone(Pattern(pattern)), torch.randn(2, 8, *SPATIAL[dims]))["attn"]
    assert found.kind == "gate"
    torch.testing.assert_close(found.values, pattern.mean(1).expand(2, *SPATIAL[dims]))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    "name",
    [
        "bam",
        "ge",
        "srm",
        "gct",
        "lct",
        "fca",
        "nam",
        "ela",
        "mlca",
        "ca",
        "eca",
        "ema",
        "mpe",
        "se",
        "sge",
        "simam",
        "triplet",
        "cse",
        "sse",
        "scse",
        "pe",
        "lka",
        "lska",
        "lsk",
        "caa",
        "scsa",
    ],
)
@pytest.mark.parametrize("blend", [False, True])
def test_the_map_of_a_gate_is_what_it_does_to_the_features(name: str, dims: int, blend: bool) -> None:
    attention: nn.Module = shaken(create(name, 16, spatial_dims=dims, **OPTIONS.get(name, {})))
    if blend:
        attention = nd.Blend(attention)
        nn.init.constant_(attention.alpha, 0.3)
    x = torch.rand(2, 16, *SPATIAL[dims]) + 0.5
    with torch.no_grad():
        expected = (attention(x) / x).mean(1)
    found = gate_maps(alone(attention), x)["attn"]
    assert found.kind == "gate"
    torch.testing.assert_close(found.values, expected)


def test_attention_that_starts_as_an_identity_gates_by_one() -> None:
    net = inject(resnet3d(10, widen_factor=0.125, stem_size=3), "mpe", groups=2, identity=True)
    for found in gate_maps(net, torch.randn(1, 3, 4, 32, 32)).values():
        torch.testing.assert_close(found.values, torch.ones_like(found.values))


def test_attention_to_each_frame_is_that_of_the_frame() -> None:
    mpe = shaken(create("mpe", 16, groups=4))
    x = torch.rand(2, 16, *SPATIAL[3])
    net = alone(nd.Blend(nd.Frames(mpe)))
    nn.init.ones_(net.attn.alpha)
    maps, (names, weights) = gate_maps(net, x)["attn"].values, branch_weights(net, x)["attn"]
    per_frame = [branch_weights(alone(mpe), x[:, :, t])["attn"][1] for t in range(3)]
    for t in range(3):
        torch.testing.assert_close(maps[:, t], gate_maps(alone(mpe), x[:, :, t])["attn"].values)
    torch.testing.assert_close(weights, torch.stack(per_frame).mean(0))
    assert names == ("dilation 1", "dilation 3", "dilation 5")
    folded = shaken(create("mpe", 16, groups=4, spatial_dims=3, temporal="folded"))
    folded.load_state_dict(mpe.state_dict())
    torch.testing.assert_close(branch_weights(alone(folded), x)["attn"][1], weights)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["a2", "cam", "cbam", "cca", "gc", "nl", "pam", "sa"])
def test_the_gain_of_other_attention_is_the_ratio_of_norms(name: str, dims: int) -> None:
    attention = shaken(create(name, 16, spatial_dims=dims, **OPTIONS.get(name, {})))
    x = torch.rand(2, 16, *SPATIAL[dims]) + 0.5
    with torch.no_grad():
        expected = attention(x).norm(dim=1) / x.norm(dim=1)
    found = gate_maps(alone(attention), x)["attn"]
    assert found.kind == "gain"
    torch.testing.assert_close(found.values, expected, rtol=2e-2, atol=1e-6)


def test_the_gain_where_nothing_comes_in_is_one_and_never_infinite() -> None:
    x = torch.rand(1, 4, 6, 6) + 1
    x[..., :3] = 0
    doubled = gate_maps(alone(Times(2.0)), x)["attn"].values
    torch.testing.assert_close(doubled[..., :3], torch.ones(1, 6, 3))
    torch.testing.assert_close(doubled[..., 3:], torch.full((1, 6, 3), 2.0), rtol=2e-3, atol=0)
    assert gate_maps(alone(Times(1.0, plus=1.0)), torch.zeros(1, 4, 6, 6))["attn"].values.isfinite().all()


@pytest.mark.parametrize("name", ["sk", "epsa", "res2net", "splat", "axial", "bot", "halo", "lambda"])
def test_attention_in_place_of_a_convolution_shows_its_output(name: str) -> None:
    options = {"sk": {"groups": 2}, "epsa": {"groups": (1, 1, 2, 2)}}.get(name, {})
    attention = shaken(create(name, 16, **options))
    x = torch.rand(2, 16, 9, 9)
    found = gate_maps(alone(attention), x)["attn"]
    assert found.kind == "energy"
    with torch.no_grad():
        torch.testing.assert_close(found.values, attention(x).norm(dim=1) / 4)


def test_branch_weights_of_mpe_are_the_softmax_of_its_gate() -> None:
    mpe = create("mpe", 8, groups=2, dilations=(1, 2, 4))
    nn.init.zeros_(mpe.branch_gate.weight)
    nn.init.zeros_(mpe.branch_gate.bias)
    x = torch.randn(3, 8, 6, 6)
    names, weights = branch_weights(alone(mpe), x)["attn"]
    assert names == ("dilation 1", "dilation 2", "dilation 4")
    torch.testing.assert_close(weights, torch.full((3, 3), 1 / 3))
    # The second branch's logit is the mean of the first channel of the group; the two groups are averaged.
    mpe.branch_gate.weight.data[1, 0] = 1
    odds = x.mean((2, 3))[:, [0, 4]].exp()
    expected = torch.stack([1 / (2 + odds), odds / (2 + odds), 1 / (2 + odds)], 2).mean(1)
    torch.testing.assert_close(branch_weights(alone(mpe), x)["attn"][1], expected)


def test_branch_weights_of_other_kinds_of_mpe() -> None:
    x = torch.randn(3, 8, 6, 6)
    static = create("mpe", 8, groups=2, fusion="static")
    static.branch_logits.data = torch.tensor([0.0, 0.0, 2.0]).exp().log1p()
    expected = static.branch_logits.softmax(0).expand(3, 3)
    torch.testing.assert_close(branch_weights(alone(static), x)["attn"][1], expected.detach())
    for options in ({"fusion": "max"}, {"combine": "concat"}):
        assert branch_weights(alone(create("mpe", 8, groups=2, **options)), x) == {}  # nothing is weighed


@pytest.mark.parametrize("dims", [2, 3])
def test_branch_weights_of_sk_and_epsa_are_those_their_output_is_mixed_with(dims: int) -> None:
    """Each branch is made to give a constant that tells it from the others."""
    x = torch.randn(2, 8, *SPATIAL[dims])
    sk = create("sk", 8, spatial_dims=dims, groups=2).eval()
    for k, (branch, _, _) in enumerate(sk.convs):
        nn.init.zeros_(branch.weight)
        nn.init.constant_(branch.bias, k)  # the branches are 0 and 1: the output is the weight of the second
    names, weights = branch_weights(alone(sk), x)["attn"]
    assert names == ("kernel 3", "kernel 5")
    with torch.no_grad():
        torch.testing.assert_close(weights[:, 1], sk(x).flatten(1).mean(1), rtol=1e-4, atol=1e-5)
    epsa = create("epsa", 8, spatial_dims=dims, groups=(1, 1, 1, 1)).eval()
    with torch.no_grad():
        # The branches are concatenated last to first, each times its weights.
        plain = torch.cat([conv(x) for conv in reversed(epsa.convs)], 1)
        mixed = (epsa(x) / plain).flatten(2).mean(2)
    names, weights = branch_weights(alone(epsa), x)["attn"]
    assert names == ("kernel 3", "kernel 5", "kernel 7", "kernel 9")
    torch.testing.assert_close(weights, mixed.unflatten(1, (4, 2)).mean(2).flip(1), rtol=1e-4, atol=1e-5)


def test_a_network_has_a_map_for_each_attention_by_its_own_path() -> None:
    net = inject(resnet3d(10, widen_factor=0.125, stem_size=3), "mpe", groups=2, stages=(2, 3))
    x = torch.randn(2, 3, 8, 32, 32)
    paths = ["layer2.0.conv2.attn", "layer3.0.conv2.attn"]
    maps, branches = gate_maps(net, x), branch_weights(net, x)
    assert list(maps) == list(branches) == paths
    assert [tuple(m.values.shape) for m in maps.values()] == [(2, 2, 4, 4), (2, 1, 2, 2)]
    for _, weights in branches.values():
        torch.testing.assert_close(weights.sum(1), torch.ones(2))
    assert gate_maps(resnet3d(10, widen_factor=0.125, stem_size=3), x) == {}


def small(dims: int) -> nn.Sequential:
    conv, pool = {2: (nn.Conv2d, nn.AdaptiveAvgPool2d), 3: (nn.Conv3d, nn.AdaptiveAvgPool3d)}[dims]
    return nn.Sequential(conv(3, 6, 3), nn.ReLU(), pool(1), nn.Flatten(), nn.Linear(6, 4))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("method", ["hirescam", "gradcam"])
def test_behind_pooling_and_a_linear_map_it_is_the_class_activation_of_zhou(dims: int, method: Any) -> None:
    net, x = small(dims), torch.randn(5, 3, *SPATIAL[dims])
    features = net[:2](x).detach()
    positions = features[0, 0].numel()
    for k in range(4):
        cam = torch.einsum("nc...,c->n...", features, net[-1].weight[k].detach()).relu()
        torch.testing.assert_close(activation_map(net, [x], k, "1", method=method), cam / positions)
    mixed = activation_map(net, [x], torch.tensor([0, 1, 2, 3, 0]), net[1])
    torch.testing.assert_close(mixed[3], activation_map(net, [x], 3, "1")[3])


@pytest.mark.parametrize("layer", ["conv1", "layer1", "layer2.0.conv1", "layer4"])
def test_it_is_what_captum_makes_of_the_same_gradients(layer: str) -> None:
    net = inject(resnet3d(10, num_classes=5, widen_factor=0.125, stem_size=3), "mpe", groups=2).eval()
    x, target = torch.randn(3, 3, 4, 32, 32), torch.tensor([4, 0, 2])
    (whole,) = [m for path, m in net.named_modules() if path.replace("base.", "") == layer]
    averaged = LayerGradCam(net, whole).attribute(x, target=target, relu_attributions=True).detach().squeeze(1)
    products = LayerGradientXActivation(net, whole).attribute(x, target=target).detach().sum(1).relu()
    for theirs, method in ((averaged, "gradcam"), (products, "hirescam")):
        assert theirs.max() > 0
        found = activation_map(net, [x], target, layer, method=method)
        torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-7)


def test_a_function_of_the_output_is_a_target_too() -> None:
    """As in the emotion model: segments in the batch of the layer, and more than one input."""

    class Segments(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small(2)

        def forward(self, x: Tensor, scale: float) -> Tensor:
            logits: Tensor = self.inner(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            return scale * logits

    net, x = Segments(), torch.randn(2, 3, 3, 8, 8)
    found = activation_map(net, [x, 10.0], lambda logits: logits.mean(1)[:, 1], "inner.1")
    torch.testing.assert_close(found, activation_map(net.inner, [x.flatten(0, 1)], 1, "1") * 10 / 3)


def test_frozen_networks_layers_that_write_into_their_input_and_no_grad_are_no_obstacle() -> None:
    net, x = small(2), torch.randn(2, 3, 8, 8)
    expected = activation_map(net, [x], 1, "0")
    frozen = copy.deepcopy(net).requires_grad_(False)
    frozen[1] = nn.ReLU(inplace=True)
    with torch.no_grad():
        torch.testing.assert_close(activation_map(frozen, [x], 1, "0"), expected)
    with torch.inference_mode():
        torch.testing.assert_close(activation_map(frozen, [x], 1, "0"), expected)


def test_maps_are_enlarged_linearly_in_space_and_time() -> None:
    ramp = torch.arange(4.0).reshape(1, 1, 1, 4).expand(1, 2, 3, 4)
    large = enlarge(ramp, (4, 6, 8))
    assert large.shape == (1, 4, 6, 8)
    torch.testing.assert_close(large[0, 1, 2], torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]))


@pytest.mark.parametrize(
    ("size", "least", "expected"), [(112, 7, "layer3"), (112, 4, "layer4"), (56, 7, "layer2"), (24, 13, "relu")]
)
def test_the_layer_is_the_deepest_that_is_not_too_coarse(size: int, least: int, expected: str) -> None:
    net = resnet3d(10, widen_factor=0.0625, stem_size=3)
    assert activation_layer(net, torch.zeros(1, 3, 4, size, size), least=least) == expected


class Moody(nn.Module):
    """A network with all that running it could change; it fails if it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        inject(self, "mpe", where={"conv.1": "after"}, groups=2)
        self.drop, self.fc = nn.Dropout(), nn.Linear(8, 2)
        self.fail = False

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.rand(())  # drawn in eval mode too
        features = self.conv(x) + noise
        if self.fail:
            raise RuntimeError("out of memory")
        logits: Tensor = self.fc(self.drop(features.mean((2, 3))))
        return logits


def condition(net: nn.Module) -> Iterator[Any]:
    """All that may not change."""
    yield torch.get_rng_state().tolist()
    for path, module in net.named_modules():
        yield path, module.training, len(module._forward_hooks), len(module._forward_pre_hooks), sorted(vars(module))
    for name, value in net.state_dict().items():
        yield name, value.tolist()
    for name, parameter in net.named_parameters():
        yield name, parameter.requires_grad, None if parameter.grad is None else parameter.grad.tolist()


LOOKS: list[Callable[[nn.Module, Tensor], object]] = [
    gate_maps,
    branch_weights,
    activation_layer,
    lambda net, x: activation_map(net, [x], 1, "conv"),
]


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("fail", [False, True])
def test_the_network_is_left_as_it_was(look: Callable[[nn.Module, Tensor], object], fail: bool) -> None:
    net, x = Moody().train(), torch.randn(4, 3, 8, 8)
    net(x).sum().backward()
    net.conv[0].eval()  # as frozen parts are
    net.fc.requires_grad_(False)
    before, net.fail = list(condition(net)), fail
    if fail:
        with pytest.raises(RuntimeError, match="out of memory"):
            look(net, x)
    else:
        look(net, x)
    net.fail = False
    assert list(condition(net)) == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_network_is_looked_at_all_the_same(in_place: bool) -> None:
    net = inject(small(2), "mpe", where={"0": "after"}, groups=2).eval()
    x = torch.randn(2, 3, 8, 8)
    expected = gate_maps(net, x)["0.attn"].values, activation_map(net, [x], 1, "1")
    compiled: Any = net if in_place else torch.compile(net, backend="eager")
    if in_place:
        net.compile(backend="eager")
    compiled(x)
    ((path, found),) = gate_maps(compiled, x).items()
    assert path.endswith("0.attn")
    torch.testing.assert_close(found.values, expected[0])
    torch.testing.assert_close(activation_map(compiled, [x], 1, net[1]), expected[1])


@pytest.mark.parametrize(
    ("target", "layer", "message"),
    [
        (4, "1", r"target=4 is no class of an output \(2, 4\); give an index below 4"),
        (-1, "1", r"target=-1 is no class"),
        (0, "1.conv", r"there is no layer '1\.conv': ReLU has no 'conv'; it has none"),
        (0, "9", r"there is no layer '9': Sequential has no '9'; it has 0, 1, 2, 3, 4"),
        (0, "4", r"layer '4' gives no maps \(N, C, \*spatial\) but \(2, 4\)"),
        (0, nn.ReLU(), r"layer ReLU is used 0 times in a forward"),
        (lambda out: torch.zeros(2), "1", r"the output does not depend on layer '1'"),
    ],
)
def test_what_cannot_be_looked_at_is_one_line(target: Any, layer: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        activation_map(small(2), [torch.randn(2, 3, 8, 8)], target, layer)
    assert "\n" not in str(error.value)


def test_a_layer_that_is_used_twice_and_an_unknown_method_are_refused() -> None:
    with pytest.raises(ValueError, match="method='cam' must be one of hirescam, gradcam"):
        activation_map(small(2), [torch.randn(2, 3, 8, 8)], 1, "1", method="cam")
    relu = nn.ReLU()
    net = nn.Sequential(nn.Conv2d(3, 6, 3), relu, nn.Conv2d(6, 6, 3), relu, *small(2)[2:])
    with pytest.raises(ValueError, match="is used 2 times in a forward; choose one that is used once"):
        activation_map(net, [torch.randn(2, 3, 8, 8)], 1, relu)
    with pytest.raises(ValueError, match=r"no child of Linear gives maps"):
        activation_layer(nn.Linear(3, 2), torch.randn(1, 3))
