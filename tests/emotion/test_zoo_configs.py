"""The recipes for the paper's model and its rivals: they fit together, have the published sizes, and train."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attnzoo.emotion.grid import GridRecipe
from attnzoo.emotion.losses import create_loss
from attnzoo.emotion.model import AudioVisualModel, check
from attnzoo.emotion.recipe import Recipe
from attnzoo.recipes import load

FOLDER = Path(__file__).parents[2] / "zoo_configs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem not in ("table1", "images"))
VE8 = ("Anger", "Anticipation", "Disgust", "Fear", "Joy", "Sadness", "Surprise", "Trust")
EQUAL = ("ve8_concat", "ve8_cross_attention", "ve8_dfan_style", "ve8_gmu", "ve8_lmf", "ve8_tfn")


def recipe_of(name: str) -> Recipe:
    return load(name, GridRecipe).single()


def build(name: str, classes: int = 8) -> AudioVisualModel:
    recipe = recipe_of(name)
    with torch.device("meta"):
        return AudioVisualModel(recipe.model.without_weights(), recipe.clip, recipe.audio, classes)


def count(*modules: nn.Module, trained: bool = False) -> int:
    return sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad or not trained)


@pytest.mark.parametrize("name", NAMES)
def test_the_model_takes_the_clips(name: str) -> None:
    recipe = recipe_of(name)
    check(recipe)
    assert recipe.name == name
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    assert lines[0].startswith("# ")
    assert max(map(len, lines)) <= 130


def mpe(planes_to_blocks: dict[int, int], squares: int) -> int:
    """Parameters of MPE with 8 groups before the last convolution of each bottleneck."""
    return sum(n * (squares * (p // 8) ** 2 + 10 * (p // 8) + 3) for p, n in planes_to_blocks.items())


@pytest.mark.parametrize(("name", "classes"), [("ve8_mpe", 8), ("ekman6_mpe", 6)])
def test_the_papers_model_has_the_published_size(name: str, classes: int) -> None:
    model = build(name, classes)
    visual, audio = mpe({64: 3, 128: 4, 256: 23, 512: 3}, 85), mpe({64: 3, 128: 4, 256: 6, 512: 3}, 31)
    assert f"{count(model.visual) / 1e6:.3f}" == f"{89.225 - 0.8196:.3f}"  # without the head of 400 classes
    assert visual == 3_160_019
    assert count(model.visual, trained=True) == 82_342_912 + visual  # in the frozen layers too
    assert f"{(count(model.audio) - audio) / 1e6:.2f}" == "23.50"
    assert count(model.project_visual, model.project_audio) == 2 * (2048 * 512 + 512)
    assert count(model.fusion, model.classifier) == 1024 * 512 + 512 + 513 * classes


@pytest.mark.parametrize(
    ("name", "exact", "published"),
    [
        ("ve8_concat", 32_776 - 8 * 4097, "0.00"),
        ("ve8_gmu", 4 * 2048 * 512, "4.19"),
        ("ve8_tfn", 2 * (2049 * 32 + 2 * 33 * 32) + (33**2 + 1) * 128 + 129 * 128, "0.29"),
        ("ve8_lmf", 2 * 4 * 2049 * 128, "2.10"),
        ("ve8_cross_attention", 2 * 2049 * 512 + 2 * 4 * 513 * 512, "4.20"),
        ("ve8_dfan_style", 2 * (2049 * 256 + 256), "1.05"),
    ],
)
def test_rivals_on_equal_terms_differ_in_the_fusion_alone(name: str, exact: int, published: str) -> None:
    model, recipe, paper = build(name), recipe_of(name), recipe_of("ve8_mpe")
    assert name in EQUAL
    assert count(model.fusion) == exact
    assert f"{exact / 1e6:.2f}" == published
    assert count(model.project_visual, model.project_audio) == 0
    assert count(model.classifier) == 8 * (model.fusion.out_features + 1)  # type: ignore[operator]
    assert (recipe.data, recipe.clip, recipe.audio, recipe.training) == (
        paper.data,
        paper.clip,
        paper.audio,
        paper.training,
    )
    assert (recipe.model.visual, recipe.model.audio, recipe.model.attn.name) == (
        paper.model.visual,
        paper.model.audio,
        "none",
    )
    assert count(model.visual, trained=True) == 82_342_912


def test_the_baseline_is_the_published_one() -> None:
    model = build("ve8_concat")
    assert count(model.fusion, model.classifier) == 32_776


@pytest.mark.parametrize(("name", "fusion", "rest"), [("ve8_vaanet", 1.32, 12.22), ("ve8_cten", 37.78, 12.22)])
def test_whole_methods_train_what_their_authors_do(name: str, fusion: float, rest: float) -> None:
    """The frozen 3D ResNet-101; 2D ResNet-18 (11.17) and its projection to 2048 (1.05)."""
    model = build(name)
    assert count(model.visual, trained=True) == 0
    assert count(model.project_visual) == 0
    assert count(model.fusion) / 1e6 == pytest.approx(fusion, abs=0.01)
    assert count(model.audio, model.project_audio) / 1e6 == pytest.approx(rest, abs=0.01)
    if name == "ve8_cten":
        assert f"{(count(model.fusion, model.project_audio)) / 1e6:.1f}" == "38.8"
        assert f"{(count(model.fusion, model.audio, model.project_audio)) / 1e6:.1f}" == "50.0"
    else:  # the published 12.62 has a projection of the sound to 256
        assert count(model, trained=True) / 1e6 - (2048 - 256) * 513 / 1e6 == pytest.approx(12.62, abs=0.03)


def test_vaanets_polarities_are_for_the_classes_of_videoemotion_8() -> None:
    create_loss(recipe_of("ve8_vaanet").training.loss, VE8)


TINY: dict[str, dict[str, Any]] = {
    "concat": {},
    "cross_attention": {"hidden": 8, "heads": 2},
    "cten": {"inner": 4, "heads": 2},
    "dfan_style": {"hidden": 4},
    "gmu": {"hidden": 8},
    "lmf": {"hidden": 8},
    "tfn": {"hidden": 4, "post": 8},
    "vaanet": {"hidden": 8},
}


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("ve8_")])
def test_a_tiny_version_trains(name: str) -> None:
    recipe = recipe_of(name)
    content = recipe.model_dump(mode="json")
    content["clip"].update(segments=2, frames=2, size=16)
    content["audio"] = {"preset": recipe.audio.preset, "mels": 24, "coefficients": 24, "width": 16}
    small = {
        "visual": {"backbone": "resnet3d/10", "options": {"widen_factor": 0.125, "stem_size": 3}},
        "audio": {"backbone": "timm/resnet10t", "options": {"channels": [8, 16, 32, 64]}},
    }
    for stream, smaller in small.items():
        content["model"][stream].update(smaller)
    content["model"]["width"] = 16
    content["model"]["attn"]["options"] = {"groups": 2} if recipe.model.attn.name == "mpe" else {}
    fusion = recipe.model.fusion
    content["model"]["fusion"] = {"name": fusion.name, "options": {**fusion.options, **TINY[fusion.name]}}
    tiny = Recipe.model_validate(content)

    torch.manual_seed(0)
    model = AudioVisualModel(tiny.model, tiny.clip, tiny.audio, 8).train()
    loss = create_loss(tiny.training.loss, VE8)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, 1e-2, weight_decay=tiny.training.weight_decay)
    frames, sound = torch.randint(256, (4, 2, 3, 2, 16, 16), dtype=torch.uint8), torch.randn(4, 2, 1, 24, 16)
    heard, labels = torch.tensor([True, True, False, True]), torch.arange(4)
    losses = []
    for _ in range(5):
        passes = [logits.mean(1) for logits in model.passes(frames, sound, heard)]
        each = torch.stack([loss(logits, labels) for logits in passes]).mean()
        optimizer.zero_grad()
        each.backward()
        assert all(p.grad is not None for p in trained)
        optimizer.step()
        losses.append(each.item())
    assert min(losses[2:]) < losses[0]
