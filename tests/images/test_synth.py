"""The synthetic images: the same bytes again, and a class that neither a shape nor a texture alone tells."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnzoo.images.folder import read_images
from attnzoo.images.synth import NAMES, synthesise_images


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_same_arguments_give_the_same_bytes_and_an_interrupted_call_goes_on(tmp_path: Path) -> None:
    one = synthesise_images(tmp_path / "one", per_class=2, size=48)

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesise_images(tmp_path / "two", per_class=2, size=48, progress=stop)
    assert content(synthesise_images(tmp_path / "two", per_class=2, size=48)) == content(one)
    assert content(synthesise_images(tmp_path / "three", per_class=2, size=48, seed=1)) != content(one)
    with pytest.raises(ValueError, match="holds images with size = 48, not 64: give another folder"):
        synthesise_images(one, per_class=2, size=64)
    folder = read_images(one)
    assert (folder.classes, len(folder.samples), folder.findings) == (NAMES, 12, ())


@pytest.mark.parametrize("count", range(2, 10))
def test_each_class_is_another_pair_of_shape_and_texture(tmp_path: Path, count: int) -> None:
    names = [f"class{i}" for i in range(count)]
    root = synthesise_images(tmp_path / "images", classes=names, per_class=1, size=32)
    truth = [json.loads(line) for line in (root / "truth.jsonl").read_text().splitlines()]
    pairs = Counter((line["shape"], line["texture"]) for line in truth)
    assert len(pairs) == count
    if count >= 4:  # neither alone: each texture is of several classes, and each but the last shape
        assert min(Counter(texture for _, texture in pairs).values()) >= 2
        assert max(Counter(shape for shape, _ in pairs).values()) >= 2


def test_the_texture_is_in_its_box(tmp_path: Path) -> None:
    root = synthesise_images(tmp_path / "images", per_class=4)
    for line in (root / "truth.jsonl").read_text().splitlines():
        told = json.loads(line)
        grey = np.asarray(Image.open(root / told["image"]).convert("L"), float)
        left, top, right, bottom = (round(96 * edge) for edge in told["box"])
        h, w = bottom - top, right - left
        middle = grey[top + h // 4 : bottom - h // 4, left + w // 4 : right - w // 4]
        assert middle.std() > 40  # stripes of two colours, far apart
        assert grey.std() < middle.std()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": ["one"]}, "1 classes: shapes and textures tell 2 to 9 apart"),
        ({"classes": ["a", "A"]}, "names must differ in more than case"),
        ({"classes": ["a", "../b"]}, "must name a folder"),
        ({"size": 8}, "size = 8: must be at least 32"),
    ],
)
def test_what_cannot_be_made_is_refused(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthesise_images(tmp_path / "images", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "images").exists()
