"""What the modules cost in time on this machine, beside a copy, their peers and whole networks."""

from attnzoo.benchmarks.modules import Case, cases, measure_modules
from attnzoo.benchmarks.networks import NetworkCase, measure_networks, network_cases
from attnzoo.benchmarks.rows import Kept, ModuleRow, NetworkRow, read, write
from attnzoo.benchmarks.tables import markdown
from attnzoo.benchmarks.timing import Effort
from attnzoo.benchmarks.verdicts import Verdict, verdicts

__all__ = [
    "Case",
    "Effort",
    "Kept",
    "ModuleRow",
    "NetworkCase",
    "NetworkRow",
    "Verdict",
    "cases",
    "markdown",
    "measure_modules",
    "measure_networks",
    "network_cases",
    "read",
    "verdicts",
    "write",
]
