"""The paper's model at full size on a CPU: a step of training on one video, and the memory kept for the backward pass.

3D ResNet-101 and 2D ResNet-50 with MPE, 16 segments of 16 frames at 112 px. The goal of the step is a peak below 12 GB
on two cores; the memory for the batch of 12 is worked out from shapes.
"""

import subprocess
import sys
from typing import Any

import pytest
import torch

import attnzoo
from attnzoo.emotion.grid import GridRecipe
from attnzoo.emotion.model import AudioVisualModel
from attnzoo.recipes import load

# In a process of its own, so that the memory is that of the step alone.
STEP = """
import resource, sys, time
import torch
from attnzoo.emotion.losses import create_loss
from attnzoo.emotion.model import AudioVisualModel
from attnzoo.emotion.grid import GridRecipe
from attnzoo.recipes import load
torch.set_num_threads(2)
recipe = load("ve8_mpe", GridRecipe)
clip, sound = recipe.clip, recipe.audio
model = AudioVisualModel(recipe.model, clip, sound, 8).train()
adam = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], recipe.training.lr)
loss = create_loss(recipe.training.loss, [str(i) for i in range(8)])
frames = torch.randint(256, (1, clip.segments, 3, clip.frames, clip.size, clip.size), dtype=torch.uint8)
maps = torch.randn(1, clip.segments, 1, sound.coefficients, sound.width)
start, cpu = time.perf_counter(), time.process_time()
with torch.autocast("cpu", torch.bfloat16, enabled=sys.argv[1] == "bf16"):
    value = loss(model(frames, maps).mean(1), torch.tensor([3]))
value.backward()
adam.step()
assert value.isfinite()
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
print(seconds, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_step(benchmark: Any, precision: str) -> None:
    def step() -> str:
        return subprocess.run(
            [sys.executable, "-c", STEP, precision], check=True, capture_output=True, text=True
        ).stdout

    seconds, cpu, gib = map(float, benchmark.pedantic(step, rounds=1).split())
    benchmark.extra_info.update(seconds=seconds, cpu_seconds=cpu, gib=gib)
    print(f"\nstep on one video of 16 x 16 x 112, precision {precision}: {seconds:.0f} s ({cpu:.0f} CPU s), ", end="")
    print(f"peak {gib:.1f} GiB = {gib * 1.073741824:.1f} GB (goal: below 12 GB)")


@pytest.mark.parametrize("attn", ["none", "mpe"])
@pytest.mark.parametrize(("freeze", "what"), [(None, "nothing"), (5, "conv1 to layer2"), (6, "conv1 to layer3")])
def test_memory_kept_for_the_backward_pass(benchmark: Any, freeze: int | None, what: str, attn: str) -> None:
    """Of the visual ResNet, for the paper's batch."""
    recipe = load("ve8_mpe", GridRecipe, {"model.visual.freeze": freeze, "model.attn": attn}).single()
    with torch.device("meta"):
        model = AudioVisualModel(recipe.model, recipe.clip, recipe.audio, 8)
    clip = recipe.clip
    size = (1, 3, clip.frames, clip.size, clip.size)
    cost = benchmark.pedantic(lambda: attnzoo.profile(model.visual, size), rounds=1)
    assert cost.saved is not None
    gib = cost.saved * recipe.training.batch * clip.segments / 2**30
    benchmark.extra_info.update(gib=gib)
    print(f"\n{what} frozen, attention {attn}: {gib:.1f} GiB for 12 videos, {cost.trainable / 1e6:.1f} M trained")
