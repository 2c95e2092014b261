"""Postgres dies, or the connection to it is cut, while the real server is under load: clients need only retry.

The server lives through all of it. Nothing acknowledged is lost, nothing is there twice, and publication continues.
"""

import asyncio
import contextlib
import os
import random
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine

from audit_layer.storage import migrate, roles
from audit_layer.storage.dsn import read_dsn_file, write_dsn_file
from audit_layer.storage.embedded import EmbeddedPostgres
from audit_layer.storage.engine import make_engine
from shared.runtime.errors import Code
from tests.audit_layer.log.cut_link import cut_link
from tests.audit_layer.log.nursery import Child, Nursery, nursery
from tests.audit_layer.log.under_load import Round, Stage
from tests.postgres import Database

TOLERATED = frozenset({Code.UNAVAILABLE, Code.OVERLOADED})
"""The answers that a client may get while the database is down; both say to retry."""


@pytest.fixture(scope="module")
def forks() -> Iterator[Nursery]:
    with nursery() as running:
        yield running


@dataclass
class Dsn:
    """The server's connection string, for `audit init`."""

    dsn: str
    folder: Path

    def dsn_file(self, role: str) -> Path:
        path = self.folder / f"{role}.dsn"
        write_dsn_file(path, self.dsn)
        return path


class Postgres:
    """`counterfoil db serve` as a process, synced as in production, that may be killed and comes back."""

    def __init__(self, forks: Nursery, folder: Path) -> None:
        self._forks = forks
        self.server = EmbeddedPostgres(
            folder
        )  # for the names of its files; it is started elsewhere
        self._child = self.start()

    def start(self) -> Child:
        """Start it; return when it accepts connections."""
        folder = self.server.folder
        for _ in range(20):
            self._child = self._forks.start(
                ["db", "serve", "--folder", str(folder)],
                ready=folder / "ready.json",
                log=folder / "serve.log",
            )
            while self._child.status() is None:
                if self._child.addresses() is not None:
                    return self._child
                time.sleep(0.02)
            time.sleep(0.1)  # what is left of a killed server may need a moment to go
        raise AssertionError((folder / "serve.log").read_text()[-2000:])

    def kill(self, how: signal.Signals) -> None:
        """End the postmaster; return when its `db serve` has noticed."""
        os.kill(int((self.server.folder / "postgres.pid").read_text()), how)
        while self._child.status() is None:
            time.sleep(0.02)

    def stop(self) -> None:
        if self._child.status() is None:
            os.kill(self._child.pid, signal.SIGTERM)
            while self._child.status() is None:
                time.sleep(0.02)


@contextlib.contextmanager
def postgres_of_its_own(forks: Nursery) -> Iterator[tuple[Postgres, str]]:
    """Run a server for one test; yield it with the DSN of the role `server`."""
    with tempfile.TemporaryDirectory(prefix="cf-pg-", ignore_cleanup_errors=True) as folder:
        postgres = Postgres(forks, Path(folder))
        try:
            files = roles.initialise(postgres.server.admin_dsn, postgres.server.secrets_folder)
            migrate.upgrade(read_dsn_file(files["owner"]))
            yield postgres, read_dsn_file(files["server"])
        finally:
            postgres.stop()


@contextlib.asynccontextmanager
async def round_of(
    forks: Nursery, folder: Path, dsn: str, engine: Engine, seed: int
) -> AsyncIterator[Round]:
    stage = Stage(forks, folder, Dsn(dsn, folder))
    try:
        # In a thread: the link in front of the database needs the loop.
        yield await asyncio.to_thread(Round, stage, engine, seed, TOLERATED)
    finally:
        stage.close()


async def settled(round_: Round) -> None:
    """Wait until every client is answered again; the server must be the same process throughout."""
    before = [client.answers for client in round_.clients]
    async with asyncio.timeout(30):
        while any(c.answers == n for c, n in zip(round_.clients, before, strict=True)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert round_.stage.status("server") is None, round_.log_of("server")
    await round_.check()


async def restarts(forks: Nursery, folder: Path, seed: int, times: int) -> None:
    rng = random.Random(seed)
    with postgres_of_its_own(forks) as (postgres, dsn), closing(make_engine(dsn)) as engine:
        async with round_of(forks, folder, dsn, engine, seed) as round_:
            await round_.ensure_running()
            async with round_.load():
                for turn in range(times):
                    await settled(round_)
                    await asyncio.sleep(rng.uniform(0.0, 0.3))
                    # SIGQUIT is Postgres' immediate mode: every backend leaves at once, nothing is tidied up.
                    how = signal.SIGQUIT if turn % 2 else signal.SIGKILL
                    await asyncio.to_thread(postgres.kill, how)
                    await asyncio.sleep(rng.uniform(0.1, 0.5))
                    await asyncio.to_thread(postgres.start)
                await settled(round_)
            assert sum(client.failures for client in round_.clients) > 0


@contextlib.contextmanager
def closing(engine: Engine) -> Iterator[Engine]:
    try:
        yield engine
    finally:
        engine.dispose()


async def cuts(forks: Nursery, folder: Path, database: Database, seed: int, times: int) -> None:
    rng = random.Random(seed)
    engine = database.engine("server")
    async with (
        cut_link(database.server_dsn) as link,
        round_of(forks, folder, link.dsn, engine, seed) as round_,
    ):
        await round_.ensure_running()
        async with round_.load():
            for turn in range(times):
                await settled(round_)
                await asyncio.sleep(rng.uniform(0.0, 0.2))
                if turn % 2:
                    link.cut()
                else:
                    with link.losing_answers():
                        await asyncio.sleep(rng.uniform(0.05, 0.3))
            await settled(round_)
        assert link.cuts >= times
        assert sum(client.failures for client in round_.clients) > 0


async def test_a_postgres_that_is_killed_under_load_costs_clients_nothing_but_a_retry(
    forks: Nursery, tmp_path: Path
):
    await restarts(forks, tmp_path, seed=1, times=3)


async def test_links_to_postgres_that_are_cut_under_load_cost_clients_nothing_but_a_retry(
    forks: Nursery, database: Database, tmp_path: Path
):
    await cuts(forks, tmp_path, database, seed=1, times=8)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(2, 6))
async def test_soak_of_restarts(forks: Nursery, tmp_path: Path, seed: int):
    await restarts(forks, tmp_path, seed, times=15)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(2, 7))
async def test_soak_of_cuts(forks: Nursery, database: Database, tmp_path: Path, seed: int):
    await cuts(forks, tmp_path, database, seed, times=40)
