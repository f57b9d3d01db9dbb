"""How the visual and the audio features of a segment are joined."""

import torch
from torch import Tensor, nn


class Concat(nn.Module):
    """Both features side by side, then a linear map and ReLU.

    Args:
        width: d of each input and of the output.

    >>> Concat(8)(torch.zeros(2, 4, 8), torch.zeros(2, 4, 8)).shape
    torch.Size([2, 4, 8])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU())

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Two features (B, T, d) -> one (B, T, d)."""
        fused: Tensor = self.mix(torch.cat((visual, audio), -1))
        return fused


FUSIONS: dict[str, type[nn.Module]] = {"concat": Concat}
