"""A synthetic image task: the class is the shape of the textured thing together with its texture.

A picture shows one textured thing among plain ones on a cloudy ground. The plain things have any shape, and the texture
also lies in shapeless spots, so that neither a shape nor a texture somewhere tells the class; both of one thing do.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from attnzoo.emotion.synth import claim_folder, write_text

Box = tuple[float, float, float, float]
SHAPES = ("disc", "square", "triangle")
TEXTURES = ("bars", "rows", "checks")
NAMES = tuple(f"{shape}-{texture}" for shape in SHAPES for texture in TEXTURES[::2])
SCALE = 3  # at which shapes are drawn before they are scaled down, for smooth edges


def synthesise_images(
    root: Path,
    *,
    classes: Sequence[str] = NAMES,
    per_class: int = 60,
    size: int = 96,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `root/<class>/<class>_0000.png` and so on; on one machine the same arguments give the same bytes.

    Beside them stand `synth.json`, the arguments, and `truth.jsonl`, one line per image: `image`, `class`, `shape`,
    `texture` and `box` of the thing, [left, top, right, bottom] in fractions of the image. The same call resumes an
    interrupted one. Class i of n has shape i // T and texture i mod T, with T = ceil(n / 3) textures in use.

    Args:
        root: the folder to write: new, empty, or begun by a call with the same arguments.
        classes: 2 to 9 names, each fit to name a folder.
        per_class: images of each class.
        size: edge of the images, px.
        seed: of everything drawn at random.
        progress: called after every image with (images finished, images in all).

    Returns:
        `root`.

    Raises:
        ValueError: an argument out of range, or a folder that holds anything but the same data set.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     root = synthesise_images(Path(folder), classes=["cat", "dog"], per_class=1, size=48)
    ...     sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    ['cat/cat_0000.png', 'dog/dog_0000.png']
    """
    _check(classes, per_class, size, seed)
    root = Path(root)
    arguments = {"kind": "images", "classes": list(classes), "per_class": per_class, "size": size, "seed": seed}
    claim_folder(root, arguments, "images")
    kinds = _kinds(len(classes))
    truth: list[dict[str, Any]] = []
    for label, name in enumerate(classes):
        (root / name).mkdir(exist_ok=True)
        for index in range(per_class):
            path = root / name / f"{name}_{index:04d}.png"
            # Nuisance knows the image, not its class.
            picture, box = draw(*kinds[label], size, np.random.default_rng((seed, label, index)))
            if not path.exists():
                part = path.with_name(f".{path.name}.part")
                Image.fromarray(picture).save(part, "PNG")
                part.replace(path)
            shape, texture = kinds[label]
            truth.append(
                {"image": f"{name}/{path.name}", "class": name, "shape": shape, "texture": texture, "box": box}
            )
            if progress:
                progress(len(truth), per_class * len(classes))
    write_text(root / "truth.jsonl", "".join(json.dumps(line) + "\n" for line in truth))
    return root


def draw(shape: str, texture: str, size: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Box]:
    """One picture (size, size, 3), and the box of its textured thing in fractions of the picture.

    Args:
        shape: one of SHAPES.
        texture: one of TEXTURES.
        size: px.
        rng: draws all else.

    >>> picture, box = draw("disc", "bars", 48, np.random.default_rng(0))
    >>> picture.shape, 0 <= box[0] < box[2] <= 1
    ((48, 48, 3), True)
    """
    ground = Image.fromarray(rng.integers(70, 190, (5, 5, 3), np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    picture = np.asarray(ground, np.float64)
    spots = [(_spot(size, rng), _texture(str(rng.choice(TEXTURES)), size, rng)) for _ in range(2)]
    things = [(_mask(str(rng.choice(SHAPES)), size, rng)[0], _colour(rng)) for _ in range(3)]
    mask, box = _mask(shape, size, rng)
    # The thing last, so that nothing hides it.
    for where, what in (*spots, *things, (mask, _texture(texture, size, rng))):
        picture = picture + where[..., None] * (what - picture)
    noisy = picture + rng.normal(0, 6, picture.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8), box


def _kinds(count: int) -> list[tuple[str, str]]:
    used = (TEXTURES[0], TEXTURES[2], TEXTURES[1])[: -(-count // len(SHAPES))]
    return [(SHAPES[i // len(used)], used[i % len(used)]) for i in range(count)]


def _colour(rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.uniform(20, 235, 3)


def _texture(name: str, size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Two colours in stripes or checks of a drawn width and phase."""
    y, x = np.mgrid[:size, :size] / size
    rate, phase = rng.uniform(9, 12), rng.uniform(0, 1, 2)
    across, down = np.sin(2 * np.pi * (rate * x + phase[0])), np.sin(2 * np.pi * (rate * y + phase[1]))
    wave = {"bars": across, "rows": down, "checks": np.sign(across * down)}[name]
    dark, light = rng.uniform(0, 70, 3), rng.uniform(185, 255, 3)
    texture: NDArray[np.float64] = dark + (wave[..., None] > 0) * (light - dark)
    return texture


def _mask(shape: str, size: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], Box]:
    radius = rng.uniform(0.15, 0.22)
    x, y = rng.uniform(radius, 1 - radius, 2)
    turn = rng.uniform(0, 2 * np.pi)
    image = Image.new("L", (SCALE * size, SCALE * size))
    corners = {"disc": 60, "square": 4, "triangle": 3}[shape]
    angles = turn + 2 * np.pi * np.arange(corners) / corners
    points = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1)
    ImageDraw.Draw(image).polygon([tuple(p) for p in (points * SCALE * size).tolist()], fill=255)
    (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
    return np.asarray(image.resize((size, size), Image.Resampling.BOX), np.float64) / 255, (left, top, right, bottom)


def _spot(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A blurred spot without a shape."""
    y, x = np.mgrid[:size, :size] / size
    centre, width = rng.uniform(0.1, 0.9, 2), rng.uniform(0.06, 0.1)
    spot: NDArray[np.float64] = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * width**2))
    return spot


def _check(classes: Sequence[str], per_class: int, size: int, seed: int) -> None:
    most = len(SHAPES) * len(TEXTURES)
    if not 2 <= len(classes) <= most:
        raise ValueError(f"{len(classes)} classes: shapes and textures tell 2 to {most} apart; give that many names")
    if len({name.casefold() for name in classes}) < len(classes):
        raise ValueError(f"classes {', '.join(classes)}: names must differ in more than case; rename the repeated one")
    for name in classes:
        if name.startswith(".") or not name.isprintable() or Path(name).name != name:
            raise ValueError(f"class {name!r}: must name a folder, without '/' or a leading '.'; rename it")
    for told, value, least in (("per_class", per_class, 1), ("size", size, 32), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{told} = {value}: must be at least {least}; give a larger one")
