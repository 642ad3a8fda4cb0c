#!/usr/bin/env python3
"""What a release has to be like: ``release.py check v1.2.3`` and ``release.py notes 1.2.3``.

It needs nothing but Python, since it is the first that runs.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def version(root: Path = ROOT) -> str:
    """Return the version; there is no other place that it is written by hand."""
    found = re.search(
        r'^__version__ = "(.+)"$', (root / "operator/disaggregatedset/__init__.py").read_text(), re.MULTILINE
    )
    if not found:
        raise ValueError("operator/disaggregatedset/__init__.py has no __version__")
    return found[1]


def notes(wanted: str, root: Path = ROOT) -> str:
    """Return what CHANGELOG.md says about a version.

    Raises
    ------
    ValueError
        If it says nothing.
    """
    sections = re.split(r"^## ", (root / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1:]
    for section in sections:
        title, _, text = section.partition("\n")
        # Such as "1.2.3 - 2026-12-24", and with or without the brackets of a link.
        if title.replace("[", "").replace("]", "").split(" ")[0] == wanted and text.strip():
            return text.strip() + "\n"
    raise ValueError(f"CHANGELOG.md has no section '## {wanted} - <date>' with something in it")


def check(tag: str, root: Path = ROOT) -> None:
    """Raise ``ValueError`` if this tag can't be released: not the version, or with nothing in the changelog."""
    ours = version(root)
    if tag != f"v{ours}":
        raise ValueError(f"the tag is {tag}, and the version in operator/disaggregatedset/__init__.py is {ours}")
    chart = (root / "charts/disaggregatedset/Chart.yaml").read_text()
    for field in ("version", "appVersion"):
        if not re.search(rf'^{field}: "?{re.escape(ours)}"?$', chart, re.MULTILINE):
            raise ValueError(f"{field} of charts/disaggregatedset/Chart.yaml is not {ours}: run `make generate`")
    notes(ours, root)


def main(arguments: list[str]) -> int:
    """Run the command, and return its exit code."""
    try:
        match arguments:
            case ["check", tag]:
                check(tag)
            case ["notes", wanted]:
                sys.stdout.write(notes(wanted))
            case _:
                sys.stderr.write(f"{__doc__}\n")
                return 2
    except ValueError as error:
        sys.stderr.write(f"release.py: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
