"""Weights from a file into a backbone: published state dicts of any nesting, prefix and number of classes."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint file, out of its nesting and without the prefix that DataParallel leaves.

    Args:
        path: a file written by `torch.save`; read with `weights_only=True`, so that it cannot run code.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that holds no state dict.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no weights file {path}")
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is not a file of weights that can be read safely: {reason}") from None
    while isinstance(state, dict) and isinstance(state.get("state_dict", state.get("model")), dict):
        state = state.get("state_dict", state.get("model"))
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} holds no state dict (a mapping of names to tensors)")
    prefix = "module." if all(key.startswith("module.") for key in state) else ""
    return {key.removeprefix(prefix): value for key, value in state.items()}


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a published state dict; a head for other classes is skipped and said so.

    Args:
        model: the backbone, before attention is injected.
        path: see `read_state_dict`.

    Raises:
        ValueError: keys that are foreign or missing, or shapes that differ, other than the head's.
    """
    state = read_state_dict(path)
    own = model.state_dict()
    head = [key for key in {**state, **own} if key.startswith("fc.")]
    if any(key not in state or key not in own or state[key].shape != own[key].shape for key in head):
        log.info("%s: head %s skipped, it is for other classes", path, ", ".join(head))
        state = {key: value for key, value in state.items() if key not in head}
        own = {key: value for key, value in own.items() if key not in head}
    foreign, missing = [k for k in state if k not in own], [k for k in own if k not in state]
    shapes = [
        f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    for what, keys in (("foreign keys", foreign), ("missing keys", missing), ("other shapes", shapes)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise ValueError(f"{path} does not fit {type(model).__name__}: {what} {', '.join(keys[:3])}{more}")
    model.load_state_dict(state, strict=False)
