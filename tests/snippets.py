"""The snippets of a Markdown file, and whether a command line is one."""

import re
import shlex
from pathlib import Path
from typing import Any

import typer.main

from attnzoo.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(path: Path, program: str) -> list[list[str]]:
    """What follows `$ program` in the console blocks, up to && or a comment; a line goes on after a backslash."""
    lines = (line for block in blocks(path, "console") for line in block.replace("\\\n", "").splitlines())
    typed = (part for line in lines if line.startswith("$ ") for part in line[2:].split(" && "))
    return [
        words[1:] for words in (shlex.split(part, comments=True) for part in typed) if words and words[0] == program
    ]


def parse(arguments: list[str]) -> None:
    """Parse a command line of attnzoo down to its last sub-command, without running it.

    Raises:
        click's or typer's own error: it is none.
    """
    command: Any = typer.main.get_command(app)
    context = None
    while True:
        context = command.make_context("attnzoo", list(arguments), parent=context)
        if not hasattr(command, "resolve_command"):
            return
        # As click's own invoke does: what the group left over is the sub-command and its arguments.
        rest = [*context._protected_args, *context.args] if hasattr(context, "_protected_args") else context.args
        _, command, arguments = command.resolve_command(context, rest)
