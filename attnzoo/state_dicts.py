"""State dicts in files, out of whatever nesting they were saved in, and how one does not fit a network."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

NESTINGS = ("state_dict", "model_state_dict", "model", "net")  # what training scripts call it
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile and Lightning


def read_state_dict(source: str | Path | Mapping[str, Any]) -> dict[str, Tensor]:
    """A state dict out of the nesting of a checkpoint and without the prefixes that wrappers leave.

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
            code = re.search(r"GLOBAL (\S+)", str(error))
            reason = (
                f"it holds a {code[1]}, which only its own code can make; save model.state_dict() alone"
                if code
                else "it is damaged, or no file of torch.save"
            )
            raise ValueError(f"{source} is not a file of weights that can be read safely: {reason}") from None
    while isinstance(state, Mapping):
        inner = next((state[key] for key in NESTINGS if isinstance(state.get(key), Mapping)), None)
        if inner is None:
            break
        state = inner
    entries = state.items() if isinstance(state, Mapping) else ()
    if not entries or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in entries):
        raise ValueError(f"{origin} holds no state dict (a mapping of names to tensors)")
    found: dict[str, Tensor] = dict(entries)
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in found)), ""):
        found = {key.removeprefix(prefix): value for key, value in found.items()}
    return found


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
