"""The log's tests run with the server's own role; those that tamper or repair do so as the owner."""

import pytest
from sqlalchemy import Engine

from tests.postgres import Database


@pytest.fixture
def engine(database: Database) -> Engine:
    return database.engine("server")


@pytest.fixture
def owner(database: Database) -> Engine:
    return database.engine("owner")


@pytest.fixture
def dsn(database: Database) -> str:
    return database.server_dsn
