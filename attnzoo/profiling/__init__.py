"""What a network costs, by convention: what is counted is always said."""

from attnzoo.profiling.conventions import register_cost
from attnzoo.profiling.cost import COUNTERS, Cost, Counter, Part
from attnzoo.profiling.counter import profile

__all__ = ["COUNTERS", "Cost", "Counter", "Part", "profile", "register_cost"]
