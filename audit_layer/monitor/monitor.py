"""The monitor's rounds: the checkpoint, the statements, the clock; repeatedly, or once."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from audit_layer.monitor import core
from audit_layer.monitor.client import ApiClient
from audit_layer.monitor.core import Verified
from audit_layer.monitor.draws import Draws
from audit_layer.monitor.findings import Finding, FoundError
from audit_layer.monitor.follower import Follower
from audit_layer.monitor.notifier import Notifier, Sender
from audit_layer.monitor.report import Reporter
from audit_layer.monitor.statements import Watch
from audit_layer.monitor.store import MonitorStore
from audit_layer.monitor.streams import Streams
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.policy import LogPolicy, verify_witnessed
from shared.translog.published import PublishedLog

MAX_PAUSE_S: Final = 300.0
Stream = Callable[[Verified, int], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Rules:
    """The monitor's settings, apart from addresses and keys."""

    from_now: bool = False
    stale_after_s: int = 86_400
    """0: never."""
    grace_s: int = 3_600
    interval_s: float = 10.0
    watch: Watch = field(default_factory=Watch)


@dataclass(slots=True)
class Round:
    """What one round met."""

    findings: int = 0
    """New ones, and old ones that persist."""
    troubles: list[str] = field(default_factory=list)


class Monitor:
    """Follows one log; `api` and `tenant_api` are the audit server's without and with a token."""

    def __init__(
        self,
        store: MonitorStore,
        policy: LogPolicy,
        log: PublishedLog,
        api: ApiClient,
        tenant_api: ApiClient | None,
        rules: Rules,
        reporter: Reporter,
        *,
        webhook: Sender | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """With `webhook`, whoever is behind it is told of the tenant's disclosures."""
        self._store = store
        self._notifier = (
            None if webhook is None else Notifier(store, webhook, reporter.notice, clock=clock)
        )
        self._policy = policy
        self._rules = rules
        self._reporter = reporter
        self._clock = clock
        self._round = Round()
        self._followed_now = False
        self._in_a_row = 0
        self._without_public = False
        self._follower = Follower(
            log, store, policy, from_now=rules.from_now, progress=reporter.progress, clock=clock
        )
        self._draws = Draws(
            policy.logs[0].name,
            self._follower.tile,
            store,
            rules.watch.trust,
            tenant_api,
            found=self._found,
            clock=clock,
        )
        self._public = self._streams(api)
        self._tenant = self._streams(tenant_api) if tenant_api else None

    async def once(self) -> Round:
        """Look once, report where the log stands even if nothing is new, and return what was met."""
        met = await self._look()
        if self._notifier is not None:
            await self._notifier.once()
        held = self._store.verified()
        if held is not None and not self._followed_now:
            self._tell_followed(held, held)
        for reason in met.troubles:
            self._reporter.trouble(reason, 1, None)
        return met

    async def follow(self) -> None:
        """Look repeatedly until cancelled; more slowly after trouble. Meanwhile, send what is due."""
        if self._notifier is None:
            await self._looking()
            return
        tasks = {asyncio.create_task(self._notifier.run()), asyncio.create_task(self._looking())}
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _looking(self) -> None:
        while True:
            met = await self._look()
            pause_s = self._rules.interval_s
            if met.troubles:
                self._in_a_row += 1
                pause_s = min(pause_s * 2.0 ** min(self._in_a_row, 10), max(MAX_PAUSE_S, pause_s))
                for reason in met.troubles:
                    self._reporter.trouble(reason, self._in_a_row, pause_s)
            elif self._in_a_row:
                self._reporter.notice(
                    f"everything is answered again, after {self._in_a_row} failed rounds"
                )
                self._in_a_row = 0
            await asyncio.sleep(pause_s)

    async def _look(self) -> Round:
        met = self._round = Round()
        now_s = int(self._clock())
        since = await self._store.since(now_s)
        await self._tell_findings()
        before = self._store.verified()
        await self._attempt(self._follower.step())
        held = self._store.verified()
        self._followed_now = held is not None and held.checkpoint != (before and before.checkpoint)
        if held is not None:
            if self._followed_now:
                self._tell_followed(held, before)
            if not met.troubles:
                await self._statements(held)
        stale = core.staleness(held, since, int(self._clock()), self._rules.stale_after_s)
        if stale is not None:
            await self._found(stale)
        return met

    async def _statements(self, held: Verified) -> None:
        start = await self._store.start(held.checkpoint.size if self._rules.from_now else 0)
        await self._attempt(self._public_or_none(held, start))
        streams: Sequence[Stream] = (
            (self._tenant.refusals, self._tenant.receipts, self._tenant.disclosures)
            if self._tenant
            else ()
        )
        for stream in streams:
            await self._attempt(stream(held, start))

    async def _public_or_none(self, held: Verified, start: int) -> None:
        """Follow public statements; a log without an audit server has none, which is reported once."""
        try:
            await self._public.public(held, start)
        except CounterfoilError as error:
            watch = self._rules.watch
            if error.code is not Code.NOT_FOUND or watch.operators or watch.models or watch.pinned:
                raise
            if not self._without_public:
                self._without_public = True
                self._reporter.notice("no public statements are served at this address")

    async def _attempt(self, work: Awaitable[object]) -> None:
        """Do part of the round; what it finds is kept, and what it cannot do now is counted."""
        try:
            await work
        except FoundError as error:
            await self._found(error.finding)
        except CounterfoilError as error:
            if error.code in {Code.CORRUPT, Code.CONFIGURATION, Code.CONFLICT}:
                raise  # our own state, or our own order
            self._round.troubles.append(error.detail)

    async def _found(self, finding: Finding) -> None:
        self._round.findings += 1
        await self._store.record(finding, int(self._clock()))
        await self._tell_findings()

    async def _tell_findings(self) -> None:
        untold = self._store.untold()
        for found in untold:
            self._reporter.finding(found)
        if untold:
            await self._store.told([found.id for found in untold])

    def _tell_followed(self, held: Verified, before: Verified | None) -> None:
        witnesses = sorted(verify_witnessed(held.note, self._policy).times)
        self._reporter.followed(held, before, witnesses)

    def _streams(self, api: ApiClient) -> Streams:
        return Streams(
            api,
            self._follower.tile,
            self._store,
            self._rules.watch,
            found=self._found,
            tell=self._reporter.news,
            grace_s=self._rules.grace_s,
            draws=self._draws,
            notifies=self._notifier is not None,
            clock=self._clock,
        )
