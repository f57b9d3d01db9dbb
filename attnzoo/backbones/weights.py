"""Weights from a file into a backbone: published state dicts of any nesting, prefix and number of classes."""

import logging
from pathlib import Path

from torch import nn

from attnzoo.state_dicts import difference, read_state_dict

log = logging.getLogger(__name__)


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a published state dict; a head for other classes is skipped and said so.

    Args:
        model: the backbone, before attention is injected.
        path: see `attnzoo.state_dicts.read_state_dict`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file without a state dict; keys that are foreign or missing, or shapes that differ, other than the
            head's.

    >>> import tempfile, torch
    >>> from attnzoo.backbones.resnet3d import resnet3d
    >>> with tempfile.NamedTemporaryFile(suffix=".pth") as file:
    ...     torch.save({"state_dict": resnet3d(10, num_classes=400).state_dict()}, file.name)
    ...     load_weights(resnet3d(10, num_classes=8), file.name)
    """
    state = read_state_dict(path)
    own = model.state_dict()
    head = [key for key in {**state, **own} if key.startswith("fc.")]
    if any(key not in state or key not in own or state[key].shape != own[key].shape for key in head):
        log.info("%s: head %s skipped, it is for other classes", path, ", ".join(head))
        state = {key: value for key, value in state.items() if key not in head}
        own = {key: value for key, value in own.items() if key not in head}
    problem = difference(state, own)
    if problem:
        raise ValueError(f"{path} does not fit {type(model).__name__}: {problem}")
    model.load_state_dict(state, strict=False)
