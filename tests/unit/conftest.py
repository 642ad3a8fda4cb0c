from __future__ import annotations

from collections.abc import AsyncIterator

import hypothesis
import pytest

from disaggregatedset.cluster.client import Client
from tests.unit.fake_api_server import FakeApiServer

# Machines are slow at times, which is no failure.
hypothesis.settings.register_profile(
    "unit", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], max_examples=60
)
hypothesis.settings.load_profile("unit")


@pytest.fixture
async def server() -> AsyncIterator[FakeApiServer]:
    """An API server of our own."""
    async with FakeApiServer().running() as started:
        yield started


@pytest.fixture
async def client(server: FakeApiServer) -> AsyncIterator[Client]:
    """A client of the API server."""
    made = server.client(timeout=5)
    yield made
    await made.close()
