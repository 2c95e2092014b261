"""A trail over a real database, with the parties of `tests.audit_layer.api.statements` and two live nodes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import pytest
from sqlalchemy import Engine

from audit_layer.log.batcher import Batcher
from audit_layer.log.sequencer import Sequencer
from audit_layer.storage.engine import session
from audit_layer.trail.fsck import check_trail
from audit_layer.trail.models import PartyRow
from audit_layer.trail.service import Accepted, Refused, Submission, Trail
from audit_layer.trail.write_rows import write_rows
from shared.runtime.errors import Code, CounterfoilError
from tests.audit_layer.api import statements as made
from tests.postgres import Database

PARTIES = {
    "operator": ("alpha", "beta"),
    "tenant": ("acme", "bolt"),
    "authority": ("authority",),
    "worker": ("worker",),
}


@contextmanager
def opened(engine: Engine) -> Iterator[Trail]:
    """Open a trail as the audit server does."""
    batcher = Batcher(Sequencer(engine), in_transaction=write_rows)
    try:
        yield Trail(engine, batcher, frozenset({made.PROFILE}))
    finally:
        batcher.close()


@dataclass
class World:
    """The trail, who writes to it, and a look at its tables from outside."""

    trail: Trail
    database: Database
    bundle: bytes
    card: bytes
    node: made.Node

    def put(self, *submissions: Submission) -> list[Accepted]:
        """Submit; all must be accepted."""
        results = self.trail.submit(submissions)
        accepted = [result for result in results if isinstance(result, Accepted)]
        assert len(accepted) == len(submissions), results
        return accepted

    def refusal(self, statement: bytes, order: bytes | None = None) -> CounterfoilError:
        """Submit one statement that must be refused, and return why it was."""
        before = self.rows("SELECT count(*) FROM log_entries")
        (result,) = self.trail.submit([Submission(statement, order)])
        assert isinstance(result, Refused), result
        assert self.rows("SELECT count(*) FROM log_entries") == before
        return result.error

    def code(self, statement: bytes, order: bytes | None = None) -> Code:
        return self.refusal(statement, order).code

    def rows(self, query: str, *values: object) -> list[tuple]:
        """Run SQL as the owner on a connection of its own, committed."""
        with psycopg.connect(self.database.owner_dsn) as connection:
            cursor = connection.execute(query.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def fsck(self) -> list[str]:
        return check_trail(self.database.engine("server"))


@pytest.fixture
def world(database: Database) -> Iterator[World]:
    with world_over(database) as found:
        yield found


@contextmanager
def world_over(database: Database) -> Iterator[World]:
    """Open a trail over an empty database, with everybody registered."""
    engine = database.engine("server")
    with session(engine) as db:
        db.add_all(
            PartyRow(name=name, role=role, public_key=made.public(name), added_at=made.NOW)
            for role, names in PARTIES.items()
            for name in names
        )
    with opened(engine) as trail:
        (bundle, card) = trail.submit(
            [Submission(made.bundle("alpha")), Submission(made.rate_card("alpha"))]
        )
        assert isinstance(bundle, Accepted)
        assert isinstance(card, Accepted)
        node = made.Node("alpha", bundle.entry, card.entry)
        yield World(trail, database, bundle.entry, card.entry, node)
