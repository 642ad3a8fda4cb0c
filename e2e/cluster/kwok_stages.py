"""The stages through which kwok leads nodes and pods; ``stages/README.md`` says which there are."""

import re
import textwrap
from importlib import resources

_INCLUDE = re.compile(r"^( *)# include: (\S+)\n", re.MULTILINE)
_DIRECTORY = resources.files("e2e.cluster") / "stages"


def all_stages() -> str:
    """Return all stages as YAML documents."""
    files = sorted((file for file in _DIRECTORY.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return "---\n".join(_expand(file.read_text()) for file in files)


def _expand(template: str) -> str:
    def part(match: re.Match[str]) -> str:
        indent, name = match.groups()
        return textwrap.indent(_expand((_DIRECTORY / "parts" / f"{name}.tpl").read_text()), indent)

    return _INCLUDE.sub(part, template)
