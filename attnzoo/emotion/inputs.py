"""The settings of what the model sees and hears of a video; the defaults are the paper's (section 4.2)."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from attnzoo.recipes import Part, Positive, PositiveCount, Share

Probability = Annotated[float, Field(ge=0, le=1)]


class Clip(Part):
    """What the model sees of a video.

    In training each video is drawn a place of its square, a mirroring, a rotation and a brightness, the same for all
    its frames. VAANet's are {crop: five, flip: 1, rotation: 20, brightness: [0.5, 1], augment: 0.3}.

    Attributes:
        segments: T, equal parts of the video.
        frames: k, consecutive frames of the window in each.
        size: edge of the frames, px.
        crop: where the square lies in training: "random", "centre", or in "five" the centre or a corner. It is as high
            as the video, or as wide as an upright one; in evaluation it is the one in the centre.
        flip: probability of mirroring a video in training.
        rotation: greatest angle by which a video is turned in training, either way, degrees.
        brightness: from where to where the factor of the brightness is drawn in training.
        augment: probability that one of mirroring, rotation and brightness, each as likely, is done in training and not
            the others; those with flip 0, rotation 0 or brightness [1, 1] are never done. If None, each is drawn on
            its own.
        decoder: "pyav" or "torchcodec"; the frames are the same.

    >>> Clip(segments=3).frames
    16
    """

    segments: PositiveCount = 16
    frames: PositiveCount = 16
    size: Annotated[int, Field(ge=16)] = 112
    crop: Literal["random", "five", "centre"] = "random"
    flip: Probability = 0.5
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    brightness: tuple[Positive, Positive] = (1.0, 1.0)
    augment: Probability | None = None
    decoder: Literal["pyav", "torchcodec"] = "pyav"

    @field_validator("brightness")
    @classmethod
    def _range(cls, brightness: tuple[float, float]) -> tuple[float, float]:
        if brightness[0] > brightness[1]:
            raise ValueError(f"from {brightness[0]} to {brightness[1]}: the first must be the smaller")
        return brightness


# What differs from the paper's, which are the defaults of `Audio`.
_PRESETS: dict[str, dict[str, float]] = {
    "aligned": {},
    "vaanet": {
        "rate": 44100,
        "mels": 128,
        "window": 2048 / 44100,
        "hop": 512 / 44100,
        "preemphasis": 0.0,
        "width": 256,
    },
    # The constants with which CTEN normalises are those of sound at 16 kHz.
    "fbank": {"mels": 128, "width": 100},
}


class Audio(Part):
    """The maps of the sound.

    Attributes:
        preset: "aligned" for MFCC, each segment's resampled to `width` frames; "vaanet" for those of VAANet, which
            cover the first T * `width` frames of the sound whatever the picture shows; "fbank" for the logarithms of
            mel filters of CTEN, `width` frames from each segment. It changes the defaults of what follows.
        rate: samples per second.
        coefficients: of each frame, the rows of the maps; with "fbank" there are `mels`.
        mels: bands.
        window: length of a frame, s.
        hop: from one frame to the next, s.
        preemphasis: coefficient of the high-pass.
        width: frames of each segment's map.

    >>> Audio(rate=8000).hop
    0.01
    >>> Audio(preset="vaanet").mels
    128
    """

    preset: Literal["aligned", "vaanet", "fbank"] = "aligned"
    rate: PositiveCount = 16000
    coefficients: PositiveCount = 32
    mels: PositiveCount = 64
    window: Positive = 0.025
    hop: Positive = 0.010
    preemphasis: Share = 0.97
    width: PositiveCount = 128

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not isinstance(given.get("preset"), str):
            return given
        filled = {**_PRESETS.get(given["preset"], {}), **given}
        if given["preset"] == "fbank":
            filled = {"coefficients": filled["mels"], **filled}
        return filled

    @model_validator(mode="after")
    def _fits(self) -> "Audio":
        if self.preset == "fbank" and self.coefficients != self.mels:
            raise ValueError(
                f"coefficients={self.coefficients} must be mels={self.mels} with preset=fbank, which keeps every band; "
                "leave them out"
            )
        if self.coefficients > self.mels:
            raise ValueError(f"coefficients={self.coefficients} must be at most mels={self.mels}")
        for name, seconds, least in (("window", self.window, 2), ("hop", self.hop, 1)):
            if round(seconds * self.rate) < least:
                raise ValueError(f"{name}={seconds} s must be at least {least} samples of rate={self.rate} per second")
        return self
