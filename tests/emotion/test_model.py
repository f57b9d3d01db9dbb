"""The audio-visual model: missing sound, normalisation, freezing, features for pixels, attention of each stream."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import attnzoo
from attnzoo.backbones.resnet3d import resnet3d
from attnzoo.emotion.cost import streams
from attnzoo.emotion.grid import GridRecipe
from attnzoo.emotion.model import AudioVisualModel
from attnzoo.emotion.recipe import Model, Recipe, Stream
from attnzoo.inject import attentions

SMALL: dict[str, Any] = {
    "name": "test",
    "clip": {"segments": 2, "frames": 4, "size": 32},
    "audio": {"coefficients": 12, "mels": 24, "width": 16},
    "model": {
        "visual": {"backbone": "resnet3d/10", "options": {"widen_factor": 0.125, "stem_size": 3}},
        "audio": {"backbone": "timm/resnet10t"},
        "width": 16,
    },
}


def build(seed: int = 0, device: str = "cpu", **settings: Any) -> AudioVisualModel:
    """With the settings of `model` given, those of a stream over its own; and norms that have seen something."""
    parts = copy.deepcopy(SMALL["model"])
    for name, value in settings.items():
        parts[name] = {**parts[name], **value} if name in ("visual", "audio") else value
    recipe = Recipe.model_validate({**SMALL, "model": parts})
    torch.manual_seed(seed)
    with torch.device(device):
        model = AudioVisualModel(recipe.model, recipe.clip, recipe.audio, 3)
    for name, value in model.named_buffers():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return model.eval()


def clips(videos: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    frames = torch.randint(256, (videos, 2, 3, 4, 32, 32), dtype=torch.uint8, generator=generator)
    return frames, 20 * torch.randn(videos, 2, 1, 12, 16, generator=generator)


HEARD = torch.tensor([True, False, True])


def test_what_is_not_heard_has_features_of_zero_and_no_part_in_other_videos() -> None:
    model = build()
    frames, sound = clips()
    features: list[Tensor] = []
    model.fusion.register_forward_pre_hook(lambda _, streams: features.append(streams[1]))
    masked, whole = model(frames, sound, HEARD), model(frames, sound)
    assert torch.equal(features[0][1], torch.zeros(2, 16))
    assert features[0][0].abs().sum() > 0
    torch.testing.assert_close(masked[HEARD], whole[HEARD])
    assert not torch.allclose(masked[1], whole[1])
    torch.testing.assert_close(model(frames, sound, torch.ones(3, dtype=torch.bool)), whole)
    other = sound.clone()
    other[1] = 7.0  # whatever stands where nothing was heard
    torch.testing.assert_close(model(frames, other, HEARD), masked)


def test_silent_videos_leave_the_norms_of_the_sound_alone_in_training() -> None:
    frames, sound = clips()
    sound[1] = 0  # as the loader gives it
    masked, alone, fooled = (build().train() for _ in range(3))
    masked(frames, sound, HEARD)
    alone(frames[HEARD], sound[HEARD])
    fooled(frames, sound)
    norms = [key for key in masked.state_dict() if key.startswith(("audio.", "sound_norm.")) and "running" in key]
    assert "sound_norm.running_var" in norms
    for key in norms:
        torch.testing.assert_close(masked.state_dict()[key], alone.state_dict()[key])
    assert not torch.allclose(masked.sound_norm.running_var, fooled.sound_norm.running_var)  # type: ignore[arg-type]


def test_a_batch_without_any_sound_trains_the_picture_and_touches_all_parameters() -> None:
    model = build().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(*clips(), torch.zeros(3, dtype=torch.bool)).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())  # or DistributedDataParallel waits for ever
    for key, p in model.named_parameters():
        if key.startswith(("audio.", "sound_norm.", "project_audio.")):
            assert not p.grad.any(), key  # type: ignore[union-attr]
    assert model.project_visual.weight.grad.any()  # type: ignore[union-attr, operator]
    for key, value in model.state_dict().items():
        if key.startswith(("audio.", "sound_norm.")):
            assert torch.equal(value, before[key]), key


def test_the_mask_compiles_and_exports() -> None:
    model, inputs = build(attn="se"), (*clips(), HEARD)
    expected = model(*inputs)
    exported = torch.export.export(model, inputs).module()
    torch.testing.assert_close(exported(*inputs), expected)
    torch.testing.assert_close(exported(*inputs[:2], ~HEARD), model(*inputs[:2], ~HEARD))
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(*inputs), expected)


@pytest.mark.parametrize(
    ("normalisation", "black", "white"),
    [
        ("half", (-1, -1, -1), (1, 1, 1)),
        ("kinetics", (-1.5697, -1.4932, -1.3793), (2.0430, 2.1928, 2.2744)),
        ("vaanet", (-0.3922, -0.3922, -0.3922), (0.6078, 0.6078, 0.6078)),
        ("imagenet", (-2.1179, -2.0357, -1.8044), (2.2489, 2.4286, 2.6400)),
        ({"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.1, 1.0]}, (-0.2, -2, -0.3), (1.8, 8, 0.7)),
    ],
)
def test_frames_are_normalised_as_the_weights_want_it(
    normalisation: Any, black: tuple[float, ...], white: tuple[float, ...]
) -> None:
    model = build(visual={"normalisation": normalisation})
    seen: list[Tensor] = []
    model.visual.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for value in (0, 255):
        model(torch.full((1, 2, 3, 4, 32, 32), value, dtype=torch.uint8), clips(1)[1])
    for pixels, expected in zip(seen, (black, white), strict=True):
        assert pixels.shape == (2, 3, 4, 32, 32)
        wanted = torch.tensor(expected, dtype=torch.float32).reshape(3, 1, 1, 1).expand_as(pixels)
        torch.testing.assert_close(pixels, wanted, atol=1e-4, rtol=0)
    fresh = build(seed=1)
    fresh.load_state_dict(model.state_dict())  # it travels with the weights
    assert torch.equal(fresh.mean, model.mean)


def test_a_recipe_writes_a_normalisation_as_it_was_given() -> None:
    numbers = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.1, 1.0]}
    for given in ("half", "vaanet", numbers):
        stream = Stream.model_validate({"backbone": "a/b", "normalisation": given})
        assert stream.model_dump(mode="json")["normalisation"] == given
        assert Stream.model_validate_json(stream.model_dump_json()) == stream


# Freezing.


@pytest.mark.parametrize(
    ("freeze", "gib", "millions"),
    [(None, 27.8, 85.25), (5, 6.0, 82.34), (6, 0.4, 29.12), ("all", 0.0, 0.0)],
)
def test_what_is_frozen_keeps_nothing_for_the_backward_pass(
    freeze: int | str | None, gib: float, millions: float
) -> None:
    """At the paper's sizes: batch 12 of 16 clips through 3D ResNet-101 in fp32."""
    model = build(device="meta", visual={"backbone": "resnet3d/101", "options": {}, "freeze": freeze})
    cost = attnzoo.profile(model.visual, (1, 3, 16, 112, 112))
    assert cost.saved is not None
    assert cost.saved * 12 * 16 / 2**30 == pytest.approx(gib, abs=0.1)
    assert cost.trainable / 1e6 == pytest.approx(millions, abs=0.01)


def saved(model: AudioVisualModel) -> int:
    """Bytes of what the visual ResNet really keeps, without the parameters."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model.train().visual_features(clips()[0]).sum()
    return sum(kept.values())


def test_attention_in_frozen_layers_is_trained_and_costs_the_memory_from_there_on() -> None:
    frozen: dict[str, Any] = {"visual": {"freeze": 5}}
    plain, late, early = (
        build(**frozen, attn=attn)
        for attn in ("none", {"name": "se", "stages": [3, 4]}, {"name": "se", "stages": [1, 2]})
    )
    assert not any(p.requires_grad for p in plain.visual.layer2.parameters())  # type: ignore[operator, union-attr]
    assert sum(p.requires_grad for p in early.visual.layer2.parameters()) == 2  # type: ignore[operator, union-attr]
    assert saved(plain) < saved(build()) / 2
    assert saved(plain) < saved(late) < saved(early) < saved(build(attn="se"))


@pytest.mark.parametrize("attn", ["none", "se"])
def test_a_stream_frozen_as_a_whole_neither_learns_nor_drifts(attn: str) -> None:
    model = build(visual={"freeze": "all"}, audio={"freeze": "all"}, attn=attn).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    model(*clips(), HEARD).square().sum().backward()
    optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert {"project_visual.weight", "project_audio.weight", "classifier.weight"} <= changed
    learnt = {key for key in changed if key.startswith(("visual.", "audio.", "sound_norm."))}
    assert all(".attn." in key for key in learnt)
    assert bool(learnt) == (attn == "se")


def test_the_frames_of_a_frozen_stream_still_have_a_gradient_for_who_asks() -> None:
    model = build(visual={"freeze": "all"})
    frames, sound = clips()
    pixels = frames.float().requires_grad_()
    model(pixels, sound).sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().sum() > 0


def test_a_frozen_audio_stream_normalises_each_video_on_its_own() -> None:
    model = build(audio={"freeze": "all"})
    _, sound = clips()
    features = model.audio_features(sound)
    scale, offset = torch.rand(12, 1) + 1, torch.randn(12, 1)  # of each coefficient, as another microphone has it
    torch.testing.assert_close(model.audio_features(sound * scale + offset), features, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(model.audio_features(sound[:1]), features[:1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.train().audio_features(sound), features, rtol=1e-4, atol=1e-5)


# Features in place of pixels and maps.


@pytest.mark.parametrize("heard", [None, HEARD])
@pytest.mark.parametrize("training", [False, True])
def test_features_stand_for_what_they_are_made_of(heard: Tensor | None, training: bool) -> None:
    model = build(visual={"freeze": "all"}, audio={"freeze": "all"}).train(training)
    frames, sound = clips()
    visual, audio = model.visual_features(frames), model.audio_features(sound)
    assert (visual.shape, audio.shape) == ((3, 2, 64), (3, 2, 512))
    expected = model(frames, sound, heard)
    for inputs in ((visual, sound), (frames, audio), (visual, audio)):
        torch.testing.assert_close(model(*inputs, heard), expected, rtol=1e-4, atol=1e-5)


def test_a_stream_of_the_common_width_is_not_projected() -> None:
    model = build(width=64)
    assert [type(p).__name__ for p in (model.project_visual, model.project_audio)] == ["Identity", "Linear"]


# Attention of each stream.


@pytest.mark.parametrize(
    ("settings", "visual", "audio"),
    [
        ({}, None, None),
        ({"attn": "se"}, "SqueezeExcitation", "SqueezeExcitation"),
        ({"attn": {"name": "se", "streams": ["visual"]}}, "SqueezeExcitation", None),
        ({"attn": "se", "audio_attn": None}, "SqueezeExcitation", "SqueezeExcitation"),
        ({"attn": "se", "audio_attn": "eca"}, "SqueezeExcitation", "EfficientChannelAttention"),
        ({"attn": "se", "audio_attn": "none"}, "SqueezeExcitation", None),
        ({"audio_attn": "se"}, None, "SqueezeExcitation"),
        ({"attn": {"name": "se", "streams": ["audio"]}, "audio_attn": "eca"}, None, "EfficientChannelAttention"),
        ({"attn": {"name": "se", "dims": 2}}, "Frames", "SqueezeExcitation"),
    ],
)
def test_each_stream_has_its_attention_flag(settings: dict[str, Any], visual: str | None, audio: str | None) -> None:
    model = build(device="meta", **settings)
    for name, expected in (("visual", visual), ("audio", audio)):
        found = {type(attn).__name__ for attn in attentions(model.get_submodule(name)).values()}
        assert found == ({expected} if expected else set())
    assert Model.model_validate_json(Recipe.model_validate(SMALL).model.model_dump_json()).audio_attn is None


def test_the_cost_is_that_of_what_the_model_has() -> None:
    model = {**SMALL["model"], "attn": {"name": "se", "dims": 2}, "audio_attn": "eca"}
    (visual, audio) = streams(Recipe.model_validate({**SMALL, "model": model}))
    assert [(a.name, a.spatial_dims) for a in (*visual.attns, *audio.attns)] == [("se", 2), ("eca", None)]
    folded = visual.attns[0].put_into(visual.network)
    assert {type(attn).__name__ for attn in attentions(folded).values()} == {"Frames"}
    (visual, audio) = streams(GridRecipe.model_validate({**SMALL, "model": model, "grid": {"attn": ["none", "se"]}}))
    assert [a.name for a in visual.attns] == ["se"]
    assert [a.name for a in audio.attns] == ["eca"]


# Weights.


def test_the_shortcut_of_the_weights_stays_with_the_recipe(tmp_path: Path) -> None:
    """A checkpoint's model is built from the recipe alone, without the file that the training started from."""
    source = resnet3d(18, num_classes=400, shortcut="A", widen_factor=0.125)
    file = tmp_path / "resnet-18-kinetics.pth"
    torch.save({"arch": "resnet-18", "state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}, file)
    visual = {"backbone": "resnet3d/18", "options": {"widen_factor": 0.125}, "weights": str(file)}
    recipe = Recipe.model_validate({**SMALL, "model": {**SMALL["model"], "visual": visual}})
    model = AudioVisualModel(recipe.model, recipe.clip, recipe.audio, 3)
    for key, value in source.state_dict().items():
        if not key.startswith("fc."):
            assert torch.equal(model.visual.state_dict()[key], value)
    file.unlink()
    stored = Recipe.model_validate_json(recipe.model_dump_json())
    again = AudioVisualModel(stored.model.without_weights(), stored.clip, stored.audio, 3)
    again.load_state_dict(model.state_dict())


def test_weights_that_are_none_are_refused_where_the_recipe_names_them(tmp_path: Path) -> None:
    (tmp_path / "page.pth").write_text("<html>Quota exceeded</html>")
    with pytest.raises(ValueError, match=r"page\.pth is not a file of weights that can be read safely"):
        Stream(backbone="resnet3d/18", weights=tmp_path / "page.pth")
