"""The audio-visual model: a 3D ResNet on each segment's frames, a 2D ResNet on its MFCC map, fused and classified."""

import warnings
from itertools import chain

import torch
from torch import Tensor, nn

from attnzoo.emotion.fusion import create as create_fusion
from attnzoo.emotion.inputs import Audio, Clip
from attnzoo.emotion.networks import MISFIT, create_network, freeze
from attnzoo.emotion.recipe import Attention, Model, Recipe, Stream, StreamName
from attnzoo.emotion.tasks import Classifier


class AudioVisualModel(Classifier):
    """Section 3.1 of the paper with the attention of your choice.

    Args:
        settings: backbones with the normalisation of their weights, attention, width, fusion.
        clip: for the number of segments.
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
        scale = settings.visual.normalisation
        self.register_buffer("mean", torch.tensor(scale.mean).reshape(3, 1, 1, 1))
        self.register_buffer("std", torch.tensor(scale.std).reshape(3, 1, 1, 1))
        self.visual = _backbone(settings.visual, settings.attention("visual"), "visual")
        # Cepstral coefficients differ in scale by orders of magnitude: each is normalised on its own. A frozen stream
        # learns no statistics of them and takes those of each video (cepstral mean and variance normalisation).
        frozen = settings.audio.freeze == "all"
        self.sound_norm = (nn.InstanceNorm2d if frozen else nn.BatchNorm2d)(sound.coefficients)
        self.audio = _backbone(settings.audio, settings.attention("audio"), "audio")
        self.project_visual = _projection(self.visual, settings.width)
        self.project_audio = _projection(self.audio, settings.width)
        fusion = settings.fusion
        self.fusion = create_fusion(fusion.name, settings.width, clip.segments, **fusion.options)
        self.dropout = nn.Dropout(settings.dropout)
        self.classifier = nn.Linear(self.fusion.out_features, classes)
        self.frozen = (
            *(f"visual.{path}" for path in freeze(self.visual, settings.visual.freeze)),
            *(f"audio.{path}" for path in freeze(self.audio, settings.audio.freeze)),
        )

    def forward(self, frames: Tensor, sound: Tensor, heard: Tensor | None = None) -> Tensor:
        """Logits of each segment; their mean over the segments are those of the video.

        Args:
            frames: (B, T, 3, k, H, W), 0 to 255, of any type; or what `visual_features` made of them.
            sound: (B, T, 1, coefficients, width), MFCC maps; or what `audio_features` made of them.
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

    def visual_features(self, frames: Tensor) -> Tensor:
        """What the visual ResNet makes of frames (B, T, 3, k, H, W): (B, T, its num_features)."""
        pixels = (frames.flatten(0, 1) / 255 - self.mean) / self.std
        features: Tensor = self.visual(pixels)
        return features.reshape(*frames.shape[:2], -1)

    def audio_features(self, sound: Tensor) -> Tensor:
        """What the audio ResNet makes of maps (B, T, 1, coefficients, width): (B, T, its num_features)."""
        maps = self.sound_norm(sound.squeeze(2).transpose(1, 2)).transpose(1, 2)
        features: Tensor = self.audio(maps.flatten(0, 1).unsqueeze(1))
        return features.reshape(*sound.shape[:2], -1)

    def _features(self, frames: Tensor, sound: Tensor, heard: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both streams' features (B, T, d)."""
        visual = self.project_visual(frames if frames.ndim == 3 else self.visual_features(frames))
        if heard is None:
            audio = self._audio(sound)
        elif not self.training:
            audio = self._audio(sound) * heard.reshape(-1, 1, 1)
        else:  # a batch norm would take silence for sound
            audio = torch.zeros_like(visual)
            if heard.any():
                audio[heard] = self._audio(sound[heard]).to(audio.dtype)
            else:  # each parameter has a gradient all the same, for which DistributedDataParallel waits
                parts = (self.sound_norm, self.audio, self.project_audio)
                audio = audio + 0 * sum(p.sum() for p in chain.from_iterable(part.parameters() for part in parts))
        return visual, audio

    def _audio(self, sound: Tensor) -> Tensor:
        audio: Tensor = self.project_audio(sound if sound.ndim == 3 else self.audio_features(sound))
        return audio


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
        except MISFIT as error:
            raise ValueError(
                f"the model of recipe {recipe.name} does not take its clips (frames={clip.frames}, size={clip.size}, "
                f"coefficients={sound.coefficients}, width={sound.width}): {str(error).splitlines()[0]}"
            ) from error


def _backbone(stream: Stream, attn: Attention | None, name: StreamName) -> nn.Module:
    dims, in_channels = {"visual": (3, 3), "audio": (2, 1)}[name]
    folded = 2 if attn is not None and attn.dims == 2 else None
    return create_network(
        f"model.{name}",
        stream,
        attn,
        dims,
        in_channels=in_channels,
        inflate=stream.inflate,
        spatial_dims=folded,
    )


def _projection(backbone: nn.Module, width: int) -> nn.Module:
    features = backbone.num_features
    assert isinstance(features, int)
    return nn.Identity() if features == width else nn.Linear(features, width)
