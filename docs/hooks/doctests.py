"""Docstrings as Markdown: what is marked up there is `code` and the examples, which stand there as doctests."""

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^>>> .*?(?=\n\n|\Z)", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"(```.*?```|`[^`]+`)", re.DOTALL)
# Stars, and underscores at the edge of a word; but those of **options before a colon name an argument.
_MARKS = re.compile(r"^ *\*{1,2}\w+:|\*|(?<!\w)_|_(?!\w)", re.MULTILINE)


class Doctests(griffe.Extension):
    """Fences each example, and takes stars and underscores for what they are."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Of whatever has a docstring."""
        if obj.docstring is not None and not obj.is_alias:
            parts = _CODE.split(_EXAMPLE.sub(r"```pycon\n\g<0>\n```", obj.docstring.value))
            obj.docstring.value = "".join(part if i % 2 else _MARKS.sub(_literal, part) for i, part in enumerate(parts))


def _literal(mark: re.Match[str]) -> str:
    return mark[0] if mark[0].endswith(":") else f"\\{mark[0]}"
