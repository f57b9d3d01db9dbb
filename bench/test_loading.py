"""Whether loading keeps a training step fed: the share of an epoch in which the model waits for videos.

The shares are of one run; the seconds are of one machine, where loading and training are on the same cores.
"""

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from attnzoo.emotion.datasets import read_folder
from attnzoo.emotion.grid import GridRecipe
from attnzoo.emotion.loading import training_loader
from attnzoo.emotion.losses import create_loss
from attnzoo.emotion.model import AudioVisualModel
from attnzoo.emotion.synth import synthesise
from attnzoo.emotion.video import clips
from attnzoo.recipes import load

CLASSES = ("calm", "cross", "glad")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise(tmp_path_factory.mktemp("videos"), classes=CLASSES, per_class=8, seconds=3)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_waiting_for_videos(benchmark: Any, videos: Path, workers: int) -> None:
    recipe = load("small_mpe", GridRecipe, {"training.workers": workers}).single()
    torch.manual_seed(0)
    model = AudioVisualModel(recipe.model, recipe.clip, recipe.audio, len(CLASSES)).train()
    optimizer = torch.optim.Adam(model.parameters(), recipe.training.lr)
    loss = create_loss(recipe.training.loss, CLASSES)
    loader = training_loader(clips(read_folder(videos, recipe.clip.frames).videos, recipe, seed=0), recipe)
    waited: list[float] = []

    def epoch() -> None:
        start = time.perf_counter()
        waiting, asked = 0.0, start
        for loaded in loader:
            waiting += time.perf_counter() - asked
            frames, sound, heard, labels = loaded.batch
            optimizer.zero_grad()
            loss(model(frames, sound, heard).mean(1), labels).backward()
            optimizer.step()
            asked = time.perf_counter()
        waited.append(waiting / (time.perf_counter() - start))

    benchmark.pedantic(epoch, rounds=3, warmup_rounds=1)
    share = sorted(waited[1:] or waited)[len(waited[1:]) // 2]
    benchmark.extra_info.update(share=share)
    print(f"\nsmall_mpe with {workers} loader processes: the model waits {share:.0%} of an epoch")
