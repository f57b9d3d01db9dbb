"""What a module's docstring says, part by part."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass

_SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Example|Examples):")
_ARGUMENT = re.compile(r"    (\w+): (.*)")
# A sentence that begins with "3D:", or with "3D, as in the paper:".
_RULE = re.compile(r"\b3D(?:, [^.:]+)?: (.+?\.)(?=\s|$)")


@dataclass(frozen=True, slots=True)
class Doc:
    """A docstring in Google's style.

    Attributes:
        text: the paragraphs between its first line and its sections, without the rule for 3D.
        arguments: what it says of each argument.
        rule_3d: how the module generalises to 3D, without the full stop; "" if it does not say.
    """

    text: tuple[str, ...]
    arguments: Mapping[str, str]
    rule_3d: str


def parse(docstring: str | None) -> Doc:
    """Take a class's docstring apart.

    Args:
        docstring: as it stands in the code.

    >>> parse('''A gate.
    ...
    ... As in the authors' code. 3D: cubic kernels.
    ...
    ... Args:
    ...     channels: C, a multiple
    ...         of 8.
    ... ''')
    Doc(text=("As in the authors' code.",), arguments={'channels': 'C, a multiple of 8.'}, rule_3d='cubic kernels')
    """
    lines = inspect.cleandoc(docstring or "").partition("\n")[2].splitlines()
    sections = [i for i, line in enumerate(lines) if _SECTION.fullmatch(line) or line.startswith(">>>")]
    prose = "\n".join(lines[: min(sections, default=len(lines))])
    paragraphs = [" ".join(paragraph.split()) for paragraph in prose.split("\n\n")]
    rules = [found.group(1) for found in map(_RULE.search, paragraphs) if found]
    text = (" ".join(_RULE.sub("", paragraph).split()) for paragraph in paragraphs)
    return Doc(tuple(filter(None, text)), _arguments(lines), " ".join(rules).rstrip("."))


def _arguments(lines: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    inside, name = False, ""
    for line in lines:
        if not line.startswith("    "):
            inside = line == "Args:" or (inside and not line)
        elif inside and (argument := _ARGUMENT.fullmatch(line)):
            name, found[name] = argument.group(1), argument.group(2)
        elif inside and name:
            found[name] += f" {line.strip()}"
    return found
