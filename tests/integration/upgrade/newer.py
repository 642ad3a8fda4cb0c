"""Runs the operator of this checkout as a later release may be: it tells pods one thing more than this one does."""

from __future__ import annotations

import sys
from typing import Any

from disaggregatedset.cli import main
from disaggregatedset.render import tiers

VARIABLE = "DSET_OF_A_LATER_RELEASE"

_environment = tiers._environment


def _more(*arguments: Any) -> dict[str, str]:
    return _environment(*arguments) | {VARIABLE: "yes"}


if __name__ == "__main__":
    tiers._environment = _more  # type: ignore[assignment]
    sys.exit(main(sys.argv[3:]))  # after -m disaggregatedset
