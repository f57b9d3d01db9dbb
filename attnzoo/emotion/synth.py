"""A synthetic video-emotion task: real H.264/AAC clips, the class in motion and sound of several scales together.

Every class is a pair of words, one seen and one heard, and every word is three cues that are on or off. Several classes
share each word, so neither modality alone can tell them all apart. A picture cue is a motion: switched off, the same
part is there, frozen in a random pose, so a single frame gives nothing away.
"""

import json
import signal
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
import numpy as np

from attnzoo.emotion.puppet import SAMPLE_RATE, Puppet

EKMAN = ("anger", "disgust", "fear", "joy", "sadness", "surprise")
CUES = ("micro", "meso", "macro", "pitch", "rhythm", "noise")

# Micro, meso, macro or pitch, rhythm, noise. In the first three words each cue is on twice and off once: with six
# classes one cue tells one word from the other two, and it takes two cues to tell all three apart.
_WORDS = ("110", "101", "011", "000", "111", "100", "010", "001")


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
    claim_folder(root, arguments, "clips")

    clips = []
    for label, (name, on) in enumerate(table.items()):
        (root / name).mkdir(exist_ok=True)
        for index in range(per_class):
            coins = np.random.default_rng((seed, label, index, 0)).random(len(CUES)) < 0.5
            shown = {cue: on[cue] if cue in used else bool(coin) for cue, coin in zip(CUES, coins, strict=True)}
            path = root / name / f"{name}_{index:04d}.mp4"
            puppet = Puppet(shown, round(seconds * fps), fps, width, height, (seed, label, index))
            clips.append(_Clip(path, puppet))
    write_text(root / "truth.jsonl", "".join(json.dumps(clip.truth()) + "\n" for clip in clips))

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


def claim_folder(root: Path, arguments: dict[str, Any], samples: str) -> None:
    """Make `root` the folder of the data set with these arguments, or refuse it.

    Args:
        root: new, empty, or with a `synth.json` of the same arguments.
        arguments: of the data set.
        samples: what is in it.

    Raises:
        ValueError: it holds something else.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     claim_folder(Path(folder), {"seed": 0}, "clips")
    ...     claim_folder(Path(folder), {"seed": 1}, "clips")
    Traceback (most recent call last):
    ValueError: /... holds clips with seed = 0, not 1: give another folder or its arguments
    """
    record = root / "synth.json"
    if record.exists():
        found = json.loads(record.read_text())
        differing = [
            f"{key} = {found.get(key)}, not {arguments[key]}" for key in arguments if found.get(key) != arguments[key]
        ]
        if differing:
            raise ValueError(
                f"{root} holds {samples} with {'; '.join(differing)}: give another folder or its arguments"
            )
        return
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(
            f"{root} holds other things than synthetic {samples} (no synth.json): give a new or empty folder"
        )
    root.mkdir(parents=True, exist_ok=True)
    write_text(record, json.dumps(arguments, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Args:
        path: of the file, whose folder there is.
        text: its content.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_text(Path(folder) / "a.txt", "a")
    ...     (Path(folder) / "a.txt").read_text()
    'a'
    """
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.replace(path)


@dataclass(frozen=True, slots=True)
class _Clip:
    """One clip to write."""

    path: Path
    puppet: Puppet

    def truth(self) -> dict[str, Any]:
        name, puppet = self.path.parent.name, self.puppet
        return {
            "clip": f"{name}/{self.path.name}",
            "class": name,
            "cues": puppet.cues,
            "boxes": puppet.look().boxes(),
        }


def _write_all(clips: list[_Clip], workers: int) -> Iterator[None]:
    if workers == 1:
        yield from map(_write, clips)
        return
    # spawn: a child forked from a process in which torch or FFmpeg has threads can hang
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        # Ctrl-C is for this process alone, which lets the others finish the clips they have: they inherit the block.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        written = pool.map(_write, clips)
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        yield from written


def _write(clip: _Clip) -> None:
    puppet = clip.puppet
    part = clip.path.with_name(f".{clip.path.name}.part")
    with av.open(part, "w", format="mp4") as container:
        # For the same bytes every time: x264 divides its work by the number of cores, and even on one thread its
        # macroblock tree differs from run to run (25 encodings of one clip of 64 x 48 gave 13 different streams).
        options = {"preset": "veryfast", "crf": "20", "threads": "1", "x264-params": "mbtree=0"}
        video = container.add_stream("libx264", rate=puppet.fps, options=options)
        video.width, video.height, video.pix_fmt = puppet.width, puppet.height, "yuv420p"
        video.codec_context.gop_size = puppet.fps  # a key frame every second, so that readers can seek
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for picture in puppet.pictures():
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(puppet.sound()[None], format="fltp", layout="mono")
        sound.sample_rate = SAMPLE_RATE
        sound.pts = 0  # without it the encoder's run-in of 1024 samples would be heard, and the sound 64 ms late
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))
    part.replace(clip.path)
