"""Examples in docstrings as code: they stand there as doctests, without a heading of their own."""

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^>>> .*?(?=\n\n|\Z)", re.DOTALL | re.MULTILINE)


class Doctests(griffe.Extension):
    """Fences each example."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Of whatever has a docstring."""
        if obj.docstring is not None and not obj.is_alias:
            obj.docstring.value = _EXAMPLE.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
