"""The image that these tests are about."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.image.images import Image


@pytest.fixture(scope="session")
def image() -> Image:
    name = os.environ.get("DSET_IMAGE")
    if not name:
        pytest.skip(
            "builds an image: `make image-test` does that, and runs this (DSET_IMAGE names an image that is there)"
        )
    look = ["docker", "image", "inspect", name]
    if not shutil.which("docker") or subprocess.run(look, capture_output=True, check=False).returncode:
        pytest.fail(f"DSET_IMAGE: there is no image {name}, or no Docker that answers (e2e/docker.sh status)")
    return Image(name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.image)
            item.add_marker(pytest.mark.timeout(900))
