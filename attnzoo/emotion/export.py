"""A trained model as ONNX, for runtimes that know nothing of attnzoo."""

import json
import warnings
from pathlib import Path

import torch

from attnzoo.emotion.checkpoints import load_checkpoint, whole
from attnzoo.emotion.recipe import Recipe
from attnzoo.extras import need


def export_onnx(checkpoint: Path, path: Path) -> None:
    """Write the model of a checkpoint as one ONNX file.

    Its inputs are those of the model, for any number B of videos: `frames` (B, T, 3, k, size, size), uint8; `sound`
    (B, T, 1, coefficients, width), MFCC maps in float32; `heard` (B,), bool. Its output is `logits` (B, T, classes),
    whose mean over T is the video's. The metadata hold `classes` and `recipe` as JSON, `protocol`, and `attnzoo`, the
    version.

    Args:
        checkpoint: see `load_checkpoint`.
        path: the file to write.

    Raises:
        ImportError: the packages of the extra onnx are missing.
        FileNotFoundError: no such checkpoint.
        ValueError: it is not a checkpoint of attnzoo's video model, or the file cannot be written.

    >>> export_onnx(Path("nowhere"), Path("model.onnx"))
    Traceback (most recent call last):
    FileNotFoundError: there is no checkpoint nowhere; `attnzoo train` writes model.safetensors into its --out folder
    """
    need("onnx", "onnx", "onnxscript", "onnxruntime")
    model, about = load_checkpoint(checkpoint, "video")
    recipe: Recipe = about["recipe"]
    clip, sound = recipe.clip, recipe.audio
    example = (
        torch.zeros(2, clip.segments, 3, clip.frames, clip.size, clip.size, dtype=torch.uint8),
        torch.zeros(2, clip.segments, 1, sound.coefficients, sound.width),
        torch.ones(2, dtype=torch.bool),
    )
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the exporter does on its way
        program = torch.onnx.export(
            model,
            example,
            dynamo=True,
            input_names=["frames", "sound", "heard"],
            output_names=["logits"],
            dynamic_shapes=tuple({0: batch} for _ in example),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # the lines of Python that each came from, as large as the weights
    program.model.metadata_props.update(
        classes=json.dumps(about["classes"]),
        recipe=recipe.model_dump_json(),
        protocol=about["protocol"],
        attnzoo=about["attnzoo"],
    )
    with whole(path) as part:
        program.save(part)
