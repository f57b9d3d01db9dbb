"""State dicts in files, out of whatever nesting they were saved in, and how one does not fit a network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def read_state_dict(source: str | Path | Mapping[str, Any]) -> dict[str, Tensor]:
    """A state dict out of the nesting of a checkpoint and without the prefix that DataParallel leaves.

    Args:
        source: a file written by `torch.save`, read with `weights_only=True` so that it cannot run code; or what such a
            file holds.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that holds no state dict.

    >>> list(read_state_dict({"epoch": 90, "state_dict": {"module.fc.bias": torch.zeros(10)}}))
    ['fc.bias']
    """
    origin: Any = source if isinstance(source, str | Path) else "the mapping"
    state: Any = source
    if isinstance(source, str | Path):
        if not Path(source).is_file():
            raise FileNotFoundError(f"there is no weights file {source}")
        try:
            state = torch.load(source, map_location="cpu", weights_only=True)
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"{source} is not a file of weights that can be read safely: {reason}") from None
    while isinstance(state, Mapping):
        inner = next((state[key] for key in ("state_dict", "model") if isinstance(state.get(key), Mapping)), None)
        if inner is None:
            break
        state = inner
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{origin} holds no state dict (a mapping of names to tensors)")
    prefix = "module." if all(key.startswith("module.") for key in state) else ""
    return {key.removeprefix(prefix): value for key, value in state.items()}


def difference(state: Mapping[str, Tensor], own: Mapping[str, Tensor], ignore: Sequence[str] = ()) -> str:
    """One line on how a state dict does not fit a network; empty if it does.

    Args:
        state: what was read.
        own: the network's own state dict; counts of batches may be missing, as in files older than torch 0.4.1.
        ignore: names in the file that are no weights.

    >>> difference({"fc.bias": torch.zeros(2)}, {"fc.bias": torch.zeros(3)})
    'other shapes fc.bias (2,) for (3,)'
    """
    found = {
        "missing keys": [k for k in own if k not in state and not k.endswith("num_batches_tracked")],
        "foreign keys": [k for k in state if k not in own and k not in ignore],
        "other shapes": [
            f"{k} {tuple(state[k].shape)} for {tuple(v.shape)}"
            for k, v in own.items()
            if k in state and state[k].shape != v.shape
        ],
    }
    said = []
    for what, keys in found.items():
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        said += [f"{what} {', '.join(keys[:3])}{more}"] if keys else []
    return "; ".join(said)
