"""Follows lists of statements that the audit server shows, and checks each against the verified tree."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from audit_layer.monitor.answers import Listed, Page
from audit_layer.monitor.client import ApiClient
from audit_layer.monitor.core import Verified
from audit_layer.monitor.disclosures import message_of, request_of, summary_of
from audit_layer.monitor.draws import Draws
from audit_layer.monitor.findings import Finding, FoundError, Kind
from audit_layer.monitor.inclusion import prove
from audit_layer.monitor.orders import Numbers
from audit_layer.monitor.outbox import Message
from audit_layer.monitor.selected import Selected
from audit_layer.monitor.statements import (
    KnownBundle,
    Watch,
    check_key,
    concerns,
    is_about_keys,
    open_raw,
    read_epoch,
    read_payload,
    understand,
)
from audit_layer.monitor.store import Cursor, Learnt, MonitorStore
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import SignedStatement
from shared.statements.disclosures import DISCLOSURE_TYPES, DisclosureRequest
from shared.statements.keys import KeyBundle
from shared.statements.receipts import Finish, Receipt
from shared.statements.refusals import Refusal
from shared.translog.checkpoint import Checkpoint
from shared.translog.published import FetchTile, OnDemand
from shared.verification.identities import Logged

PUBLIC: Final = "public"
RECEIPTS: Final = "receipts"
REFUSALS: Final = "refusals"
DISCLOSURES: Final = "disclosures"


@dataclass(frozen=True, slots=True)
class News:
    """A statement to report, checked to be in the tree at its index."""

    stream: str
    type: str
    entry: bytes
    index: int
    summary: str


@dataclass(slots=True)
class _Round:
    """What one page has added so far."""

    bundles: dict[bytes, KnownBundle]
    numbers: dict[str, Numbers]
    identities: list[Logged]
    selection: list[Selected] = field(default_factory=list)
    news: list[News] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)


class Streams:
    """Public statements and, with a tenant's token, its receipts, refusals and disclosures.

    `found` and `tell` are awaited before a list moves on, so that a crash repeats reports rather than losing any.
    """

    def __init__(
        self,
        api: ApiClient,
        tile: FetchTile,
        store: MonitorStore,
        watch: Watch,
        *,
        found: Callable[[Finding], Awaitable[None]],
        tell: Callable[[News], None],
        grace_s: int,
        draws: Draws,
        notifies: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """With `notifies`, disclosures are also put into the store's outbox."""
        self._draws = draws
        self._notifies = notifies
        self._api = api
        self._tile = tile
        self._store = store
        self._watch = watch
        self._found = found
        self._tell = tell
        self._grace_s = grace_s
        self._clock = clock

    async def public(self, verified: Verified, start: int) -> int:
        """Check public statements from index `start` on; return how many were new."""

        async def check(item: Listed, page: _Round) -> None:
            assert item.raw is not None
            statement = open_raw(item.raw, item.entry, item.type)
            epoch = read_epoch(statement)
            if epoch is not None:
                page.selection.append(Selected(epoch, item.index, item.raw))
            seen = understand(statement, page.bundles)
            if is_about_keys(seen, self._watch):
                page.identities.append(Logged(item.index, item.raw))
            wrong = check_key(seen, self._watch, item.index, page.identities)
            if wrong is not None:
                await self._found(wrong)
            if concerns(seen, self._watch):
                page.news.append(_news(PUBLIC, statement, item.index, seen.summary))
                if seen.bundle is not None:
                    page.bundles[item.entry] = seen.bundle

        new = await self._follow(PUBLIC, self._api.public, check, verified, start)
        await self._draws.check(verified, from_start=start == 0, ended=True)
        return new

    async def receipts(self, verified: Verified, start: int) -> int:
        """Check the tenant's receipts, and its order numbers; return how many receipts were new."""

        async def check(item: Listed, page: _Round) -> None:
            statement = await self._shown(item, frozenset({Receipt.TYPE}))
            receipt = read_payload(Receipt, statement)
            part = await self._is_for_a_part(receipt)
            if not part:
                self._count(page, receipt.tenant, receipt.number, start)
            summary = (
                f"receipt for {'a part of ' if part else ''}order {receipt.number}.{receipt.attempt} of {receipt.tenant}"
                f" by {statement.issuer}: {receipt.usage.input} + {receipt.usage.output} tokens"
            )
            page.news.append(_news(RECEIPTS, statement, item.index, summary))

        new = await self._follow(RECEIPTS, self._api.receipts, check, verified, start)
        for tenant, numbers in self._store.numbers().items():
            for gap in numbers.overdue(tenant, int(self._clock()), self._grace_s):
                await self._found(gap)
        return new

    async def _is_for_a_part(self, receipt: Receipt) -> bool:
        """Whether a receipt is a stage's, so that its order has no number of its own; one that failed says so by its key bundle."""
        if receipt.chain is not None or receipt.finish is not Finish.FAILED:
            return receipt.chain is not None and receipt.chain.place > 0
        shown = await self._shown(Listed(receipt.bundle, 0), frozenset({KeyBundle.TYPE}))
        return read_payload(KeyBundle, shown).layers is not None

    async def refusals(self, verified: Verified, start: int) -> int:
        """Check refusals of the tenant's orders, which count as their numbers' receipts do; return how many were new."""

        async def check(item: Listed, page: _Round) -> None:
            statement = await self._shown(item, frozenset({Refusal.TYPE}))
            refusal = read_payload(Refusal, statement)
            self._count(page, refusal.tenant, refusal.number, start)
            summary = (
                f"refusal of order {refusal.number}.{refusal.attempt} of {refusal.tenant}"
                f" by {statement.issuer}: {refusal.reason.value}"
            )
            page.news.append(_news(REFUSALS, statement, item.index, summary))

        return await self._follow(REFUSALS, self._api.refusals, check, verified, start)

    def _count(self, page: _Round, tenant: str, number: int, start: int) -> None:
        """Count an order number that has a receipt or a refusal."""
        known = page.numbers.get(tenant)
        if known is None:  # numbers begin at 0, or where watching began
            known = Numbers(number if start else 0)
        page.numbers[tenant] = known.with_number(number, int(self._clock()))

    async def disclosures(self, verified: Verified, start: int) -> int:
        """Check disclosures of the tenant's requests; return how many were new."""

        async def check(item: Listed, page: _Round) -> None:
            statement = await self._shown(item, DISCLOSURE_TYPES)
            page.news.append(_news(DISCLOSURES, statement, item.index, summary_of(statement)))
            if self._notifies:
                request = await self._request(statement)
                origin = verified.checkpoint.origin
                page.messages.append(message_of(origin, statement, item.index, request))

        return await self._follow(DISCLOSURES, self._api.disclosures, check, verified, start)

    async def _request(self, statement: SignedStatement) -> SignedStatement | None:
        """Return the disclosure request under which a statement was made; None if there is none, or it is not shown."""
        entry = request_of(statement)
        if entry is None or entry == statement.entry:
            return None if entry is None else statement
        try:
            return open_raw(await self._api.statement(entry), entry, DisclosureRequest.TYPE)
        except CounterfoilError as error:
            if error.code.value.retryable:
                raise
        except FoundError:  # what it is shown as is checked where it is listed
            pass
        return None

    async def _shown(self, item: Listed, types: frozenset[str]) -> SignedStatement:
        """Return the statement behind a listed entry, as the server shows it."""
        try:
            raw = await self._api.statement(item.entry)
        except CounterfoilError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            raise FoundError(
                Finding(
                    Kind.STATEMENT,
                    item.entry.hex(),
                    f"the statement {item.entry.hex()} is listed but not shown",
                )
            ) from error
        statement = open_raw(raw, item.entry, None)
        if statement.type not in types:
            raise FoundError(
                Finding(
                    Kind.STATEMENT,
                    item.entry.hex(),
                    f"the entry {item.entry.hex()} is listed among"
                    f" {' and '.join(sorted(types))} but is of type {statement.type}",
                )
            )
        return statement

    async def _follow(
        self,
        name: str,
        fetch: Callable[[int], Awaitable[Page]],
        check: Callable[[Listed, _Round], Awaitable[None]],
        verified: Verified,
        start: int,
    ) -> int:
        cursor = self._store.cursor(name) or Cursor(start - 1)
        new = 0
        while True:
            page = await fetch(cursor.after)
            learnt = _Round(self._store.bundles(), self._store.numbers(), self._store.identities())
            after, waiting = await self._check_page(
                page, check, verified.checkpoint, learnt, cursor
            )
            new += sum(after.after >= item.index for item in page.items)
            for item in learnt.news:
                self._tell(item)
            if after != cursor:
                kept = Learnt(
                    learnt.bundles,
                    learnt.numbers,
                    learnt.selection,
                    learnt.identities,
                    learnt.messages,
                )
                await self._store.move(name, after, kept)
            if learnt.selection:  # checked ones need not be kept, and a long log has many epochs
                await self._draws.check(verified, from_start=start == 0, ended=False)
            cursor = after
            if waiting or not page.more:
                return new

    async def _check_page(
        self,
        page: Page,
        check: Callable[[Listed, _Round], Awaitable[None]],
        checkpoint: Checkpoint,
        learnt: _Round,
        cursor: Cursor,
    ) -> tuple[Cursor, bool]:
        """Check items in order; return the cursor after them, and whether one has no checkpoint yet."""
        tiles, after = OnDemand(self._tile), cursor.after
        for item in page.items:
            if item.index >= checkpoint.size:
                return await self._wait(item, after, cursor), True
            try:
                await prove(item, checkpoint, tiles)
                await check(item, learnt)
            except FoundError as error:
                if error.finding.kind in {Kind.MISSING, Kind.DAMAGE}:
                    raise  # the tree cannot be asked, which says nothing about the statement
                await self._found(error.finding)
            after = item.index
        return Cursor(after), False

    async def _wait(self, item: Listed, after: int, cursor: Cursor) -> Cursor:
        """Wait for a checkpoint that covers an item; a finding when none comes within the grace period."""
        now_s = int(self._clock())
        since = cursor.waiting_since if cursor.waiting == item.entry else now_s
        if now_s - since > self._grace_s:
            await self._found(
                Finding(
                    Kind.STATEMENT,
                    item.entry.hex(),
                    f"the statement {item.entry.hex()} is shown at index {item.index}, which no"
                    f" checkpoint has covered in {now_s - since} s",
                )
            )
        return Cursor(after, item.entry, since)


def _news(stream: str, statement: SignedStatement, index: int, summary: str) -> News:
    return News(stream, statement.type, statement.entry, index, summary)
