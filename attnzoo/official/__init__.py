"""The authors' released weights, turned into ours: state dicts of one module, and files of whole ResNets."""

from attnzoo.official.families import FAMILIES
from attnzoo.official.names import convert_module
from attnzoo.official.networks import identify, load

__all__ = ["FAMILIES", "convert_module", "identify", "load"]
