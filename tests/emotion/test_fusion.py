"""The fusions and losses against their equations, written out once more here in NumPy, and against published sizes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from attnzoo.backbones import create_backbone
from attnzoo.emotion import fusion
from attnzoo.emotion.losses import Loss, PolarityConsistent, create_loss
from attnzoo.emotion.model import AudioVisualModel, check
from attnzoo.emotion.recipe import Model, Recipe

Array = NDArray[np.float64]

B, T, D = 3, 5, 8
SMALL: dict[str, dict[str, Any]] = {
    "concat": {},
    "cross_attention": {"hidden": 6, "heads": 2},
    "cten": {"inner": 3, "heads": 2},
    "dfan_style": {"hidden": 3},
    "gmu": {"hidden": 6},
    "lmf": {"hidden": 6, "rank": 3},
    "tfn": {"hidden": 3, "post": 4, "dropout": 0.0},
    "vaanet": {"hidden": 6},
}
WIDTHS = {"concat": 8, "cross_attention": 12, "cten": 16, "dfan_style": 16, "gmu": 6, "lmf": 6, "tfn": 4, "vaanet": 14}
ANY_T = sorted({*SMALL} - {"cten", "vaanet"})

every = pytest.mark.parametrize("name", sorted(SMALL))


def make(name: str, segments: int = T, **options: Any) -> fusion.Fusion:
    """In float64 and eval mode, all parameters and running statistics drawn at random."""
    torch.manual_seed(0)
    module = fusion.create(name, D, segments, **{**SMALL[name], **options}).double().eval()
    for key, value in module.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif value.is_floating_point():
            value.normal_(0, 0.7)
    return module


def inputs(segments: int = T, batch: int = B) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    visual, audio = torch.randn(2, batch, segments, D, dtype=torch.float64, generator=generator)
    return visual, audio


# The equations, for one video: v and a are (T, d), p holds the parameters.


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max())
    return np.asarray(e / e.sum())


class P:
    """Parameters below a prefix, and the layers made of them."""

    def __init__(self, state: dict[str, Array], prefix: str = "") -> None:
        self.state, self.prefix = state, prefix

    def __getitem__(self, name: str) -> Array:
        return self.state[self.prefix + name]

    def of(self, name: str) -> "P":
        return P(self.state, f"{self.prefix}{name}.")

    def linear(self, name: str, x: Array) -> Array:
        bias = self.state.get(f"{self.prefix}{name}.bias", 0.0)
        return np.asarray(np.einsum("oi,ti->to", self[f"{name}.weight"], x) + bias)

    def norm(self, name: str, x: Array) -> Array:
        q = self.of(name)
        scale = q["weight"] / np.sqrt(q["running_var"] + 1e-5)
        return np.asarray((x - q["running_mean"]) * scale + q["bias"])


def concat(p: P, v: Array, a: Array) -> Array:
    return relu(p.linear("mix.0", np.concatenate([v, a], 1)))


def gmu(p: P, v: Array, a: Array) -> Array:
    z = 1 / (1 + np.exp(-p.linear("gate", np.concatenate([v, a], 1))))
    return np.asarray(z * np.tanh(p.linear("visual", v)) + (1 - z) * np.tanh(p.linear("audio", a)))


def tfn(p: P, v: Array, a: Array) -> Array:
    for layer in (0, 2, 4):
        v, a = relu(p.linear(f"visual.{layer}", v)), relu(p.linear(f"audio.{layer}", a))
    z = np.stack([np.outer([*v_t, 1.0], [*a_t, 1.0]).reshape(-1) for v_t, a_t in zip(v, a, strict=True)])
    return relu(p.linear("post.2", relu(p.linear("post.0", z))))


def lmf(p: P, v: Array, a: Array) -> Array:
    """With the whole tensor W (hidden, d + 1, d + 1) that the factors stand for, on the outer product."""
    hidden, rank = SMALL["lmf"]["hidden"], SMALL["lmf"]["rank"]
    w_v, w_a = (
        np.concatenate([p[f"{m}.weight"], p[f"{m}.bias"][:, None]], 1).reshape(rank, hidden, D + 1)
        for m in ("visual", "audio")
    )
    tensor = sum(np.einsum("hi,hj->hij", w_v[r], w_a[r]) for r in range(rank))
    products = [np.outer([*v_t, 1.0], [*a_t, 1.0]) for v_t, a_t in zip(v, a, strict=True)]
    return np.stack([np.einsum("hij,ij->h", tensor, z) for z in products])


def heads(p: P, query: Array, other: Array, f: Callable[[Array], Array]) -> Array:
    """Two heads, segment by segment."""
    q, k, v = f(p.linear("query", query)), f(p.linear("key", other)), f(p.linear("value", other))
    size = q.shape[1] // 2
    out = np.zeros_like(q)
    for part in (slice(0, size), slice(size, None)):
        for t in range(len(q)):
            attention = softmax(np.array([q[t, part] @ k[s, part] / np.sqrt(size) for s in range(len(k))]))
            out[t, part] = sum(attention[s] * v[s, part] for s in range(len(k)))
    return f(p.linear("out", out))


def cross_attention(p: P, v: Array, a: Array) -> Array:
    v, a = p.linear("project_visual", v), p.linear("project_audio", a)
    v_new = v + heads(p.of("visual_reads"), v, a, lambda x: x)
    return np.concatenate([v_new, a + heads(p.of("audio_reads"), a, v, lambda x: x)], 1)


def temporal(p: P, x: Array) -> Array:
    scores = np.tanh(p.norm("bn", p.linear("score", x)))[:, 0]
    return relu(p["mix.weight"] @ scores + p["mix.bias"])


def vaanet(p: P, v: Array, a: Array) -> Array:
    v = relu(p.norm("reduce_bn", p.linear("reduce", v)))
    v = np.stack([v_t * len(v_t) * softmax(p["channels.weight"] @ np.tanh(v_t)) for v_t in v])
    a = np.tanh(p.norm("audio_bn", a))
    streams = ((v, p.of("visual_weights")), (a, p.of("audio_weights")))
    return np.concatenate([x * temporal(q, x)[:, None] for x, q in streams], 1)


def non_local(p: P, x: Array) -> Array:
    theta, phi, g = (p.linear(name, x) for name in ("theta", "phi", "g"))
    read = np.stack([softmax(phi @ theta[t] / np.sqrt(theta.shape[1])) @ g for t in range(len(x))])
    return p.norm("bn", p.linear("out", read)) + p["alpha"] * x


def cten_parts(p: P, v: Array, a: Array) -> tuple[Array, Array]:
    v, a = non_local(p.of("visual_intra"), v), non_local(p.of("audio_intra"), a)
    v_new, a_new = v + heads(p.of("audio_asks"), a, v, relu), a + heads(p.of("visual_asks"), v, a, relu)
    joined = np.concatenate([v_new, a_new], 1)
    return joined, temporal(p.of("weights"), joined)


def cten(p: P, v: Array, a: Array) -> Array:
    joined, weights = cten_parts(p, v, a)
    return np.asarray(joined * weights[:, None])


def dfan_style(p: P, v: Array, a: Array) -> Array:
    attended = []
    for name, x in (("visual", v), ("audio", a)):
        e = p.linear(f"{name}.2", np.tanh(p.linear(f"{name}.0", x)))[:, 0]
        attended.append(x * softmax(e)[:, None] * len(x))
    return np.concatenate(attended, 1)


EQUATIONS: dict[str, Callable[[P, Array, Array], Array]] = {
    "concat": concat,
    "cross_attention": cross_attention,
    "cten": cten,
    "dfan_style": dfan_style,
    "gmu": gmu,
    "lmf": lmf,
    "tfn": tfn,
    "vaanet": vaanet,
}


def parameters(module: nn.Module) -> P:
    return P({key: value.numpy() for key, value in module.state_dict().items()})


def test_every_fusion_is_tested() -> None:
    assert fusion.list_fusions() == sorted(SMALL) == sorted(EQUATIONS)


@every
@pytest.mark.parametrize("segments", [1, T])
def test_is_its_equation(name: str, segments: int) -> None:
    module = make(name, segments)
    visual, audio = inputs(segments)
    out = module(visual, audio).detach()
    assert out.shape == (B, segments, WIDTHS[name]) == (B, segments, module.out_features)
    expected = [EQUATIONS[name](parameters(module), *x) for x in zip(visual.numpy(), audio.numpy(), strict=True)]
    torch.testing.assert_close(out, torch.tensor(np.stack(expected)), rtol=1e-10, atol=1e-12)
    assert out.abs().max() > 0


@pytest.mark.parametrize("name", ["cten", "vaanet"])
def test_trains_with_the_statistics_of_all_segments_of_the_batch(name: str) -> None:
    """The batch norms see videos and segments alike: running them in eval mode with those statistics is the same."""
    module = make(name)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            part.momentum = 1.0
    visual, audio = inputs()
    trained = module.train()(visual, audio)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):  # running variances are unbiased, those of the batch are not
            assert part.running_var is not None
            part.running_var *= (B * T - 1) / (B * T)
    torch.testing.assert_close(module.eval()(visual, audio), trained, rtol=1e-9, atol=1e-9)


@every
def test_gradients(name: str) -> None:
    module = make(name, 2)
    visual, audio = (x.requires_grad_() for x in inputs(2, 2))
    assert torch.autograd.gradcheck(module, (visual, audio))
    module(visual, audio).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@every
def test_videos_do_not_see_each_other_and_segments_only_where_the_fusion_says(name: str) -> None:
    module, order = make(name), torch.tensor([2, 0, 1])
    visual, audio = inputs()
    out = module(visual, audio)
    torch.testing.assert_close(module(visual[order], audio[order]), out[order])
    torch.testing.assert_close(module(visual[:1], audio[:1]), out[:1])
    if name in ANY_T:  # all of them treat segments alike
        back = torch.arange(T).flip(0)
        torch.testing.assert_close(module(visual[:, back], audio[:, back]), out[:, back])
    local = torch.allclose(module(visual[:, :1], audio[:, :1]), out[:, :1]) if name in ANY_T else False
    assert local == (name in {"concat", "gmu", "lmf", "tfn"})


@every
def test_trains_from_its_default_options(name: str) -> None:
    torch.manual_seed(0)
    module = fusion.create(name, 16, 4).train()
    assert all(value == fusion.spec(name).options[option] for option, value in fusion.spec(name).options.items())
    out = torch.cat(module.passes(torch.randn(2, 4, 16), torch.randn(2, 4, 16)))
    assert out.isfinite().all()
    out.square().sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_starts_where_the_papers_do() -> None:
    for name in ("cten", "vaanet"):
        for key, value in fusion.create(name, D, T, **SMALL[name]).state_dict().items():
            if key.endswith("weights.mix.bias"):
                assert value.tolist() == [1.0] * T
            if key.endswith("alpha"):
                assert value.item() == 0


@every
def test_one_pass_but_for_erasing(name: str) -> None:
    module = make(name)
    first, *erased = module.passes(*inputs())
    torch.testing.assert_close(first, module(*inputs()))
    assert len(erased) == (2 if name == "cten" else 0)


@pytest.mark.parametrize("theta", [0.7, 0.2])
def test_cten_erases_the_segments_on_either_side_of_the_threshold(theta: float) -> None:
    module = make("cten", theta=theta)
    visual, audio = inputs()
    _, below, above = module.passes(visual, audio)
    p = parameters(module)
    sides = []
    for video, (v, a) in enumerate(zip(visual.numpy(), audio.numpy(), strict=True)):
        weights = cten_parts(p, v, a)[1]
        threshold = theta * weights.max() + (1 - theta) * weights.min()
        for out, chosen in ((below, weights < threshold), (above, weights >= threshold)):
            kept = [t for t in range(T) if chosen[t]]
            sides.append(len(kept))
            stretched = [kept[t * len(kept) // T] for t in range(T)]
            expected = cten(p, v[stretched], a[stretched])
            np.testing.assert_allclose(out[video].detach().numpy(), expected, rtol=1e-10, atol=1e-12)
    assert set(sides) - {T}, "nothing was erased"


def test_cten_keeps_all_segments_where_none_is_below_the_threshold() -> None:
    module = make("cten", 1)
    for out in module.passes(*inputs(1)):
        torch.testing.assert_close(out, module(*inputs(1)))


def count(modules: nn.Module | Sequence[nn.Module]) -> int:
    return sum(p.numel() for m in ([modules] if isinstance(modules, nn.Module) else modules) for p in m.parameters())


@pytest.mark.parametrize(
    ("name", "options", "exact", "millions"),
    [
        ("gmu", {"hidden": 128}, 4 * 2048 * 128, "1.05"),
        ("gmu", {"hidden": 256}, 4 * 2048 * 256, "2.10"),
        ("gmu", {"hidden": 512}, 4 * 2048 * 512, "4.19"),
        ("tfn", {"hidden": 32}, 2 * (2049 * 32 + 2 * 33 * 32) + (33**2 + 1) * 128 + 129 * 128, "0.29"),
        ("tfn", {"hidden": 64}, 2 * (2049 * 64 + 2 * 65 * 64) + (65**2 + 1) * 128 + 129 * 128, "0.84"),
        ("tfn", {"hidden": 128}, 2 * (2049 * 128 + 2 * 129 * 128) + (129**2 + 1) * 128 + 129 * 128, "2.74"),
        ("lmf", {}, 2 * 4 * 2049 * 128, "2.10"),
        ("cross_attention", {"hidden": 512}, 2 * 2049 * 512 + 2 * 4 * 513 * 512, "4.20"),
    ],
)
def test_has_the_parameters_that_are_published_at_2048(
    name: str, options: dict[str, int], exact: int, millions: str
) -> None:
    with torch.device("meta"):
        parameters = count(fusion.create(name, 2048, 16, **options))
    assert parameters == exact
    assert f"{parameters / 1e6:.2f}" == millions


def test_concat_unmixed_is_the_baseline_of_the_literature() -> None:
    visual, audio = inputs()
    joined = torch.cat([visual, audio], 2)
    assert torch.equal(make("concat", mix=False)(visual, audio), joined)
    fused = fusion.create("concat", 2048, 16, mix=False)
    assert count([fused, nn.Linear(fused.out_features, 8)]) == 32_776


def test_vaanet_and_cten_have_the_parameters_of_their_parts() -> None:
    """emotion.md 1.4; what they train besides stands outside the fusion: the audio ResNet-18 and its projection."""
    with torch.device("meta"):
        vaanet, cten = fusion.create("vaanet", 2048, 16), fusion.create("cten", 2048, 16)
        resnet = create_backbone("timm/resnet18", num_classes=0, in_channels=1)
        project, wide = nn.Linear(512, 256), nn.Linear(512, 2048)
    parts = dict(vaanet.named_children())
    reduce, channels = count(parts.pop("reduce")), count(parts.pop("channels"))
    assert (reduce, channels) == (2048 * 512, 512 * 512)
    assert count(list(parts.values())) < 10_000
    assert f"{(count(vaanet) + count(project) + count(resnet)) / 1e6:.2f}" == "12.62"

    parts = dict(cten.named_children())
    assert f"{count([parts['audio_asks'], parts['visual_asks']]) / 1e6:.2f}" == "33.57"
    assert f"{count([parts['visual_intra'], parts['audio_intra']]) / 1e6:.1f}" == "4.2"
    assert f"{(count(cten) + count(wide)) / 1e6:.1f}" == "38.8"
    assert f"{(count(cten) + count(wide) + count(resnet)) / 1e6:.1f}" == "50.0"


# The registry.


@pytest.fixture
def mine() -> Iterator[type[fusion.Fusion]]:
    @fusion.register("mine", paper="this test", year=2026)
    class Mine(fusion.Fusion):
        """Sum."""

        def __init__(self, width: int, segments: int, *, scale: float = 1.0) -> None:
            super().__init__(width, segments, width)
            self.scale = scale

        def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
            return self.scale * (visual + audio)

    yield Mine
    if "mine" in fusion.list_fusions():
        fusion.unregister("mine")


def test_a_fusion_of_ones_own_goes_by_its_name_too(mine: type[fusion.Fusion]) -> None:
    assert fusion.spec("mine").options == {"scale": 1.0}
    assert (fusion.spec("mine").idea, fusion.spec("mine").year) == ("Sum.", 2026)
    visual, audio = inputs()
    torch.testing.assert_close(fusion.create("mine", D, T, scale=2.0)(visual, audio), 2 * (visual + audio))
    assert Model(fusion={"name": "mine", "options": {"scale": 3.0}}).fusion.options == {"scale": 3.0}
    assert fusion.register("mine")(mine) is mine  # a notebook's cell run again
    with pytest.raises(ValueError, match=r"fusion name 'mine' is taken by .*Mine; register .*GMU under another name"):
        fusion.register("mine")(fusion.GMU)
    fusion.unregister("mine")
    assert "mine" not in fusion.list_fusions()


def test_every_registered_fusion_says_what_it_is() -> None:
    for name in fusion.list_fusions():
        found = fusion.spec(name)
        assert found.paper
        assert found.year
        assert found.idea.endswith(".")
    assert "reconstruction" in fusion.spec("dfan_style").idea


@pytest.mark.parametrize(
    ("error", "call", "message"),
    [
        (ValueError, lambda: fusion.create("gmo", D, T), r"no fusion is called 'gmo'; did you mean gmu\?"),
        (ValueError, lambda: fusion.create("zzzzzz", D, T), "no fusion is called 'zzzzzz'; there are concat, cross_a"),
        (ValueError, lambda: fusion.unregister("zzzzzz"), "no fusion is called 'zzzzzz'"),
        (ValueError, lambda: fusion.register("My GMU"), "fusion name 'My GMU' must be lower case"),
        (
            TypeError,
            lambda: fusion.create("lmf", D, T, ranks=2),
            r"lmf has no option 'ranks'; did you mean rank\? valid: hidden, rank",
        ),
        (TypeError, lambda: fusion.create("concat", D, T, hidden=2), "concat has no option 'hidden'; valid: mix"),
        (TypeError, lambda: fusion.create("lmf", D, T, rank="4"), "rank='4' of lmf must be an integer"),
        (ValueError, lambda: fusion.create("lmf", D, T, rank=0), "rank=0 must be positive"),
        (ValueError, lambda: fusion.create("gmu", D, T, hidden=0), "hidden=0 must be positive"),
        (ValueError, lambda: fusion.create("cross_attention", D, T, heads=3), "heads=3 must divide the width 8"),
        (ValueError, lambda: fusion.create("cten", D, T, theta=1.5), "theta=1.5 must be from 0 to 1"),
        (ValueError, lambda: make("vaanet")(*inputs(4)), "was made for 5 segments, not for 4"),
        (ValidationError, lambda: Model(fusion="gmo"), r"fusion[\s\S]*no fusion is called 'gmo'; did you mean gmu\?"),
        (
            ValidationError,
            lambda: Model(fusion={"name": "gmu", "options": {"hiden": 4}}),
            r"fusion[\s\S]*gmu has no option 'hiden'; did you mean hidden\? valid: hidden",
        ),
    ],
)
def test_refuses(error: type[Exception], call: Callable[[], object], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# In the model.

RECIPE: dict[str, Any] = {
    "name": "test",
    "clip": {"segments": 2, "frames": 4, "size": 32},
    "audio": {"coefficients": 12, "mels": 24, "width": 16},
    "model": {
        "visual": {"backbone": "resnet3d/10", "options": {"widen_factor": 0.125, "stem_size": 3}},
        "audio": {"backbone": "timm/resnet10t"},
        "width": D,
    },
}


def build(name: str) -> AudioVisualModel:
    chosen = {"name": name, "options": SMALL[name]}
    recipe = Recipe.model_validate({**RECIPE, "model": {**RECIPE["model"], "fusion": chosen}})
    check(recipe)
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    return AudioVisualModel(recipe.model, recipe.clip, recipe.audio, 3)


@pytest.mark.parametrize("name", ["cross_attention", "cten", "gmu"])
def test_the_recipe_chooses_the_fusion(name: str) -> None:
    model = build(name).eval()
    frames, sound = torch.zeros(2, 2, 3, 4, 32, 32, dtype=torch.uint8), torch.randn(2, 2, 1, 12, 16)
    assert type(model.fusion) is fusion.spec(name).cls
    assert model.classifier.in_features == WIDTHS[name]
    first, *rest = model.passes(frames, sound)
    torch.testing.assert_close(first, model(frames, sound))
    assert first.shape == (2, 2, 3)
    assert len(rest) == (2 if name == "cten" else 0)


def test_the_default_and_its_checkpoints_are_as_they_were() -> None:
    recipe = Recipe.model_validate(RECIPE)
    assert recipe.model.fusion.name == "concat"
    # Written as a bare name, so that the ids of stored runs stay too.
    assert recipe.model_dump(mode="json")["model"]["fusion"] == "concat"
    with torch.device("meta"):
        model = AudioVisualModel(recipe.model, recipe.clip, recipe.audio, 3)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items() if key.startswith(("fus", "class"))}
    assert shapes == {
        "fusion.mix.0.weight": (D, 2 * D),
        "fusion.mix.0.bias": (D,),
        "classifier.weight": (3, D),
        "classifier.bias": (3,),
    }


def test_check_refuses_a_fusion_that_does_not_fit_the_width() -> None:
    chosen = {"name": "cten", "options": {"heads": 5}}
    with pytest.raises(ValueError, match="heads=5 must divide the width 8"):
        check(Recipe.model_validate({**RECIPE, "model": {**RECIPE["model"], "fusion": chosen}}))


# The losses.

CLASSES = ("anger", "joy", "sadness", "surprise")
POLARITY = {"joy": "positive", "surprise": "positive", "anger": "negative", "sadness": "negative"}


def settings(**changes: Any) -> Loss:
    return Loss.model_validate({"name": "polarity", "polarity": POLARITY, **changes})


@pytest.mark.parametrize("penalty", [0.0, 0.5, 2.0])
def test_the_polarity_loss_is_its_equation(penalty: float) -> None:
    logits = torch.randn(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 4
    total, crossed = 0.0, 0
    for row, label in zip(logits.numpy(), labels.tolist(), strict=True):
        differs = POLARITY[CLASSES[int(row.argmax())]] != POLARITY[CLASSES[label]]
        crossed += differs
        total += (1 + penalty * differs) * -np.log(softmax(row)[label])
    assert 5 < crossed < 35
    loss = create_loss(settings(penalty=penalty), CLASSES).double()
    assert loss(logits, labels).item() == pytest.approx(total / 40, rel=1e-12)
    if not penalty:
        torch.testing.assert_close(loss(logits, labels), create_loss(Loss(), CLASSES)(logits, labels))


def test_the_polarity_loss_has_gradients_of_the_weighted_cross_entropy_and_no_state() -> None:
    loss = PolarityConsistent([False, True, False, True]).double()
    logits = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.arange(6) % 4
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), logits)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(loss(logits[order], labels[order]), loss(logits, labels))
    assert loss.state_dict() == {}
    expected = [[1, 1.5, 1, 1.5], [1.5, 1, 1.5, 1]] * 2
    assert loss.weights.tolist() == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: create_loss(settings(), (*CLASSES, "fear")),
            "anger, joy, sadness, surprise, fear: missing fear; as",
        ),
        (lambda: create_loss(settings(), CLASSES[:2]), "of the classes anger, joy: no such class surprise, sadness"),
        (lambda: settings(polarity={"joy": "neutral"}), r"polarity\.joy"),
        (lambda: settings(penalty=-1), "penalty"),
        (lambda: Loss.model_validate({"name": "focal"}), "'cross_entropy' or 'polarity'"),
    ],
)
def test_refuses_a_loss(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
