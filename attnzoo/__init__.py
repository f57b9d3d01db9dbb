"""attnzoo: pluggable attention modules for 2D and 3D networks.

>>> import attnzoo, torch
>>> attnzoo.create("mpe", channels=512, groups=8)(torch.randn(1, 512, 14, 14)).shape
torch.Size([1, 512, 14, 14])
"""

from attnzoo import official
from attnzoo.backbones import create_backbone
from attnzoo.inject import attn_parameters, attn_state_dict, eject, inject, timm_layer
from attnzoo.profiling import Cost, profile
from attnzoo.registry import Spec, create, list_modules, register, spec

__version__ = "0.1.0"

__all__ = [
    "Cost",
    "Spec",
    "attn_parameters",
    "attn_state_dict",
    "create",
    "create_backbone",
    "eject",
    "inject",
    "list_modules",
    "official",
    "profile",
    "register",
    "spec",
    "timm_layer",
]
