"""What the README says is what the package does."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "arguments", ["list --markdown", "bench --table bench/results/modules.csv bench/results/networks.csv"]
)
def test_generated_tables_are_fresh(arguments: str) -> None:
    (table,) = re.findall(f"<!-- attnzoo {arguments} -->\n(.*?)<!-- end -->", README, re.DOTALL)
    command = [sys.executable, "-m", "attnzoo", *arguments.split()]
    fresh = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert table == fresh, f"paste the output of `attnzoo {arguments}` into the README"
