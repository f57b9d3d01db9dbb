"""Packages that only some parts need, imported when they are used."""

import importlib
from typing import Any


def require(package: str, extra: str) -> Any:
    """Import a package that an extra of attnzoo brings.

    Args:
        package: the name to import.
        extra: the extra, as in attnzoo[emotion].

    Raises:
        ImportError: it is not installed; one line with the command that installs it.

    >>> require("math", "emotion").sqrt(4)
    2.0
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        if error.name and error.name.partition(".")[0] != package.partition(".")[0]:
            raise  # it is installed, but something that it needs is not
        raise ImportError(f'this needs {package}; install it with: pip install "attnzoo[{extra}]"') from None
