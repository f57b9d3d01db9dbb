"""What the model sees of an image: the file as people see it, cropped and scaled to a square."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from attnzoo.emotion.samples import Damaged, Reader, Sample
from attnzoo.images.recipe import View

Box = tuple[float, float, float, float]
TRIES = 10  # at a random crop that lies within its image


class Batch(NamedTuple):
    """One image, or a batch of them with a first dimension B.

    Attributes:
        image: (3, size, size), 0 to 255.
        label: (), index of the class.

    >>> Batch(torch.zeros(3, 8, 8), torch.tensor(1)).label
    tensor(1)
    """

    image: Tensor
    label: Tensor


class Pictures(Reader):
    """What the model sees of each image.

    Args:
        images: the images.
        view: size, crop and mirroring.
        seed: None for evaluation; else crop and mirroring are drawn from it, the epoch and the image's number.
        damaged: "stop" raises at an image that cannot be read; "skip" gives None for it and says so once.
        views: see `Reader`.

    >>> len(Pictures([], View()))
    0
    """

    def __init__(
        self,
        images: Sequence[Sample],
        view: View,
        seed: int | None = None,
        damaged: Literal["stop", "skip"] = "stop",
        views: int | None = None,
    ) -> None:
        super().__init__(images, seed, damaged, views)
        self.view = view

    def read(self, epoch: int, i: int) -> Batch:
        """See `Reader.read`."""
        sample, view, rng = self.samples[i], self.view, self.rng(epoch, i)
        image = read_image(sample.path)
        box = centre(image.size, view) if rng is None or view.crop == "centre" else crop(image.size, view, rng)
        square = image.resize((view.size, view.size), Image.Resampling.BICUBIC, box)
        if rng is not None and rng.random() < view.flip:
            square = ImageOps.mirror(square)
        # A copy, since Pillow's memory is its own.
        return Batch(torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous(), torch.tensor(sample.label))


def centre(size: tuple[int, int], view: View) -> Box:
    """The square in the centre that is seen in evaluation: left, top, right, bottom in pixels.

    Args:
        size: width and height of the image.
        view: for its share.

    >>> centre((100, 60), View(centre=0.5))
    (35.0, 15.0, 65.0, 45.0)
    """
    side, (width, height) = view.centre * min(size), size
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def crop(size: tuple[int, int], view: View, rng: np.random.Generator) -> Box:
    """A part of an image of random area, shape and place (Szegedy et al., 2015, https://arxiv.org/abs/1409.4842).

    As in torchvision's RandomResizedCrop: area uniform, ratio uniform in its logarithm; where ten draws do not fit into
    the image, the largest part of an allowed ratio in the centre.

    Args:
        size: width and height of the image.
        view: for scale and ratio.
        rng: draws.

    Returns:
        Left, top, right, bottom in pixels.

    >>> crop((40, 20), View(scale=(1, 1), ratio=(1, 1)), np.random.default_rng(0))
    (10.0, 0.0, 30.0, 20.0)
    """
    width, height = size
    low, high = view.ratio
    for _ in range(TRIES):
        area = rng.uniform(*view.scale) * width * height
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        w, h = max(1, round(math.sqrt(area * ratio))), max(1, round(math.sqrt(area / ratio)))
        if w <= width and h <= height:
            left, top = (float(rng.integers(most + 1)) for most in (width - w, height - h))
            return left, top, left + w, top + h
    whole, tall = min(width, height * high), min(height, width / low)
    return (width - whole) / 2, (height - tall) / 2, (width + whole) / 2, (height + tall) / 2


def read_image(path: Path) -> Image.Image:
    """An image in RGB with 8 bits a colour, as a viewer shows it.

    It is turned upright as its EXIF data say. Of several frames the first is taken, what is transparent lies on white,
    16 bits are cut to 8, and CMYK is converted without a profile.

    Args:
        path: of the file.

    Raises:
        Damaged: not an image, one that breaks off, or one whose pixels have no known range.

    >>> read_image(Path("nowhere.png"))
    Traceback (most recent call last):
    attnzoo.emotion.samples.Damaged: nowhere.png: the file is gone
    """
    with _told(path), Image.open(path) as image:
        image.load()
        return _upright(_rgb(image, path), image)


def probe(path: Path) -> None:
    """Read the head of an image.

    Args:
        path: of the file.

    Raises:
        Damaged: not an image.

    >>> probe(Path("nowhere.png"))
    Traceback (most recent call last):
    attnzoo.emotion.samples.Damaged: nowhere.png: the file is gone
    """
    with _told(path), Image.open(path):
        pass


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Whatever Pillow raises, of many kinds, as one line."""
    try:
        yield
    except (Damaged, MemoryError):
        raise
    except FileNotFoundError:
        raise Damaged(f"{path}: the file is gone") from None
    except UnidentifiedImageError:
        reason = "a file that is none" if path.stat().st_size else "the file is empty"
        raise Damaged(f"{path}: not a readable image ({reason})") from None
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Damaged(f"{path}: not a readable image ({reason})") from None


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode == "F":
        raise Damaged(f"{path}: its pixels are floating-point numbers without a known white; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits of grey, in Pillow's PGM in 32
        grey = np.clip(np.asarray(image, np.int64), 0, 65535) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        upon = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(upon, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image, source: Image.Image) -> Image.Image:
    """The image turned as the EXIF data of its source say; damaged ones say nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            turn: Any = source.getexif().get(0x0112)
        except Exception:
            return image
    how = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(turn)
    return image if how is None else image.transpose(how)
