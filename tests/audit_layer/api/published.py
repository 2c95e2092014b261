"""A published log behind the real audit server, that tests grow entry by entry: the fixture `log`."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine

from audit_layer.log.sequencer import MAX_BATCH, Sequencer
from audit_layer.wiring.audit_server import published
from audit_layer.wiring.audit_settings import AuditSettings, load_settings
from shared.runtime.errors import CounterfoilError
from shared.translog.checkpoint import parse_checkpoint
from shared.translog.notes import parse_note
from tests.audit_layer.log.world import entry, numbered
from tests.audit_layer.served import (
    Filled,
    World,
    configured,
    serving,
)
from tests.postgres import Database

EMPTY = Filled({}, {}, {}, {}, {}, b"", {})


@dataclass(frozen=True)
class PublishedLog:
    """`world` is the server; entries are appended to its database behind its back."""

    world: World
    settings: AuditSettings
    engine: Engine
    vkeys: tuple[str, ...]
    """The log's Ed25519 and ML-DSA-44 keys."""

    @property
    def folder(self) -> Path:
        return self.settings.tiles_folder

    @staticmethod
    def entry(index: int) -> bytes:
        return entry((numbered(0).issuer, index))

    async def grow(self, old: int, new: int, limit_s: float = 90.0) -> str:
        """Append entries [old, new); return the checkpoint once it covers them."""
        sequencer = Sequencer(self.engine)
        for first in range(old, new, MAX_BATCH):
            batch = [numbered(i) for i in range(first, min(new, first + MAX_BATCH))]
            results = await asyncio.to_thread(sequencer.append, batch)
            assert not [result for result in results if isinstance(result, CounterfoilError)]
        files = published(self.settings)
        async with asyncio.timeout(limit_s):
            while True:
                note = await asyncio.to_thread(files.checkpoint)
                if note is not None and parse_checkpoint(parse_note(note).text).size == new:
                    return note
                await asyncio.sleep(0.05)


@pytest.fixture
async def log(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PublishedLog]:
    async with (
        configured(database, tmp_path) as (config, ca, known),
        serving(config, monkeypatch) as addresses,
    ):
        yield PublishedLog(
            World(config, ca, addresses, EMPTY),
            load_settings(config),
            database.engine("server"),
            tuple(known["log_vkeys"]),
        )
