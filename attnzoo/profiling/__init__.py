"""Parameters and FLOPs, by convention: what is counted is always said."""

from attnzoo.profiling.counter import COUNTERS, Cost, profile

__all__ = ["COUNTERS", "Cost", "profile"]
