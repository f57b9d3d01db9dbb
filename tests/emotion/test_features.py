"""Features of frozen streams on disk: the same numbers as without, once, whole, and anew when anything changes."""

import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from attnzoo.emotion.clips import Batch, Clips
from attnzoo.emotion.datasets import Video, read_folder
from attnzoo.emotion.evaluation import evaluate
from attnzoo.emotion.features import FeatureClips, cached, content
from attnzoo.emotion.media import Index
from attnzoo.emotion.model import AudioVisualModel
from attnzoo.emotion.recipe import Recipe
from attnzoo.emotion.samples import collate
from attnzoo.emotion.training import train

SMALL: dict[str, Any] = {
    "name": "test",
    "clip": {"segments": 2, "frames": 4, "size": 32},
    "audio": {"coefficients": 12, "mels": 24, "width": 16},
    "model": {
        "visual": {"backbone": "resnet3d/10", "options": {"widen_factor": 0.125, "stem_size": 3}, "freeze": "all"},
        "audio": {"backbone": "timm/resnet10t", "options": {"channels": [8, 16, 32, 64]}, "freeze": "all"},
        "width": 16,
    },
    "training": {"workers": 0, "views": 1},
}


def recipe_of(cache: Path | None = None, **changes: Any) -> Recipe:
    """With fields changed, as in model.visual.freeze=5, written model__visual__freeze=5."""
    content = Recipe.model_validate(SMALL).model_dump(mode="json")
    for dotted, value in changes.items():
        *parents, last = dotted.split("__")
        part = content
        for parent in parents:
            part = part[parent]
        part[last] = value
    content["training"]["cache"] = cache
    return Recipe.model_validate(content)


def model_of(recipe: Recipe) -> AudioVisualModel:
    torch.manual_seed(0)
    return AudioVisualModel(recipe.model, recipe.clip, recipe.audio, 3)


def clips_of(videos: tuple[Video, ...], recipe: Recipe, seed: int | None = 0) -> Clips:
    return Clips(videos, recipe.clip, recipe.audio, seed, views=recipe.training.views)


def fill(videos: tuple[Video, ...], recipe: Recipe, seed: int | None = 0) -> tuple[Clips, list[tuple[int, int]]]:
    """The clips, and what was reported of the work."""
    reports: list[tuple[int, int]] = []
    model = model_of(recipe)
    clips = cached(clips_of(videos, recipe, seed), model, recipe, progress=lambda *report: reports.append(report))
    return clips, reports


def entries(cache: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(cache.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def some(videos: Path) -> tuple[Video, ...]:
    """One video of each class, one of them without sound."""
    a, b, c = read_folder(videos, 4).videos[::6]
    return a, replace(b, index=replace(b.index, sound=None)), c


def losses(model: AudioVisualModel, clips: Clips, epochs: int) -> list[float]:
    """Of a training."""
    torch.manual_seed(1)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    told = []
    for epoch in range(epochs):
        for items in ([(epoch, 0), (epoch, 1)], [(epoch, 2)]):
            batch = collate([clips[item] for item in items])
            assert batch is not None
            loss = cross_entropy(model.train()(batch.frames, batch.sound, batch.heard).mean(1), batch.label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            told.append(loss.item())
    return told


@pytest.mark.parametrize(("streams", "views"), [("visual", 2), ("audio", 2), ("both", 1)])
def test_training_is_the_same_as_without(some: tuple[Video, ...], streams: str, views: int, tmp_path: Path) -> None:
    live = {f"model__{name}__freeze": None for name in ("visual", "audio") if streams not in (name, "both")}
    recipe = recipe_of(tmp_path, training__views=views, **live)
    expected = losses(model_of(recipe), clips_of(some, recipe), 3)
    model = model_of(recipe)
    told = losses(model, cached(clips_of(some, recipe), model, recipe), 3)
    assert told == pytest.approx(expected, rel=1e-4)
    assert expected[-2] != pytest.approx(expected[0], rel=1e-3)  # of the same two videos: something was learnt
    count = 3 * views * (2 if streams == "both" else 1)
    assert len(entries(tmp_path)) == count


def test_an_entry_is_what_the_stream_makes_of_the_clip(some: tuple[Video, ...], tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, training__views=2)
    clips, plain, model = fill(some, recipe)[0], clips_of(some, recipe), model_of(recipe).eval()
    for epoch in (0, 1, 5):
        for i, video in enumerate(some):
            sample, pixels = clips[epoch, i], plain[epoch, i]
            assert isinstance(sample, Batch)
            assert isinstance(pixels, Batch)
            with torch.no_grad():
                visual, audio = (
                    model.visual_features(pixels.frames[None])[0],
                    model.audio_features(pixels.sound[None])[0],
                )
            torch.testing.assert_close(sample.frames, visual)
            torch.testing.assert_close(sample.sound, audio)
            assert sample.frames.dtype == sample.sound.dtype == torch.float32
            assert (bool(sample.heard), int(sample.label)) == (video.index.sound is not None, video.label)


def frames(clips: Clips, epoch: int, i: int = 0) -> Tensor:
    sample = clips[epoch, i]
    assert sample is not None
    return sample.frames


def test_views_are_of_the_video_and_come_in_turn(some: tuple[Video, ...]) -> None:
    recipe = recipe_of(training__views=3)
    clips = clips_of(some, recipe)
    seen = [frames(clips, epoch) for epoch in range(6)]
    assert all(torch.equal(seen[n], seen[n + 3]) for n in range(3))
    assert not torch.equal(seen[0], seen[1])
    other = clips_of(some[::-1], recipe, seed=9)  # another split and seed
    assert torch.equal(frames(other, 1, 2), seen[1])
    centred = clips_of(some, recipe, seed=None)
    single = clips_of(some, recipe_of(training__views=1))
    assert torch.equal(frames(single, 0), frames(centred, 0))
    assert torch.equal(frames(single, 7), frames(centred, 0))


def test_features_are_worked_out_once_and_serve_every_split_and_evaluation(
    some: tuple[Video, ...], tmp_path: Path
) -> None:
    recipe = recipe_of(tmp_path)
    _, reports = fill(some[:2], recipe)
    assert reports == [(1, 2), (2, 2)]
    first = entries(tmp_path)
    for videos, seed, missing in ((some[:2], 0, 0), (some[1::-1], 5, 0), (some[:2], None, 0), (some, None, 1)):
        _, reports = fill(videos, recipe, seed)
        assert len(reports) == missing
    assert first.items() <= entries(tmp_path).items()
    assert len(entries(tmp_path)) == 6


def test_an_interruption_loses_nothing_that_was_done(some: tuple[Video, ...], tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    model = model_of(recipe).train()

    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(clips_of(some, recipe), model, recipe, progress=interrupt)
    assert model.training
    assert len(entries(tmp_path)) == 4
    assert fill(some, recipe)[1] == [(1, 1)]


@pytest.mark.parametrize(
    ("changes", "visual", "audio"),
    [
        ({}, False, False),
        ({"training__lr": 0.1, "model__width": 8, "model__fusion": "gmu"}, False, False),
        ({"model__visual__normalisation": "kinetics"}, True, False),
        ({"model__visual__options": {"widen_factor": 0.125, "stem_size": 3, "stem_stride": 2}}, True, False),
        ({"clip__size": 48}, True, True),
        ({"audio__preemphasis": 0.5}, False, True),
        ({"training__views": 2}, True, True),
    ],
)
def test_what_features_depend_on_gives_new_ones(
    some: tuple[Video, ...], changes: dict[str, Any], visual: bool, audio: bool, tmp_path: Path
) -> None:
    one, other = fill(some[:1], recipe_of(tmp_path))[0], fill(some[:1], recipe_of(tmp_path, **changes))[0]
    assert isinstance(one, FeatureClips)
    assert isinstance(other, FeatureClips)
    assert (one.entry("visual", 0, 0) != other.entry("visual", 0, 0)) == visual
    assert (one.entry("audio", 0, 0) != other.entry("audio", 0, 0)) == audio


@pytest.mark.parametrize("name", ["visual", "audio"])
def test_other_weights_give_new_features(some: tuple[Video, ...], name: str, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    before = fill(some[:1], recipe)[0]
    model = model_of(recipe)
    state = model.get_submodule(name).state_dict()
    next(value for key, value in state.items() if key.endswith("running_mean"))[0] += 1e-6
    after = cached(clips_of(some[:1], recipe), model, recipe)
    assert isinstance(before, FeatureClips)
    assert isinstance(after, FeatureClips)
    for stream in ("visual", "audio"):
        assert (before.entry(stream, 0, 0) != after.entry(stream, 0, 0)) == (stream == name)  # type: ignore[arg-type]


def index_of(path: Path, sound: Path | None = None) -> Index:
    return Index(path, (0, 1), 0.1, 10.0, 2, sound)


def test_content_is_what_is_in_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path, copy = tmp_path / "a.mp4", tmp_path / "b.mp4"
    path.write_bytes(rng.bytes(300_000))
    first = content(index_of(path))
    shutil.copy(path, copy)
    os.utime(copy, (1, 1))
    assert content(index_of(copy)) == first
    data = bytearray(path.read_bytes())
    for place in (0, 150_000, len(data) - 1):
        copy.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert content(index_of(copy)) != first
    copy.write_bytes(data + b"x")
    assert content(index_of(copy)) != first
    copy.write_bytes(b"sound")
    assert content(index_of(path, path)) == first
    assert len({first, content(index_of(path, copy)), content(index_of(copy))}) == 3


def test_content_of_large_files_and_of_folders(tmp_path: Path) -> None:
    large = tmp_path / "large.mp4"
    size = 40 << 20  # of zeros, which take no space
    with large.open("wb") as file:
        file.truncate(size)
    first = content(index_of(large))
    with large.open("r+b") as file:
        file.seek(size - 1)
        file.write(b"x")
    assert content(index_of(large)) != first
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(40):
        (folder / f"{i:06d}.jpg").write_bytes(bytes(i))
    first = content(index_of(folder))
    assert content(index_of(folder)) == first
    (folder / "000039.jpg").write_bytes(bytes(38) + b"x")
    second = content(index_of(folder))
    (folder / "000040.jpg").write_bytes(b"x")
    assert len({first, second, content(index_of(folder))}) == 3


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "text", "other"])
def test_a_damaged_entry_is_worked_out_anew(some: tuple[Video, ...], damage: str, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    clips = fill(some[:2], recipe)[0]
    assert isinstance(clips, FeatureClips)
    path, whole = clips.entry("visual", 0, 0), clips.entry("visual", 0, 0).read_bytes()
    before, kept = frames(clips, 0), entries(tmp_path)
    if damage == "other":
        np.savez(path, something=np.zeros(3))
    else:
        flipped = bytearray(whole)
        flipped[300] ^= 1  # among the features
        path.write_bytes({"cut": whole[:-40], "empty": b"", "text": b"features", "flipped": bytes(flipped)}[damage])
    with pytest.raises(ValueError, match=r"calm_0000\.mp4: its features in .* are gone or damaged; start again"):
        clips[0, 0]
    again, reports = fill(some[:2], recipe)
    assert reports == [(1, 1)]
    torch.testing.assert_close(frames(again, 0), before)
    assert {p: t for p, t in entries(tmp_path).items() if p != path} == {p: t for p, t in kept.items() if p != path}


def _fill_at_once(barrier: Any, cache: Path, videos: tuple[Video, ...]) -> None:
    barrier.wait(120)
    fill(videos, recipe_of(cache))


def test_two_processes_fill_one_folder_at_once(some: tuple[Video, ...], tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    other = context.Process(target=_fill_at_once, args=(barrier, tmp_path, some))
    other.start()
    _fill_at_once(barrier, tmp_path, some)
    other.join(120)
    assert other.exitcode == 0
    assert [path.suffix for path in entries(tmp_path)] == [".npz"] * 6
    assert fill(some, recipe_of(tmp_path))[1] == []


def test_workers_give_the_same(some: tuple[Video, ...], tmp_path: Path) -> None:
    one, _ = fill(some, recipe_of(tmp_path / "one"))
    two, reports = fill(some, recipe_of(tmp_path / "two", training__workers=2))
    assert reports[-1] == (3, 3)
    for i in range(3):
        torch.testing.assert_close(frames(one, 0, i), frames(two, 0, i))


def test_a_video_that_is_lost_is_skipped_as_without(some: tuple[Video, ...], tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(b"no video at all")
    videos = (some[0], replace(some[1], index=replace(some[1].index, path=cut)), some[2])
    recipe = recipe_of(tmp_path / "cache")
    clips = Clips(videos, recipe.clip, recipe.audio, 0, "skip", views=1)
    filled = cached(clips, model_of(recipe), recipe)
    assert [filled[0, i] is None for i in range(3)] == [False, True, False]
    assert filled.lost.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__visual__freeze": 5, "model__audio__freeze": None}, r"frozen as a whole, and neither is; set model\."),
        ({"model__attn": "se"}, r"neither is; set model\.visual\.freeze=all \(attention in it would be trained\)"),
    ],
)
def test_what_is_trained_has_no_features_to_keep(
    some: tuple[Video, ...], changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        fill(some, recipe_of(tmp_path, **changes))
    assert not entries(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(some: tuple[Video, ...], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write features to .*file/visual/.*: Not a directory"):
        fill(some, recipe_of(tmp_path / "file"))


def test_without_a_folder_the_clips_are_as_they_were(some: tuple[Video, ...]) -> None:
    recipe = recipe_of()
    clips = clips_of(some, recipe)
    assert cached(clips, model_of(recipe), recipe) is clips


def test_a_cache_needs_fixed_views() -> None:
    with pytest.raises(ValueError, match="a cache is of fixed views; say how many, as in views: 1 for the centred one"):
        recipe_of(Path("features"), training__views=None)


def test_a_training_fills_its_cache_and_others_take_from_it(videos: Path, tmp_path: Path) -> None:
    folder = read_folder(videos, 4)
    settings = {"training__epochs": 2, "training__batch": 8, "training__lr": 1e-3}
    kept = train(recipe_of(tmp_path / "cache", **settings), folder, tmp_path / "kept")
    filled = entries(tmp_path / "cache")
    assert len(filled) == 2 * len(folder.videos)  # for training, validation and test
    live = train(recipe_of(**settings), folder, tmp_path / "live")
    for one, other in zip(kept.history, live.history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    for a, b in zip(kept.predictions, live.predictions, strict=True):
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-4)
    train(recipe_of(tmp_path / "cache", model__fusion="gmu", **settings), folder, tmp_path / "gmu")
    assert entries(tmp_path / "cache") == filled
    shutil.rmtree(tmp_path / "cache")
    for a, b in zip(evaluate(kept.checkpoint, folder).predictions, kept.predictions, strict=True):  # from the videos
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-4)
    assert not (tmp_path / "cache").exists()
