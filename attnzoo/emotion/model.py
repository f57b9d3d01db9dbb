"""The audio-visual model: a 3D ResNet on each segment's frames, a 2D ResNet on its MFCC map, fused and classified."""

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from attnzoo.backbones import create_backbone
from attnzoo.emotion.fusion import create as create_fusion
from attnzoo.emotion.recipe import Attention, Audio, Clip, Model, Recipe, Stream
from attnzoo.inject import attn_parameters

# What comes of settings that nobody has checked, from the depths of PyTorch.
_MISFIT = (TypeError, RuntimeError, ArithmeticError, LookupError)


class AudioVisualModel(nn.Module):
    """Section 3.1 of the paper with the attention of your choice.

    Args:
        settings: backbones, attention, width, fusion.
        clip: for the number of segments and the normalisation of the frames, which goes with the weights.
        sound: for the rows of the MFCC maps.
        classes: number of classes.

    Raises:
        ValueError: an unknown backbone, attention that does not fit it, or a fusion that does not fit the width.

    >>> settings = Model(visual=Stream(backbone="resnet3d/10"), audio=Stream(backbone="timm/resnet10t"), width=8)
    >>> model = AudioVisualModel(settings, Clip(), Audio(coefficients=12), classes=3).eval()
    >>> model(torch.zeros(1, 2, 3, 4, 32, 32), torch.zeros(1, 2, 1, 12, 16)).shape
    torch.Size([1, 2, 3])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: Model, clip: Clip, sound: Audio, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(clip.mean).reshape(3, 1, 1, 1))
        self.register_buffer("std", torch.tensor(clip.std).reshape(3, 1, 1, 1))
        self.visual = _backbone(settings.visual, settings.attn, "visual", in_channels=3)
        # Cepstral coefficients differ in scale by orders of magnitude: each is normalised on its own.
        self.sound_norm = nn.BatchNorm1d(sound.coefficients)
        self.audio = _backbone(settings.audio, settings.attn, "audio", in_channels=1)
        self.project_visual = nn.Linear(_features(self.visual), settings.width)
        self.project_audio = nn.Linear(_features(self.audio), settings.width)
        fusion = settings.fusion
        self.fusion = create_fusion(fusion.name, settings.width, clip.segments, **fusion.options)
        self.dropout = nn.Dropout(settings.dropout)
        self.classifier = nn.Linear(self.fusion.out_features, classes)
        self._frozen = [
            *_freeze(self.visual, settings.visual.freeze),
            *_freeze(self.audio, settings.audio.freeze),
        ]

    def forward(self, frames: Tensor, sound: Tensor, heard: Tensor | None = None) -> Tensor:
        """Logits of each segment; their mean over the segments are those of the video.

        Args:
            frames: (B, T, 3, k, H, W), 0 to 255, of any type.
            sound: (B, T, 1, coefficients, width), MFCC maps.
            heard: (B,), which videos have a sound track; all if None. What is not heard has features of zero, and no
                part in the statistics of the norms.

        Returns:
            (B, T, classes).
        """
        logits: Tensor = self.classifier(self.dropout(self.fusion(*self._features(frames, sound, heard))))
        return logits

    def passes(self, frames: Tensor, sound: Tensor, heard: Tensor | None = None) -> tuple[Tensor, ...]:
        """Logits (B, T, classes) as `forward` gives them, once for each pass that the fusion is trained on."""
        features = self._features(frames, sound, heard)
        return tuple(self.classifier(self.dropout(f)) for f in self.fusion.passes(*features))

    def _features(self, frames: Tensor, sound: Tensor, heard: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both streams' features (B, T, d)."""
        segments = frames.shape[:2]
        pixels = (frames.flatten(0, 1) / 255 - self.mean) / self.std
        visual = self.project_visual(self.visual(pixels)).reshape(*segments, -1)
        if heard is None:
            audio = self._audio(sound)
        elif self.training:  # a batch norm would take silence for sound
            audio = torch.zeros_like(visual)
            if heard.any():
                audio[heard] = self._audio(sound[heard]).to(audio.dtype)
        else:
            audio = self._audio(sound) * heard.reshape(-1, 1, 1)
        return visual, audio

    def _audio(self, sound: Tensor) -> Tensor:
        maps = self.sound_norm(sound.flatten(0, 2)).unsqueeze(1)
        features: Tensor = self.project_audio(self.audio(maps))
        return features.reshape(*sound.shape[:2], -1)

    def train(self, mode: bool = True) -> "AudioVisualModel":
        """As nn.Module.train, but frozen parts stay in eval mode, or their running statistics would drift."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self


def check(recipe: Recipe) -> None:
    """Refuse settings that make no model, or one that does not take the clips, without the cost of a real model.

    Args:
        recipe: of a training.

    Raises:
        ValueError: one line with the part that does not fit.

    >>> check(Recipe(name="mine", model={"visual": {"backbone": "timm/resnet18"}}))
    Traceback (most recent call last):
    ValueError: model.visual.backbone = 'timm/resnet18' is a 2D network; give a 3D one, as in resnet3d/18
    """
    clip, sound = recipe.clip, recipe.audio
    with torch.device("meta"), torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of layers without weights, which are told below
        try:
            model = AudioVisualModel(recipe.model.without_weights(), clip, sound, 2).eval()
            model(
                torch.empty(1, clip.segments, 3, clip.frames, clip.size, clip.size),
                torch.empty(1, clip.segments, 1, sound.coefficients, sound.width),
            )
        except _MISFIT as error:
            raise ValueError(
                f"the model of recipe {recipe.name} does not take its clips (frames={clip.frames}, size={clip.size}, "
                f"coefficients={sound.coefficients}, width={sound.width}): {str(error).splitlines()[0]}"
            ) from error


def _backbone(stream: Stream, attn: Attention, name: str, in_channels: int) -> nn.Module:
    placement: dict[str, Any] = {
        "attn": attn.name,
        "stages": attn.stages,
        "site": attn.site,
        "identity": attn.identity,
        "attn_options": attn.options,
    }
    try:
        network = create_backbone(
            stream.backbone,
            num_classes=0,
            in_channels=in_channels,
            pretrained=stream.pretrained,
            weights=stream.weights,
            **(placement if attn.name != "none" and name in attn.streams else {}),
            **stream.options,
        )
    except _MISFIT as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"model.{name}: {stream.backbone} with options {stream.options}: {reason}") from error
    dims, example = {"visual": (3, "resnet3d/18"), "audio": (2, "timm/resnet18")}[name]
    found = 3 if any(isinstance(module, nn.Conv3d) for module in network.modules()) else 2
    if found != dims:
        raise ValueError(
            f"model.{name}.backbone = {stream.backbone!r} is a {found}D network; give a {dims}D one, as in {example}"
        )
    return network


def _features(backbone: nn.Module) -> int:
    width = backbone.num_features
    assert isinstance(width, int)
    return width


def _freeze(backbone: nn.Module, last: int | None) -> Iterator[nn.Module]:
    """Stop training children 0 to `last`, but for attention in them; gives the modules to keep in eval mode."""
    if last is None:
        return
    children = [child for _, child in backbone.named_children()]
    if last >= len(children):
        names = ", ".join(f"{i} {name}" for i, (name, _) in enumerate(backbone.named_children()))
        raise ValueError(f"freeze={last} is beyond the last child of the backbone; it has {names}")
    attention = {id(p) for p in attn_parameters(backbone)}
    for child in children[: last + 1]:
        for parameter in child.parameters():
            parameter.requires_grad = id(parameter) in attention
        for module in child.modules():
            if all(id(p) not in attention for p in module.parameters()):
                yield module
