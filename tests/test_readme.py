"""What the README says is what the package does."""

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_table_of_modules_is_fresh() -> None:
    (table,) = re.findall(r"<!-- attnzoo list --markdown -->\n(.*?)<!-- end -->", README, re.DOTALL)
    command = [sys.executable, "-m", "attnzoo", "list", "--markdown"]
    fresh = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert table == fresh, "paste the output of `attnzoo list --markdown` into the README"
