"""Several processes in one training: which this is, and how many there are."""

import os
from collections.abc import Mapping

from attnzoo.emotion.optimisation import Training


def layout(training: Training, environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Processes of each node, and nodes.

    Args:
        training: what the recipe asks for.
        environment: where torchrun says what it has started, which is what counts.

    Raises:
        ValueError: more processes than a batch has videos.

    >>> layout(Training(batch=12, devices=4), {}), layout(Training(), {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"})
    ((4, 1), (2, 2))
    """
    devices, nodes = training.devices, training.nodes
    if "LOCAL_WORLD_SIZE" in environment:
        devices = int(environment["LOCAL_WORLD_SIZE"])
        nodes = int(environment["WORLD_SIZE"]) // devices
    if devices * nodes > training.batch:
        raise ValueError(
            f"training.batch={training.batch} is less than a video for each of {devices * nodes} processes"
        )
    return devices, nodes


def rank(training: Training, environment: Mapping[str, str] = os.environ) -> int:
    """The number of this process among those of a training; the one with 0 prints, writes and evaluates.

    Args:
        training: what the recipe asks for.
        environment: where torchrun, Lightning and Slurm say the number.

    Raises:
        ValueError: see `layout`.

    >>> rank(Training(devices=2), {"LOCAL_RANK": "1"}), rank(Training(), {"SLURM_PROCID": "1"})
    (1, 0)
    """
    devices, nodes = layout(training, environment)
    if devices * nodes == 1:
        return 0
    return next((int(environment[name]) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if name in environment), 0)
