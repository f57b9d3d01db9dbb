"""What the model sees of an image: every kind of pixel, turned upright, cropped as drawn and as torchvision would."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from attnzoo.emotion.samples import Damaged
from attnzoo.images.folder import ImageFile, ImageFolder
from attnzoo.images.model import ImageModel
from attnzoo.images.pictures import Pictures, centre, crop, read_image
from attnzoo.images.recipe import Model, View

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
RGB = np.stack([GREY, GREY.T, 255 - GREY], -1)


def saved(path: Path, image: Image.Image, **how: Any) -> Path:
    image.save(path, **how)
    return path


def palette() -> Image.Image:
    image = Image.new("P", (4, 2), 1)
    image.putpalette([0, 0, 0, 200, 30, 60])
    image.putpixel((0, 0), 0)
    return image


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        ("grey.png", Image.fromarray(GREY), np.stack([GREY] * 3, -1)),
        ("deep.png", Image.fromarray(GREY.astype(np.uint16) * 257), np.stack([GREY] * 3, -1)),
        ("deep.tif", Image.fromarray(GREY.astype(np.uint16) * 257), np.stack([GREY] * 3, -1)),
        ("deep.pgm", Image.fromarray(GREY.astype(np.uint16) * 257), np.stack([GREY] * 3, -1)),
        ("rgb.png", Image.fromarray(RGB), RGB),
        ("rgb.webp", Image.fromarray(RGB), None),
        ("bits.png", Image.fromarray(GREY > 99), np.stack([(GREY > 99) * 255] * 3, -1)),
        ("palette.png", palette(), np.array([[[0, 0, 0]] + [[200, 30, 60]] * 3, [[200, 30, 60]] * 4])),
        ("palette.gif", palette(), np.array([[[0, 0, 0]] + [[200, 30, 60]] * 3, [[200, 30, 60]] * 4])),
        ("opaque.png", Image.fromarray(np.dstack([RGB, np.full_like(GREY, 255)])), RGB),
        ("clear.png", Image.fromarray(np.dstack([RGB, np.zeros_like(GREY)])), np.full((16, 16, 3), 255)),
        ("ink.tif", Image.new("CMYK", (4, 4), (0, 255, 255, 0)), np.full((4, 4, 3), (255, 0, 0))),
        ("ink.jpg", Image.new("CMYK", (4, 4), (0, 255, 255, 0)), np.full((4, 4, 3), (255, 0, 0))),
    ],
)
def test_every_kind_of_pixel_becomes_rgb(
    tmp_path: Path, name: str, image: Image.Image, expected: np.ndarray | None
) -> None:
    read = np.asarray(read_image(saved(tmp_path / name, image))).astype(int)
    if expected is None:
        expected = np.asarray(image).astype(int)
        assert np.abs(read - expected).mean() < 40  # lossy
    else:
        np.testing.assert_allclose(read, expected, atol=2 if name.endswith("jpg") else 0)


def test_a_transparent_colour_of_a_palette_is_white(tmp_path: Path) -> None:
    path = saved(tmp_path / "clear.png", palette(), transparency=1)
    assert np.asarray(read_image(path))[1].tolist() == [[255] * 3] * 4


@pytest.mark.parametrize("orientation", range(9))
def test_photos_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    image = Image.fromarray(RGB[:10])
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "photo.png", image, exif=exif)
    with Image.open(path) as opened:
        assert np.array_equal(np.asarray(read_image(path)), np.asarray(ImageOps.exif_transpose(opened)))


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    jpeg, png = io.BytesIO(), io.BytesIO()
    noise.save(jpeg, "JPEG")
    noise.save(png, "PNG")
    saved(tmp_path / "float.tif", Image.fromarray(np.ones((4, 4), np.float32)))
    contents = {
        "cut.jpg": jpeg.getvalue()[:1500],
        "cut.png": png.getvalue()[:5000],
        "changed.png": png.getvalue()[:80] + bytes(40) + png.getvalue()[120:],
        "text.png": b"<svg></svg>",
        "float.tif": (tmp_path / "float.tif").read_bytes(),
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(Damaged) as error:
            print(name, read_image(path))
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)


def test_crops_are_those_of_torchvision_in_distribution() -> None:
    """Area, shape and place of many crops, against torchvision's RandomResizedCrop."""
    view, (width, height), rng = View(scale=(0.2, 0.9)), (90, 60), np.random.default_rng(0)
    torch.manual_seed(0)
    reference = v2.RandomResizedCrop(8, view.scale, view.ratio)
    ours = np.array([crop((width, height), view, rng) for _ in range(4000)])
    drawn = [reference.make_params([torch.zeros(3, height, width)]) for _ in range(4000)]
    theirs = np.array([[d["left"], d["top"], d["left"] + d["width"], d["top"] + d["height"]] for d in drawn], float)
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 2] <= width).all()
    assert (ours[:, 3] <= height).all()
    # Means of 4000 draws from at most 90: their difference has a standard deviation below 0.6.
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=2)
    np.testing.assert_allclose(ours.std(0), theirs.std(0), atol=2)


@pytest.mark.parametrize("size", [(300, 1), (1, 300), (1, 1)])
def test_crops_of_strange_shapes_lie_within(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        left, top, right, bottom = crop(size, View(), rng)
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]


def test_evaluation_sees_what_torchvisions_resize_and_centre_crop_show(tmp_path: Path) -> None:
    y, x = np.mgrid[:120, :160]
    smooth = np.stack([x * 1.5, y * 2, 100 + 60 * np.sin(x / 20)], -1).astype(np.uint8)
    path = saved(tmp_path / "smooth.png", Image.fromarray(smooth))
    view = View(size=56, centre=0.875)
    (picture,) = [sample.image for sample in [Pictures([ImageFile("a/smooth.png", 0, path, 1)], view)[0]]]
    reference = v2.Compose([v2.Resize(64, v2.InterpolationMode.BICUBIC), v2.CenterCrop(56), v2.PILToTensor()])(
        Image.open(path)
    )
    assert centre((160, 120), view) == (27.5, 7.5, 132.5, 112.5)
    assert (picture.int() - reference.int()).abs().max() <= 3


def test_what_is_drawn_depends_on_seed_epoch_and_image_alone(images: ImageFolder) -> None:
    some = images.samples[:6]
    one, again, other = (Pictures(some, View(size=32), seed=seed) for seed in (1, 1, 2))
    backwards = [again[epoch, i].image for epoch in (1, 0) for i in reversed(range(6))][::-1]
    for (epoch, i), picture in zip([(e, i) for e in (0, 1) for i in range(6)], backwards, strict=True):
        assert torch.equal(one[epoch, i].image, picture)
    assert not torch.equal(one[0, 3].image, one[1, 3].image)
    assert not torch.equal(one[0, 3].image, other[0, 3].image)
    fixed = Pictures(some, View(size=32), seed=1, views=1)
    assert torch.equal(fixed[4, 3].image, Pictures(some, View(size=32))[3].image)


def test_half_of_the_images_are_mirrored(images: ImageFolder) -> None:
    view = View(size=32, crop="centre")
    plain = Pictures(images.samples[:1], view)[0].image
    drawn = [Pictures(images.samples[:1], view, seed=0)[epoch, 0].image for epoch in range(200)]
    flipped = sum(torch.equal(picture, plain.flip(2)) for picture in drawn)
    assert flipped + sum(torch.equal(picture, plain) for picture in drawn) == 200
    assert 70 < flipped < 130


@pytest.mark.parametrize("name", ["resnet18", "resnetv2_50"])
def test_the_backbones_own_normalisation_is_taken(name: str) -> None:
    config = timm.get_pretrained_cfg(name)
    model = ImageModel(Model(backbone=f"timm/{name}"), 2)
    assert model.mean.flatten().tolist() == pytest.approx(config.mean)
    assert model.std.flatten().tolist() == pytest.approx(config.std)
    given = ImageModel(Model.model_validate({"backbone": f"timm/{name}", "normalisation": "half"}), 2)
    assert given.mean.flatten().tolist() == [0.5] * 3
