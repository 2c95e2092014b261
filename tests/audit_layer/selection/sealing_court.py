"""A sealing authority over a log that one witness cosigns, for tests."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine

from audit_layer.selection.settings import AuthoritySettings
from audit_layer.selection.tenant_seals import Sealing, period_at
from shared.statements.cose import entry_of, open_as
from shared.statements.seals import TenantSeal
from tests.audit_layer.api import statements as made
from tests.audit_layer.log.world import World as LogWorld
from tests.audit_layer.log.world import make_world
from tests.audit_layer.replay.court import FakeAuditServer
from tests.audit_layer.trail.conftest import World, world

__all__ = ["world"]

DAY = 86_400_000
GRACE = 3_600_000
BEGAN = made.NOW - 1000
"""When receipts begin unless a test says otherwise."""
END = period_at("day", BEGAN).end
"""The end of their day."""


@dataclass
class Court:
    """A sealing authority over a log that one witness cosigns."""

    world: World
    engine: Engine
    log: LogWorld
    server: FakeAuditServer
    sealing: Sealing

    def put(self, *started: int, tenant: str = "acme") -> list[bytes]:
        submissions = [self.world.node.receipt(tenant, started=at) for at in started]
        return [item.entry for item in self.world.put(*submissions)]

    def tick(self, now: int) -> int:
        self.server.publish()
        return self.sealing.tick(now)

    def seals(self, tenant: str = "acme") -> list[tuple[TenantSeal, bytes, int]]:
        rows = self.world.rows(
            "SELECT raw, log_index FROM trail_statements"
            " WHERE type = 'tenant-seal' AND subject = %s ORDER BY log_index",
            tenant,
        )
        return [
            (open_as(TenantSeal, raw, made.public("authority"))[0], entry_of(raw), index)
            for raw, index in rows
        ]


@pytest.fixture
def make(world: World, tmp_path: Path) -> Iterator[Callable[..., Court]]:
    log = make_world(
        world.database.engine("server"), tmp_path / "log", names=["w1.example"], threshold=1
    )

    def build(**settings) -> Court:
        server = FakeAuditServer(world.trail, log)
        values = {"key_file": tmp_path / "unused", "seal_grace_seconds": GRACE / 1000, **settings}
        engine = world.database.engine("worker")
        sealing = Sealing(
            "authority",
            engine,
            server,  # type: ignore[arg-type]  # a double
            made.key("authority"),
            AuthoritySettings.model_validate(values),
        )
        return Court(world, engine, log, server, sealing)

    yield build
    log.close()


@pytest.fixture
def court(make: Callable[..., Court]) -> Court:
    return make()
