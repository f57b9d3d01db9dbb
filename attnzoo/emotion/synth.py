"""A synthetic video-emotion task: real H.264/AAC clips, the class in motion and sound of several scales together.

Every class is a pair of words, one seen and one heard, and every word is three cues that are on or off. Several classes
share each word, so neither modality alone can tell them all apart. A picture cue is a motion: switched off, the same
part is there, frozen in a random pose, so a single frame gives nothing away.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

EKMAN = ("anger", "disgust", "fear", "joy", "sadness", "surprise")
CUES = ("micro", "meso", "macro", "pitch", "rhythm", "noise")
SAMPLE_RATE = 16_000

# Micro, meso, macro or pitch, rhythm, noise. In the first three words each cue is on twice and off once: with six
# classes one cue tells one word from the other two, and it takes two cues to tell all three apart.
_WORDS = ("110", "101", "011", "000", "111", "100", "010", "001")

# The parts that move, each with its cue; and the bands in Hz from which every clip draws its own rates.
_PARTS = {"patch": "micro", "face": "meso", "left_arm": "macro", "right_arm": "macro"}
_MOTION = {"micro": (4.0, 7.0), "meso": (2.0, 3.0), "macro": (1.0, 2.0)}
_PITCH = {False: (120.0, 200.0), True: (330.0, 520.0)}
_BEAT = {False: (1.6, 2.4), True: (5.0, 7.0)}

_PATCH, _HAND = 0.3, 0.32  # radii, in face radii
_SHAKE = 0.006  # of the camera, in frame heights

_Array = NDArray[np.floating[Any]]
_Point = tuple[float, float]


def cue_table(classes: Sequence[str] = EKMAN) -> dict[str, dict[str, bool]]:
    """The cues that make each class.

    Class i of n has picture word i // 2 and sound word ((i + 1) // 2) mod W, with W = ceil(n / 2) words in use.
    The best possible accuracy of either modality alone is therefore W / n, a half for even n; of both together, 1.

    Args:
        classes: 3 to 16 distinct names, each fit to name a folder.

    Returns:
        class -> {cue: on}, the cues in the order of `CUES`.

    Raises:
        ValueError: too few or too many classes, or names that repeat or cannot name a folder.

    >>> [cue for cue, on in cue_table()["joy"].items() if on]
    ['micro', 'macro', 'rhythm', 'noise']
    """
    if not 3 <= len(classes) <= 2 * len(_WORDS):
        raise ValueError(f"{len(classes)} classes: the cues tell 3 to {2 * len(_WORDS)} apart; give that many names")
    if len({name.casefold() for name in classes}) < len(classes):
        raise ValueError(f"classes {', '.join(classes)}: names must differ in more than case; rename the repeated one")
    for name in classes:
        if name.startswith(".") or not name.isprintable() or Path(name).name != name:
            raise ValueError(f"class {name!r}: must name a folder, without '/' or a leading '.'; rename it")
    words = (len(classes) + 1) // 2
    codes = [_WORDS[i // 2] + _WORDS[(i + 1) // 2 % words] for i in range(len(classes))]
    return {
        name: {cue: code[k] == "1" for k, cue in enumerate(CUES)} for name, code in zip(classes, codes, strict=True)
    }


def synthesise(
    root: Path,
    *,
    classes: Sequence[str] = EKMAN,
    per_class: int = 30,
    seconds: float = 3.0,
    fps: int = 16,
    width: int = 128,
    height: int = 96,
    cues: Collection[str] = CUES,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `root/<class>/<class>_0000.mp4` and so on; on one machine the same arguments give the same bytes.

    Beside them stand `synth.json`, the arguments, and `truth.jsonl`, one line per clip: `clip` ("joy/joy_0003.mp4"),
    `class`, `cues` ({cue: on}) and `boxes` ({"patch", "face", "left_arm", "right_arm"}: [left, top, right, bottom] of
    all that the part can reach, in fractions of the frame). The patch carries `micro`, the face `meso`, the arms
    `macro`. The same call resumes an interrupted one: finished clips are not written again.

    Args:
        root: the folder to write: new, empty, or begun by a call with the same arguments.
        classes: 3 to 16 class names; `cue_table` gives their cues.
        per_class: clips of each class.
        seconds: length of a clip, at least 1, rounded to whole frames.
        fps: frames per second, at least 15: the fastest twitch has 7 Hz.
        width: of the frames in pixels, even.
        height: of the frames in pixels, even.
        cues: those that tell the class; each of the others is on or off at random per clip, whatever the class.
        seed: of everything drawn at random.
        workers: processes that write clips; with more than one, the calling script needs a `__main__` guard.
        progress: called after every clip written with (clips finished, clips in all).

    Returns:
        `root`.

    Raises:
        ValueError: an argument out of range, or a folder that holds anything but the same data set.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     root = synthesise(Path(folder), classes=["calm", "glad", "cross"], per_class=1, seconds=1)
    ...     sorted(path.relative_to(root).as_posix() for path in root.rglob("*.mp4"))
    ['calm/calm_0000.mp4', 'cross/cross_0000.mp4', 'glad/glad_0000.mp4']
    """
    table = cue_table(classes)
    _check(per_class=per_class, seconds=seconds, fps=fps, width=width, height=height, seed=seed, workers=workers)
    if unknown := sorted(set(cues) - set(CUES)):
        raise ValueError(f"unknown cue {', '.join(unknown)}: choose from {', '.join(CUES)}")
    used = [cue for cue in CUES if cue in cues]
    arguments = {"classes": list(classes), "per_class": per_class, "seconds": seconds, "fps": fps}
    arguments |= {"width": width, "height": height, "cues": used, "seed": seed}
    root = Path(root)
    _claim(root, arguments)

    clips = []
    for label, (name, on) in enumerate(table.items()):
        (root / name).mkdir(exist_ok=True)
        for index in range(per_class):
            coins = np.random.default_rng((seed, label, index, 0)).random(len(CUES)) < 0.5
            shown = {cue: on[cue] if cue in used else bool(coin) for cue, coin in zip(CUES, coins, strict=True)}
            path = root / name / f"{name}_{index:04d}.mp4"
            clips.append(_Clip(path, shown, round(seconds * fps), fps, width, height, (seed, label, index)))
    _write_text(root / "truth.jsonl", "".join(json.dumps(clip.truth()) + "\n" for clip in clips))

    missing = [clip for clip in clips if not clip.path.exists()]
    for done, _ in enumerate(_write_all(missing, workers), start=len(clips) - len(missing) + 1):
        if progress:
            progress(done, len(clips))
    return root


def _check(**values: float) -> None:
    least = {"per_class": 1, "seconds": 1, "fps": 15, "width": 48, "height": 48, "seed": 0, "workers": 1}
    for name, value in values.items():
        if not value >= least[name]:
            raise ValueError(f"{name} = {value}: must be at least {least[name]}; give a larger one")
        if name in ("width", "height") and value % 2:
            raise ValueError(f"{name} = {value}: H.264 in yuv420p needs an even number; give {value + 1}")


def _claim(root: Path, arguments: dict[str, Any]) -> None:
    """Make `root` the folder of the data set with these arguments, or refuse it."""
    record = root / "synth.json"
    if record.exists():
        found = json.loads(record.read_text())
        differing = [
            f"{key} = {found.get(key)}, not {arguments[key]}" for key in arguments if found.get(key) != arguments[key]
        ]
        if differing:
            raise ValueError(f"{root} holds clips with {'; '.join(differing)}: give another folder or its arguments")
        return
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f"{root} holds other things than synthetic clips (no synth.json): give a new or empty folder")
    root.mkdir(parents=True, exist_ok=True)
    _write_text(record, json.dumps(arguments, indent=2) + "\n")


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.replace(path)


@dataclass(frozen=True, slots=True)
class _Clip:
    """One clip to write. `key` seeds its nuisance, which thus knows the clip but not its cues."""

    path: Path
    cues: Mapping[str, bool]
    frames: int
    fps: int
    width: int
    height: int
    key: tuple[int, int, int]

    def look(self) -> "_Look":
        return _Look.draw(np.random.default_rng((*self.key, 1)), self.width / self.height)

    def truth(self) -> dict[str, Any]:
        name = self.path.parent.name
        return {"clip": f"{name}/{self.path.name}", "class": name, "cues": self.cues, "boxes": self.look().boxes()}


def _write_all(clips: list[_Clip], workers: int) -> Iterator[None]:
    if workers == 1:
        yield from map(_write, clips)
        return
    # spawn: a child forked from a process in which torch or FFmpeg has threads can hang
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_write, clips)


def _write(clip: _Clip) -> None:
    part = clip.path.with_name(f".{clip.path.name}.part")
    with av.open(part, "w", format="mp4") as container:
        # For the same bytes every time: x264 divides its work by the number of cores, and even on one thread its
        # macroblock tree differs from run to run (25 encodings of one clip of 64 x 48 gave 13 different streams).
        options = {"preset": "veryfast", "crf": "20", "threads": "1", "x264-params": "mbtree=0"}
        video = container.add_stream("libx264", rate=clip.fps, options=options)
        video.width, video.height, video.pix_fmt = clip.width, clip.height, "yuv420p"
        video.codec_context.gop_size = clip.fps  # a key frame every second, so that readers can seek
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for picture in _pictures(clip):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(_sound(clip)[None], format="fltp", layout="mono")
        sound.sample_rate = SAMPLE_RATE
        sound.pts = 0  # without it the encoder's run-in of 1024 samples would be heard, and the sound 64 ms late
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))
    part.replace(clip.path)


@dataclass(frozen=True, slots=True)
class _Look:
    """The nuisance of a picture; lengths are in frame heights, the origin is the upper left corner."""

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
    def draw(cls, rng: np.random.Generator, aspect: float) -> "_Look":
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


def _pictures(clip: _Clip) -> Iterator[NDArray[np.uint8]]:
    """The frames, each (height, width, 3)."""
    look = clip.look()
    rng = np.random.default_rng((*clip.key, 2))
    rates, phases = look.shake
    for frame in range(clip.frames):
        time = frame / clip.fps
        shake = _SHAKE * np.sin(2 * np.pi * rates * time + phases)
        x = (np.arange(clip.width, dtype=np.float32)[None] + 0.5) / clip.height - shake[0]
        y = (np.arange(clip.height, dtype=np.float32)[:, None] + 0.5) / clip.height - shake[1]
        image = look.gain * _paint(look, look.pose(time, clip.cues), x, y)
        image += look.grain * rng.standard_normal(image.shape, np.float32)
        yield (image.clip(0, 1) * 255).round().astype(np.uint8)


def _paint(look: _Look, pose: Mapping[str, float], x: _Array, y: _Array) -> _Array:
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


def _sound(clip: _Clip) -> NDArray[np.float32]:
    """As many samples as the frames last."""
    rng = np.random.default_rng((*clip.key, 3))
    time = np.arange(round(clip.frames / clip.fps * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = rng.uniform(*_PITCH[clip.cues["pitch"]])
    harmonics = np.arange(1, 7)
    waves = np.sin(2 * np.pi * pitch * np.outer(harmonics, time) + rng.uniform(0, 2 * np.pi, (6, 1)))
    tone = (rng.uniform(0.4, 1.0, 6) / harmonics) @ waves
    beat = (rng.uniform(*_BEAT[clip.cues["rhythm"]]) * time + rng.random()) % 1
    burst = np.minimum(beat / 0.05, 1) * np.exp(-4 * beat)
    breath = np.diff(rng.standard_normal(len(time) + 1))  # the difference is a high-pass: breath has no bass
    level = rng.uniform(0.05, 0.12) if clip.cues["noise"] else rng.uniform(0.0005, 0.002)
    sound: _Array = rng.uniform(0.2, 0.6) * (tone / np.abs(tone).max() * burst + level * breath)
    return sound.clip(-1, 1).astype(np.float32)
