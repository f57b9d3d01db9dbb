"""How the visual and the audio features of a video's segments are joined, by name.

Every fusion maps two features (B, T, d) to one (B, T, out_features). Those that pool over time return the segments
times their weights, T a_t f_t or w_t f_t: the model takes the mean of the segments' logits, which for its linear
classifier is that of the pooled feature, and there is a curve over the segments besides.
"""

from attnzoo.emotion.fusion.concat import Concat
from attnzoo.emotion.fusion.cross_attention import CrossAttention
from attnzoo.emotion.fusion.cten import CTEN
from attnzoo.emotion.fusion.dfan_style import DFANStyle
from attnzoo.emotion.fusion.gmu import GMU
from attnzoo.emotion.fusion.lmf import LMF
from attnzoo.emotion.fusion.registry import Fusion, create, list_fusions, register, spec, unregister
from attnzoo.emotion.fusion.tfn import TFN
from attnzoo.emotion.fusion.vaanet import VAANet

__all__ = [
    "CTEN",
    "GMU",
    "LMF",
    "TFN",
    "Concat",
    "CrossAttention",
    "DFANStyle",
    "Fusion",
    "VAANet",
    "create",
    "list_fusions",
    "register",
    "spec",
    "unregister",
]
