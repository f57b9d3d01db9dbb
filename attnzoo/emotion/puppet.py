"""The figure that acts in a synthetic clip, and its voice: cues that are on move or sound, others rest."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000

# The parts that move, each with its cue; and the bands in Hz from which every clip draws its own rates.
_PARTS = {"patch": "micro", "face": "meso", "left_arm": "macro", "right_arm": "macro"}
_MOTION = {"micro": (4.0, 7.0), "meso": (2.0, 3.0), "macro": (1.0, 2.0)}
_PITCH = {False: (120.0, 200.0), True: (330.0, 520.0)}
_BEAT = {False: (1.6, 2.4), True: (5.0, 7.0)}

_PATCH, _HAND = 0.3, 0.32  # radii, in face radii
_SHAKE = 0.006  # of the camera, in frame heights

_Array = NDArray[np.floating[Any]]
_Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Puppet:
    """One clip to be. `key` seeds its nuisance, which thus knows the clip but not its cues.

    Attributes:
        cues: cue -> on.
        frames: of the clip.
        fps: frames per second.
        width: of the frames, px.
        height: of the frames, px.
        key: seed, class index and clip index.

    >>> cues = dict.fromkeys(("micro", "meso", "macro", "pitch", "rhythm", "noise"), True)
    >>> puppet = Puppet(cues, frames=16, fps=16, width=64, height=48, key=(0, 0, 0))
    >>> next(puppet.pictures()).shape, puppet.sound().shape
    ((48, 64, 3), (16000,))
    """

    cues: Mapping[str, bool]
    frames: int
    fps: int
    width: int
    height: int
    key: tuple[int, int, int]

    def look(self) -> "Look":
        """What it looks like and how it moves."""
        return Look.draw(np.random.default_rng((*self.key, 1)), self.width / self.height)

    def pictures(self) -> Iterator[NDArray[np.uint8]]:
        """The frames, each (height, width, 3)."""
        look = self.look()
        rng = np.random.default_rng((*self.key, 2))
        rates, phases = look.shake
        for frame in range(self.frames):
            time = frame / self.fps
            shake = _SHAKE * np.sin(2 * np.pi * rates * time + phases)
            x = (np.arange(self.width, dtype=np.float32)[None] + 0.5) / self.height - shake[0]
            y = (np.arange(self.height, dtype=np.float32)[:, None] + 0.5) / self.height - shake[1]
            image = look.gain * _paint(look, look.pose(time, self.cues), x, y)
            image += look.grain * rng.standard_normal(image.shape, np.float32)
            yield (image.clip(0, 1) * 255).round().astype(np.uint8)

    def sound(self) -> NDArray[np.float32]:
        """As many samples as the frames last."""
        rng = np.random.default_rng((*self.key, 3))
        time = np.arange(round(self.frames / self.fps * SAMPLE_RATE)) / SAMPLE_RATE
        pitch = rng.uniform(*_PITCH[self.cues["pitch"]])
        harmonics = np.arange(1, 7)
        waves = np.sin(2 * np.pi * pitch * np.outer(harmonics, time) + rng.uniform(0, 2 * np.pi, (6, 1)))
        tone = (rng.uniform(0.4, 1.0, 6) / harmonics) @ waves
        beat = (rng.uniform(*_BEAT[self.cues["rhythm"]]) * time + rng.random()) % 1
        burst = np.minimum(beat / 0.05, 1) * np.exp(-4 * beat)
        breath = np.diff(rng.standard_normal(len(time) + 1))  # the difference is a high-pass: breath has no bass
        level = rng.uniform(0.05, 0.12) if self.cues["noise"] else rng.uniform(0.0005, 0.002)
        sound: _Array = rng.uniform(0.2, 0.6) * (tone / np.abs(tone).max() * burst + level * breath)
        return sound.clip(-1, 1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Look:
    """The nuisance of a picture; lengths are in frame heights, the origin is the upper left corner.

    >>> look = Look.draw(np.random.default_rng(0), aspect=4 / 3)
    >>> sorted(look.boxes())
    ['face', 'left_arm', 'patch', 'right_arm']
    """

    aspect: float
    face: _Point
    radius: float  # of the face at rest
    patch: _Point  # relative to the face, in its half axes
    arms: _Point  # middle angles of the left and the right one, in radians below the horizontal
    colours: dict[str, _Array]
    waves: tuple[_Array, _Array, _Array]  # of the background: wave vectors (4, 2), phases (4,), colours (4, 3)
    shake: tuple[_Array, _Array]  # of the camera: rates in Hz (2,), phases (2,)
    rates: dict[str, float]  # of the motions in Hz
    phases: dict[str, float]
    gain: float
    grain: float

    @classmethod
    def draw(cls, rng: np.random.Generator, aspect: float) -> "Look":
        def vector(low: float, high: float, *shape: int) -> _Array:
            return rng.uniform(low, high, shape).astype(np.float32)

        fit = min(1.0, aspect / 1.25)  # in an upright frame the arms must not reach far beyond its sides
        corner = rng.choice([(-0.45, 0.48), (0.45, 0.48), (-0.45, -0.5), (0.45, -0.5)])  # of the mouth, or a brow
        colours = {"background": (0.05, 0.35), "skin": (0.55, 0.95), "coat": (0.35, 0.9), "sleeve": (0.5, 0.95)}
        colours |= {"feature": (0.0, 0.3), "patch": (0.8, 1.0)}
        return cls(
            aspect=aspect,
            face=(aspect / 2 + rng.uniform(-0.1, 0.1) * fit, rng.uniform(0.32, 0.4)),
            radius=rng.uniform(0.18, 0.21) * fit,
            patch=(corner[0] + rng.uniform(-0.06, 0.06), corner[1] + rng.uniform(-0.06, 0.06)),
            arms=(rng.uniform(0.1, 0.4), rng.uniform(0.1, 0.4)),
            colours={name: vector(*band, 3) for name, band in colours.items()},
            waves=(vector(-30, 30, 4, 2), vector(0, 2 * np.pi, 4), vector(-0.05, 0.05, 4, 3)),
            shake=(vector(0.3, 1.2, 2), vector(0, 2 * np.pi, 2)),
            rates={cue: rng.uniform(*band) for cue, band in _MOTION.items()},
            phases={part: rng.uniform(0, 2 * np.pi) for part in _PARTS},
            gain=rng.uniform(0.75, 1.1),
            grain=rng.uniform(0.01, 0.03),
        )

    def pose(self, time: float, cues: Mapping[str, bool]) -> dict[str, float]:
        """Part -> deflection in [-1, 1]; a part whose cue is off keeps the one it has at time 0."""
        return {
            part: float(np.sin(2 * np.pi * self.rates[cue] * time * cues[cue] + self.phases[part]))
            for part, cue in _PARTS.items()
        }

    def face_axes(self, squash: float) -> _Point:
        return self.radius * 0.85 * (1 + 0.25 * squash), self.radius * (1 - 0.25 * squash)

    def patch_at(self, squash: float, twitch: float) -> _Point:
        wide, high = self.face_axes(squash)
        return self.face[0] + self.patch[0] * wide, self.face[1] + self.patch[1] * high + 0.25 * self.radius * twitch

    def arm_at(self, part: str, swing: float) -> tuple[_Point, _Point]:
        """Shoulder and hand."""
        side, middle = (-1, self.arms[0]) if part == "left_arm" else (1, self.arms[1])
        x, y = self.face[0] + side * 0.9 * self.radius, self.face[1] + 1.5 * self.radius
        angle, length = middle + 0.8 * swing, 2.1 * self.radius
        return (x, y), (x + side * length * float(np.cos(angle)), y + length * float(np.sin(angle)))

    def boxes(self) -> dict[str, list[float]]:
        """Part -> left, top, right, bottom of its reach, in fractions of the frame."""
        swings = np.linspace(-1, 1, 21)
        places = {
            "patch": ([self.patch_at(squash, twitch) for squash in (-1, 1) for twitch in (-1, 1)], _PATCH),
            "face": ([self.face], 1.25),
            "left_arm": ([point for swing in swings for point in self.arm_at("left_arm", swing)], _HAND),
            "right_arm": ([point for swing in swings for point in self.arm_at("right_arm", swing)], _HAND),
        }
        boxes = {}
        for part, (points, margin) in places.items():
            far = margin * self.radius + _SHAKE
            corners = np.array([np.min(points, 0) - far, np.max(points, 0) + far])
            boxes[part] = (corners / (self.aspect, 1)).clip(0, 1).round(4).ravel().tolist()
        return boxes


def _paint(look: Look, pose: Mapping[str, float], x: _Array, y: _Array) -> _Array:
    """The picture (height, width, 3) at the columns x (1, width) and the rows y (height, 1)."""
    vectors, phases, tints = look.waves
    image: _Array = (
        look.colours["background"]
        + np.sin(x[..., None] * vectors[:, 0] + y[..., None] * vectors[:, 1] + phases) @ tints
    )

    def fill(distance: _Array, colour: _Array) -> None:
        cover = (0.5 - distance * len(y)).clip(0, 1)[..., None]  # antialiased over one pixel
        image[:] += cover * (colour - image)

    def ellipse(centre: _Point, wide: float, high: float, colour: _Array) -> None:
        fill((np.hypot((x - centre[0]) / wide, (y - centre[1]) / high) - 1) * min(wide, high), colour)

    r, colours, (face_x, face_y) = look.radius, look.colours, look.face
    ellipse((face_x, face_y + 2.5 * r), 1.1 * r, 1.6 * r, colours["coat"])
    for part in ("left_arm", "right_arm"):
        (x0, y0), hand = look.arm_at(part, pose[part])
        dx, dy = hand[0] - x0, hand[1] - y0
        along = (((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy)).clip(0, 1)
        fill(np.hypot(x - x0 - along * dx, y - y0 - along * dy) - 0.2 * r, colours["sleeve"])
        ellipse(hand, _HAND * r, _HAND * r, colours["skin"])
    wide, high = look.face_axes(pose["face"])
    ellipse(look.face, wide, high, colours["skin"])
    for u, v, w, h in (-0.38, -0.15, 0.14, 0.12), (0.38, -0.15, 0.14, 0.12), (0, 0.5, 0.35, 0.1):  # eyes and mouth
        ellipse((face_x + u * wide, face_y + v * high), w * wide, h * high, colours["feature"])
    patch = look.patch_at(pose["face"], pose["patch"])
    ellipse(patch, _PATCH * r, _PATCH * r, colours["patch"] * (0.5 + 0.5 * pose["patch"]))
    return image
