"""The command line: thin, no logic of its own, heavy imports inside the commands."""

import difflib
import logging
import sys
from typing import Any

import typer

from attnzoo.cli import bench as bench  # the commands, which add themselves to the app
from attnzoo.cli import board as board
from attnzoo.cli import cost as cost
from attnzoo.cli import data as data
from attnzoo.cli import emotion as emotion
from attnzoo.cli import find as find
from attnzoo.cli import modules as modules
from attnzoo.cli.shared import app, console, say

__all__ = ["app", "console", "main"]


def main() -> None:
    """Run the command line; an error is one line and exit status 2, unless --debug asks for its traceback."""
    debug = "--debug" in sys.argv
    sys.argv = [arg for arg in sys.argv if arg != "--debug"]
    logging.getLogger("attnzoo").handlers = [_Log(logging.INFO)]
    logging.getLogger("attnzoo").setLevel(logging.INFO)
    try:
        sys.exit(app(prog_name="attnzoo", standalone_mode=False))
    except (KeyboardInterrupt, typer.Abort):
        say("interrupted")
        sys.exit(130)
    except (ValueError, TypeError, OSError, ImportError) as error:
        if debug:
            raise
        say(" ".join(str(error).split()))
        sys.exit(2)
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own
            _misused(error)
            sys.exit(2)
        if debug:
            raise
        said = " ".join(str(error).split())
        say(f"unexpected {type(error).__name__}: {said}; --debug shows where")
        sys.exit(1)


def _misused(error: Any) -> None:
    """Say what is wrong with a command, in one line; a command without any arguments prints its help."""
    context, message = getattr(error, "ctx", None), error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message, file=sys.stderr)
        return
    command = context.command_path if context else "attnzoo"
    if context and type(error).__name__ == "NoSuchOption":
        valid = [opt for param in context.command.params for opt in param.opts if opt.startswith("--")]
        near = difflib.get_close_matches(error.option_name, valid, n=3, cutoff=0.5)
        message = f"unknown option {error.option_name} of {command}"
        message += f", did you mean {' or '.join(near)}?" if near else ""
    message = " ".join(message.split()).rstrip(".")
    say(f"{message[0].lower()}{message[1:]}; see {command} --help")


class _Log(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """To standard error, as it is now."""
        say(record.getMessage())
