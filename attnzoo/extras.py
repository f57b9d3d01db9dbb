"""Packages that only some parts of attnzoo need, and the extra that brings them."""

from importlib.util import find_spec


def need(extra: str, *packages: str) -> None:
    """Say what to install if a part of attnzoo is imported without the packages that it stands on.

    Args:
        extra: of attnzoo, as in attnzoo[emotion].
        packages: that the part imports.

    Raises:
        ImportError: one is not installed; one line with the command that installs it.

    >>> need("emotion", "math")
    """
    for package in packages:
        if find_spec(package) is None:
            raise ImportError(f'this needs {package}; install it with: pip install "attnzoo[{extra}]"')
