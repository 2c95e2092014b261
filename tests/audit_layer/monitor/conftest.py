"""A tampering server over TLS, and monitors of it that share one state file."""

from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from audit_layer.monitor.client import ApiClient, Https
from audit_layer.monitor.monitor import Monitor, Round, Rules
from audit_layer.monitor.notifier import Sender
from audit_layer.monitor.report import Reporter
from audit_layer.monitor.store import MonitorStore
from shared.translog.policy import LogPolicy
from shared.translog.published import PublishedLog
from tests.audit_layer.log.world import ORIGIN
from tests.audit_layer.monitor.doubles import POLICY, TIME, Heard, TamperingServer


@dataclass
class Scene:
    """One server, one state file; each `look` is a monitor's process as far as its memory goes."""

    server: TamperingServer
    url: str
    ca: Path
    state: Path
    heard: Heard = field(default_factory=Heard)
    now_s: float = TIME + 60
    timeout_s: float = 5.0
    policy: LogPolicy = POLICY
    origin: str = ORIGIN
    processes: list[Process] = field(default_factory=list)
    """Ended with the scene, whatever became of the test."""

    async def look(
        self, *, token: str | None = None, webhook: Sender | None = None, **rules: Any
    ) -> Round:
        https = Https(self.url, self.ca, timeout_s=self.timeout_s)
        header = {"authorization": f"Bearer {token}"}
        tenant = Https(self.url, self.ca, headers=header, timeout_s=self.timeout_s)
        store = MonitorStore(self.state, self.origin)
        try:
            return await Monitor(
                store, self.policy, PublishedLog(https), ApiClient(https),
                ApiClient(tenant) if token else None,
                Rules(**rules), Reporter(self.heard), webhook=webhook, clock=lambda: self.now_s,
            ).once()  # fmt: skip
        finally:
            store.close()
            await https.aclose()
            await tenant.aclose()

    @property
    def verified_size(self) -> int:
        store = MonitorStore(self.state, self.origin)
        try:
            held = store.verified()
            return held.checkpoint.size if held else -1
        finally:
            store.close()


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    server = TamperingServer()
    async with server.serving(tmp_path) as (https, ca):
        made = Scene(server, f"https://{https.address}", ca, tmp_path / "monitor" / "state.db")
        yield made
        for process in made.processes:
            if process.returncode is None:
                process.kill()
                await process.communicate()
