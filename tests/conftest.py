"""Fixtures for every test.

- No test leaves this machine (see `tests/network.py`).
- `database`: a fresh Postgres database at the newest revision with `.owner_dsn`, `.server_dsn`,
  `.worker_dsn`, `.broker_dsn`, `.dsn_file(role)` and `.engine(role)`; about 30 ms each, after the session's
  one server has started (about a second). See `tests/postgres.py`.
- `empty_database`: the same before any migration.
- `postgres`: the session's server itself.

Postgres starts only when a test asks for it, so legs without SQLAlchemy can run their own tests.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.network import stay_on_this_machine

if TYPE_CHECKING:
    from tests.postgres import Database, PostgresServer


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the long loops (`make soak`)")


def pytest_configure() -> None:
    stay_on_this_machine()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long loops out of the suite: deselected and counted, not skipped."""
    if config.getoption("--soak"):
        return
    long = [item for item in items if item.get_closest_marker("soak")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("soak")]


@pytest.fixture(scope="session")
def postgres() -> Iterator["PostgresServer"]:
    from tests.postgres import postgres_server

    with postgres_server() as server:
        yield server


@pytest.fixture
def database(postgres: "PostgresServer", tmp_path: Path) -> Iterator["Database"]:
    with postgres.database(tmp_path) as database:
        yield database


@pytest.fixture
def empty_database(postgres: "PostgresServer", tmp_path: Path) -> Iterator["Database"]:
    with postgres.database(tmp_path, migrated=False) as database:
        yield database
