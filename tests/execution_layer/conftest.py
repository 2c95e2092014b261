"""Fixture: a world with the double of the audit server, and nothing else running."""

import pytest

from tests.execution_layer.world import small_world


@pytest.fixture
async def world(tmp_path):
    async with small_world(tmp_path) as world:
        yield world
