"""What the features of frozen streams on disk save: an epoch from them beside an epoch end to end.

The figure of record is the ratio of medians in one run; the seconds are of one machine.
"""

import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from attnzoo.emotion.clips import Clips
from attnzoo.emotion.datasets import read_folder
from attnzoo.emotion.features import cached
from attnzoo.emotion.losses import create_loss
from attnzoo.emotion.model import AudioVisualModel
from attnzoo.emotion.recipe import Recipe
from attnzoo.emotion.samples import Epochs, collate
from attnzoo.emotion.synth import synthesise

RECIPE: dict[str, Any] = {
    "name": "bench",
    "clip": {"segments": 4},
    "model": {"visual": {"backbone": "resnet3d/18"}, "audio": {"backbone": "timm/resnet18"}},
    "training": {"batch": 4, "workers": 2, "views": 1},
}
ROUNDS = 3


def recipe_of(cache: Path | None) -> Recipe:
    """End to end, or from features of frozen streams."""
    streams = {name: {**stream, "freeze": "all" if cache else None} for name, stream in RECIPE["model"].items()}
    return Recipe.model_validate({**RECIPE, "model": streams, "training": {**RECIPE["training"], "cache": cache}})


def epoch(model: AudioVisualModel, clips: Clips, recipe: Recipe) -> None:
    """Loading, forward, backward and step, over all videos."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], recipe.training.lr)
    loss = create_loss(recipe.training.loss, ["calm", "cross", "glad"])
    workers = 0 if recipe.training.cache else recipe.training.workers
    batches = DataLoader(
        clips, recipe.training.batch, sampler=Epochs(len(clips), 0), num_workers=workers, collate_fn=collate
    )
    for frames, sound, heard, labels in batches:
        optimizer.zero_grad()
        loss(model(frames, sound, heard).mean(1), labels).backward()
        optimizer.step()


def test_an_epoch_from_features(benchmark: Any, tmp_path: Path) -> None:
    root = synthesise(tmp_path / "videos", classes=("calm", "cross", "glad"), per_class=4, seconds=3)
    videos = read_folder(root, 16).videos
    live, kept = recipe_of(None), recipe_of(tmp_path / "features")
    whole, heads = (AudioVisualModel(r.model, r.clip, r.audio, 3).train() for r in (live, kept))
    clips = Clips(videos, live.clip, live.audio, 0, views=1)
    start = time.perf_counter()
    features = cached(clips, heads, kept)
    filled = time.perf_counter() - start
    seconds = []

    def alternate() -> tuple[tuple[()], dict[str, Any]]:
        start = time.perf_counter()
        epoch(whole, clips, live)
        seconds.append(time.perf_counter() - start)
        return (), {}

    benchmark.pedantic(lambda: epoch(heads, features, kept), setup=alternate, rounds=ROUNDS)
    if benchmark.stats is None:  # with --benchmark-disable
        return
    ratio = statistics.median(seconds) / benchmark.stats.stats.median
    benchmark.extra_info.update(end_to_end=statistics.median(seconds), filled=filled, ratio=ratio)
    print(
        f"\nepoch of {len(videos)} videos end to end / from features = {ratio:.0f} (goal: at least 20); "
        f"{statistics.median(seconds):.1f} s / {benchmark.stats.stats.median:.3f} s, filled once in {filled:.1f} s"
    )
