"""Folders of images: by class, in train, val and test, and with files that are no images or broken."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from attnzoo.emotion.experiment import Division
from attnzoo.emotion.protocols import split
from attnzoo.images.folder import read_images


def pixel(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 16), (value, 0, 0)).save(path)
    return path


def keys(part: object) -> set[str]:
    return {sample.key for sample in part}  # type: ignore[attr-defined]


@pytest.mark.parametrize("protocol", [None, "kfold(4)"])
def test_a_folder_by_class_is_divided_by_class(root: Path, protocol: str | None) -> None:
    folder = read_images(root)
    assert folder.classes == ("blue", "green", "red")
    parts = split(folder, Division(protocol=protocol, test_fraction=0.25, val_fraction=0.125))
    three = [keys(part) for part in (parts.train, parts.val, parts.test)]
    assert sum(map(len, three)) == len(set.union(*three)) == 48
    assert [sum(sample.label == 1 for sample in part) for part in (parts.train, parts.val, parts.test)] == [10, 2, 4]
    assert "30 training, 6 validation, 12 test images" in parts.protocol


def test_folders_of_parts_are_kept(parted: Path) -> None:
    folder = read_images(parted)
    assert folder.splits == ("folders train and val and test",)
    parts = split(folder, Division())
    for name, part in (("train", parts.train), ("val", parts.val), ("test", parts.test)):
        assert {key.split("/")[0] for key in keys(part)} == {name}
    assert parts.protocol.startswith("folders: 30 training, 9 validation, 12 test images")
    # A recipe may ask for another division of all of them.
    again = split(folder, Division(protocol="kfold(3)"))
    assert len(again.train) + len(again.val) + len(again.test) == 51
    assert {key.split("/")[0] for key in keys(again.test)} == {"train", "val", "test"}
    with pytest.raises(ValueError, match=r"fold=1: the splits of .* are 0 folders train and val and test"):
        split(folder, Division(protocol="folders", fold=1))


def test_without_a_folder_test_that_can_be_evaluated_val_is_for_test(parted: Path, tmp_path: Path) -> None:
    root = tmp_path / "imagenet"
    shutil.copytree(parted, root)
    shutil.rmtree(root / "test")
    pixel(root / "test" / "unlabelled.png")  # as in a competition
    folder = read_images(root)
    assert "test has no class folders: passed over" in folder.notes
    parts = split(folder, Division(val_fraction=0.2))
    assert {key.split("/")[0] for key in keys(parts.test)} == {"val"}
    assert {key.split("/")[0] for key in keys(parts.train) | keys(parts.val)} == {"train"}
    assert (len(parts.train), len(parts.val), len(parts.test)) == (21, 9, 9)


def test_classes_may_be_called_like_parts(tmp_path: Path) -> None:
    for name in ("train", "plane"):
        pixel(tmp_path / name / "a.png")
    assert read_images(tmp_path).classes == ("plane", "train")


def test_whatever_lies_there_is_used_or_told(tmp_path: Path) -> None:
    cat = tmp_path / "cat"
    for name in ("good.png", "sub/deep.JPG", "ünï 100% [x];'$(echo).png", ".hidden.png"):
        pixel(cat / name)
    pixel(tmp_path / "dog" / "a.bmp")
    (cat / "notes.txt").write_text("labels")
    (cat / "fake.jpg").write_text("no image")
    (cat / "empty.png").touch()
    (cat / "link.png").symlink_to("nowhere.png")
    (cat / os.fsdecode(b"\xff.png")).write_bytes((cat / "good.png").read_bytes())
    cut = tmp_path / "dog" / "cut.jpg"
    Image.effect_noise((64, 64), 60).save(cut)
    cut.write_bytes(cut.read_bytes()[:1500])
    folder = read_images(tmp_path)
    assert sorted(keys(folder.samples)) == [
        "cat/good.png",
        "cat/sub/deep.JPG",
        "cat/ünï 100% [x];'$(echo).png",
        "dog/a.bmp",
        "dog/cut.jpg",
    ]
    assert folder.counts() == {"unreadable": 4, "no image": 1}
    assert {f.key: f.detail for f in folder.findings}["cat/empty.png"] == "not a readable image (the file is empty)"
    assert all("\n" not in finding.detail for finding in folder.findings)
    decoded = read_images(tmp_path, decode=True)
    assert [f.key for f in decoded.findings if f.kind == "truncated"] == ["dog/cut.jpg"]
    assert decoded.fingerprint != folder.fingerprint
    with pytest.raises(ValueError, match=r"cat/.* is unreadable: .*; mend it, or let data\.damaged be skip"):
        read_images(tmp_path, damaged="stop")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no sub-folders; put the images"),
        (["cat/a.png"], "holds one class only, cat; put the images"),
        (["cat/a.png", "dog/b.txt"], r"class dog of .* has no usable image: dog/b\.txt: a file \.txt; add images"),
    ],
)
def test_a_folder_that_cannot_be_classified_is_refused(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        pixel(path) if name.endswith("png") else path.write_text("x")
    with pytest.raises(ValueError, match=message):
        read_images(tmp_path)


def test_the_fingerprint_is_that_of_the_images_not_of_their_place(parted: Path, tmp_path: Path) -> None:
    shutil.copytree(parted, tmp_path / "copy")
    before = read_images(parted).fingerprint
    assert read_images(tmp_path / "copy").fingerprint == before
    (tmp_path / "copy" / "val").rename(tmp_path / "copy" / "validation")
    (tmp_path / "copy" / "validation" / "red" / "0.png").rename(tmp_path / "copy" / "train" / "red" / "99.png")
    assert read_images(tmp_path / "copy").fingerprint != before
