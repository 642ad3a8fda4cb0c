"""An image, as `docker` tells of it, and containers of it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import Any

#: What a cluster that enforces the restricted Pod Security Standard, and a careful chart, leave to a container.
RESTRICTED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")


@dataclass(frozen=True)
class Image:
    """An image that is there."""

    name: str

    def run(self, *arguments: str, options: tuple[str, ...] = RESTRICTED) -> subprocess.CompletedProcess[str]:
        """Run a container until it ends, without a network unless the options say otherwise."""
        network = () if any(o.startswith("--network") for o in options) else ("--network=none",)
        command = ["docker", "run", "--rm", *options, *network, self.name, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def python(self, program: str) -> Any:
        """Run a program by the image's Python, and return what it prints as JSON."""
        result = self.run("-c", program, options=(*RESTRICTED, "--entrypoint=python3"))
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def inspect(self) -> dict[str, Any]:
        """Return what Docker tells of it."""
        result = subprocess.run(["docker", "image", "inspect", self.name], capture_output=True, text=True, check=True)
        inspected: list[dict[str, Any]] = json.loads(result.stdout)
        return inspected[0]

    @property
    def layers(self) -> list[str]:
        """The digests of its layers' content, from the base up."""
        layers: list[str] = self.inspect()["RootFS"]["Layers"]
        return layers
