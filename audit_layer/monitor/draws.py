"""Checks every draw in the log, as far as strangers can: steps (1) to (8) of protocol §6.1.1.

With a tenant's token, also (10) for its own receipts: that none that the rate draws is missing.
"""

import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from audit_layer.monitor.answers import Listed
from audit_layer.monitor.client import ApiClient
from audit_layer.monitor.core import Verified
from audit_layer.monitor.findings import Finding, FoundError, Kind
from audit_layer.monitor.inclusion import prove
from audit_layer.monitor.selected import Selected
from audit_layer.monitor.store import MonitorStore
from audit_layer.monitor.walk import damaged
from shared.runtime.errors import CounterfoilError
from shared.selection.draw import Logged
from shared.statements.cose import parse_statement
from shared.statements.epochs import Draw, EpochOpen, EpochSeal
from shared.translog.checkpoint import Checkpoint
from shared.translog.published import FetchTile, OnDemand
from shared.translog.tiles import TILE_WIDTH, Tile, decode_bundle, width_at
from shared.verification.draw_check import Fault, Known, Wrong, check_draw
from shared.verification.epoch_record import EpochRecord, gather
from shared.verification.trust import Trust

_ONE_EACH: Final = frozenset({EpochOpen.TYPE, EpochSeal.TYPE, Draw.TYPE})


class Draws:
    """Epochs whose statements the public list has shown; each is checked once, when its draw is there."""

    def __init__(
        self,
        origin: str,
        tile: FetchTile,
        store: MonitorStore,
        trust: Trust,
        tenant: ApiClient | None = None,
        *,
        found: Callable[[Finding], Awaitable[None]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._origin = origin
        self._tile = tile
        self._store = store
        self._trust = trust
        self._tenant = tenant
        self._found = found
        self._clock = clock

    async def check(self, verified: Verified, *, from_start: bool, ended: bool) -> None:
        """Check the epochs that are drawn; once the list has `ended`, also whether one should be.

        Unless the log is followed `from_start`, the first epochs met are skipped: the commitments for an epoch come
        after the opening of the previous one, so unless that was met they may not have been.
        Findings are kept before an epoch counts as checked.
        """
        if self._store.selection_is_full():
            await self._found(
                Finding(Kind.DRAW, "too much", "more epochs await a draw than can be kept")
            )
        kept = self._store.selection()
        checked = {item.epoch for item in kept if item.checked}
        records = gather((item.index, item.raw) for item in kept)
        await self._late(kept, checked, {record.epoch for record in records})
        opened = {item.epoch for item in kept if parse_statement(item.raw).type == EpochOpen.TYPE}
        for record in records:
            if record.epoch in checked or not (from_start or record.epoch - 1 in opened):
                continue
            if record.draw is None and not ended:
                continue
            for fault in await self._faults(record, verified.checkpoint):
                await self._found(_finding(record, fault))
            if record.draw is None:
                continue
            if not checked and not from_start:  # only parts of the epochs before this one were met
                await self._store.forget([i.index for i in kept if i.epoch < record.epoch])
            await self._store.settle(record.epoch)
            checked.add(record.epoch)

    async def _faults(self, record: EpochRecord, checkpoint: Checkpoint) -> Sequence[Fault]:
        known = Known(
            entries=await self._entries(record, checkpoint),
            receipts=await self._receipts(record, checkpoint),
        )
        now = int(self._clock() * 1000)
        return check_draw(
            record, origin=self._origin, now=now, trust=self._trust, known=known
        ).faults

    async def _late(self, kept: Sequence[Selected], checked: set[int], sealed: set[int]) -> None:
        """Find a second opening, seal or draw of a checked epoch; drop whatever came after its check."""
        latest = max(checked, default=-1)
        late = [
            item
            for item in kept
            if not item.checked
            and (item.epoch in checked or (item.epoch < latest and item.epoch not in sealed))
        ]
        for item in late:
            statement = parse_statement(item.raw)
            if statement.type in _ONE_EACH:
                await self._found(
                    Finding(
                        Kind.DRAW,
                        f"{item.epoch}:{Wrong.SECOND}:{item.index}",
                        f"the log has another {statement.type} of epoch {item.epoch} at {item.index}",
                        {"statement": item.raw.hex()},
                    )
                )
        await self._store.forget([item.index for item in late])

    async def _entries(self, record: EpochRecord, checkpoint: Checkpoint) -> dict[int, bytes]:
        """Return the entries at the drawn indexes, each proved to be in the verified tree."""
        draw, seal = record.draw, record.seal.value
        if draw is None or draw.value.whole:
            return {}
        tiles, held = OnDemand(self._tile), dict[Tile, list[bytes]]()
        entries: dict[int, bytes] = {}
        for index in draw.value.drawn:
            if not seal.first <= index < min(seal.size, checkpoint.size):
                continue
            at = index // TILE_WIDTH
            bundle = Tile(-1, at, width_at(0, at, checkpoint.size))
            if bundle not in held:
                held[bundle] = await self._bundle(bundle, checkpoint.size)
            entries[index] = held[bundle][index % TILE_WIDTH]
            await prove(Listed(entries[index], index), checkpoint, tiles)
        return entries

    async def _receipts(self, record: EpochRecord, checkpoint: Checkpoint) -> list[Logged] | None:
        """Return those of the tenant's receipts of an epoch that the tree holds; None without a token."""
        if self._tenant is None or record.draw is None:
            return None
        after, end = record.seal.value.first - 1, min(record.seal.value.size, checkpoint.size)
        tiles, own = OnDemand(self._tile), list[Logged]()
        while True:
            page = await self._tenant.receipts(after)
            for item in page.items:
                if item.index >= end:
                    return own
                after = item.index
                with contextlib.suppress(FoundError):  # the list of receipts is checked separately
                    await prove(item, checkpoint, tiles)
                    own.append(Logged(item.entry, item.index, b""))
            if not page.more:
                return own

    async def _bundle(self, bundle: Tile, size: int) -> list[bytes]:
        data = await self._tile(bundle)
        try:
            return list(decode_bundle(data, bundle.width))
        except CounterfoilError as error:
            raise FoundError(damaged(bundle, error.detail, size)) from error


def _finding(record: EpochRecord, fault: Fault) -> Finding:
    """Return a fault as a finding, with the statements that show it."""
    parts = [record.opened.statement, record.seal.statement]
    if record.draw is not None:
        parts.append(record.draw.statement)
    return Finding(
        Kind.DRAW,
        f"{record.epoch}:{fault.wrong}",
        f"epoch {record.epoch}, step ({fault.step}), {fault.wrong}: {fault.detail}",
        {
            **{part.type: part.raw.hex() for part in parts},
            "commitments": [item.statement.raw.hex() for item in record.commitments],
            "reveals": [item.statement.raw.hex() for item in record.reveals],
        },
    )
