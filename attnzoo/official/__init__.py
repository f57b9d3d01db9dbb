"""The authors' released weights, turned into ours: state dicts of one module, and files of whole ResNets."""

from attnzoo.official.names import convert_module
from attnzoo.official.networks import FAMILIES, identify, load

__all__ = ["FAMILIES", "convert_module", "identify", "load"]
