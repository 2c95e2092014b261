"""The selection authority: opens epochs, seals them on schedule, draws the sample, and assigns the work.

One `tick` does whatever is due and may safely be repeated or lost: each statement is stored before it is sent, and the
log answers a second copy with the first one's index. Protocol §6.1 numbers the steps.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from audit_layer.disclosure.at_once import as_they_come
from audit_layer.disclosure.audit_client import AuditServer
from audit_layer.disclosure.parties import BeaconClient
from audit_layer.log.tile_table import log_size
from audit_layer.selection.asking import Asking, note_logged, unlogged
from audit_layer.selection.models import BeaconRow, EpochRow
from audit_layer.selection.requesting import Requesting
from audit_layer.selection.settings import AuthoritySettings, PeerSettings
from audit_layer.selection.work import WorkList
from audit_layer.storage.engine import alone, session
from audit_layer.trail.models import ReceiptRow
from audit_layer.trail.standings import strict_bundles
from shared.runtime.errors import CounterfoilError
from shared.runtime.keys import Signer
from shared.runtime.logs import News
from shared.selection.beacon import combine
from shared.selection.draw import (
    Logged,
    by_bundle,
    node_hash,
    sample,
    selection_seed,
)
from shared.selection.epoch import raised_floors
from shared.selection.party import read_commitment, read_reveal
from shared.statements.beacons import BeaconReveal
from shared.statements.cose import Payload, entry_of, read_as, sign
from shared.statements.epochs import Draw, EpochOpen, EpochSeal
from shared.translog.tlog_proof import parse_tlog_proof

logger = logging.getLogger(__name__)

MAX_BATCH = 500
"""Statements per call to the log, which takes 1,024."""
PATIENCE_S = 30.0
"""How long a tick waits for all parties of the beacon together: none can stop the clock by answering for ever."""
TICK_LOCK = 0x63665F7469636B  # "cf_tick": one tick at a time per installation


@dataclass(frozen=True, slots=True)
class Authority:
    """Runs the epoch clock. All methods may be repeated after a crash at any point."""

    name: str
    engine: Engine
    server: AuditServer
    parties: Sequence[BeaconClient]
    key: Signer
    origin: str
    settings: AuthoritySettings
    peers: Sequence[PeerSettings]
    work: WorkList
    _news: News = field(default_factory=News, init=False, repr=False)

    def tick(self, now: int) -> None:
        """Do what is due at `now` (ms): open, seal, draw, answer tenants, escalate. Returns at once if another tick is running."""
        with alone(self.engine, TICK_LOCK) as ours:
            if ours:
                self._advance(now)

    def _advance(self, now: int) -> None:
        with session(self.engine) as db:
            epochs = db.scalars(
                select(EpochRow).where(EpochRow.state != "drawn").order_by(EpochRow.epoch)
            ).all()
            last = db.scalar(select(func.max(EpochRow.epoch)))
        for row in epochs:
            self._advance_epoch(row, now)
        if not any(row.state == "open" for row in epochs):
            self._open(0 if last is None else last + 1, now)
        self._answer(now)
        self._escalate(now)

    def _advance_epoch(self, row: EpochRow, now: int) -> None:
        if row.open_index is None:
            self._log_open(row.epoch)
        elif row.state == "open" and now >= row.opened_at + self.settings.epoch_seconds * 1000:
            if self._has_receipts(row):
                self._seal(row.epoch, now)
            else:
                self._extend(row.epoch, now)
        elif row.state == "sealed":
            self._draw(row.epoch, now)

    # -- step 1: open ------------------------------------------------------------------------------

    def _open(self, epoch: int, now: int) -> None:
        """Collect the parties' commitments and log them with the statement that names them."""
        asking = [partial(self._commitment, party, epoch) for party in self.parties]
        answers = dict(as_they_come(asking, within_s=PATIENCE_S))
        commitments = [
            (party.name, raw)
            for party in self.parties
            if (raw := answers.get(party.name)) and self._taken_in(party.name, raw)
        ]
        with session(self.engine) as db:
            size = log_size(db)
        statement = self._sign(
            EpochOpen(
                epoch=epoch,
                at=now,
                first=size,
                commitments=tuple(entry_of(raw) for _, raw in commitments),
                rate_ppm=self.settings.rate_ppm,
                floor=self.settings.floor,
                strict_floor=self.settings.strict_floor
                if self.settings.strict_floor > self.settings.floor
                else None,
            )
        )
        with session(self.engine) as db:
            db.add(EpochRow(epoch=epoch, state="open", opened_at=now, open_statement=statement))
            db.flush()
            db.add_all(
                BeaconRow(epoch=epoch, party=name, position=position, commitment_statement=raw)
                for position, (name, raw) in enumerate(commitments)
            )
        self._log_open(epoch)

    def _commitment(self, party: BeaconClient, epoch: int) -> tuple[str, bytes | None]:
        try:
            raw = party.commitment(epoch)
            read_commitment(raw, party.name, self.origin, epoch)
        except CounterfoilError as error:
            logger.warning("beacon party %s gave no commitment: %s", party.name, error)
            return party.name, None
        return party.name, raw

    def _log_open(self, epoch: int) -> None:
        with session(self.engine) as db:
            row = db.get_one(EpochRow, epoch)
            beacons = _beacons(db, epoch)
            logged = self.server.submit(
                [*(beacon.commitment_statement for beacon in beacons), row.open_statement]
            )
            row.open_index = logged[-1].index

    # -- step 2: seal ------------------------------------------------------------------------------

    def _has_receipts(self, row: EpochRow) -> bool:
        """Return whether the log has a receipt for an open epoch; once it has one, it keeps it."""
        with session(self.engine) as db:
            previous = db.get(EpochRow, row.epoch - 1)
            first = row.open_index if previous is None else previous.size
            newest = db.scalar(select(func.max(ReceiptRow.log_index)))
        return newest is not None and first is not None and newest >= first

    def _extend(self, epoch: int, now: int) -> None:
        """Extend an epoch without receipts by another term: there is nothing to draw, and nothing to log."""
        with session(self.engine) as db:
            db.get_one(EpochRow, epoch).opened_at = now

    def _seal(self, epoch: int, now: int) -> None:
        """Seal `epoch` at a witnessed size that covers the next epoch's open statement."""
        with session(self.engine) as db:
            following = db.get(EpochRow, epoch + 1)
        if following is None:
            self._open(epoch + 1, now)
            return  # the next tick finds it witnessed
        proof = self.server.proof(entry_of(following.open_statement))
        if proof is None:
            return
        checkpoint = parse_tlog_proof(proof.text).claimed
        with session(self.engine) as db:
            row = db.get_one(EpochRow, epoch)
            previous = db.get(EpochRow, epoch - 1)
            assert row.open_index is not None
            row.first = row.open_index + 1 if previous is None else previous.size
            row.size, row.sealed_at, row.state = checkpoint.size, now, "sealed"
            assert row.first is not None
            nodes = by_bundle(_logged(db, row.first, checkpoint.size))
            opened = read_as(EpochOpen, row.open_statement)
            strict = strict_bundles(db, nodes.keys(), checkpoint.size)
            seal = EpochSeal(
                epoch=epoch,
                at=now,
                open=entry_of(row.open_statement),
                first=row.first,
                size=checkpoint.size,
                root=checkpoint.root,
                nodes={bundle: node_hash(entries) for bundle, entries in nodes.items()},
                strict=strict if strict and opened.strict_floor is not None else None,
            )
            row.seal_statement = self._sign(seal)
        self.server.submit([row.seal_statement])

    # -- steps 3 to 6: reveal and draw ---------------------------------------------------------------

    def _draw(self, epoch: int, now: int) -> None:
        """Gather reveals under the witnessed seal; draw when all are in, or the whole epoch when time is up."""
        with session(self.engine) as db:
            row = db.get_one(EpochRow, epoch)
            beacons = _beacons(db, epoch)
        if row.draw_statement is not None:
            self._log_draw(epoch)
            return
        assert row.seal_statement is not None
        assert row.sealed_at is not None
        self.server.submit([row.seal_statement])
        seal_proof = self.server.proof(entry_of(row.seal_statement))
        open_proof = self.server.proof(entry_of(row.open_statement))
        if seal_proof is None or open_proof is None:
            return
        shown = (row.open_statement, open_proof.text, row.seal_statement, seal_proof.text)
        asked = [beacon for beacon in beacons if beacon.reveal_statement is None]
        asking = [partial(self._revealed, beacon, shown) for beacon in asked]
        answers = dict(as_they_come(asking, within_s=PATIENCE_S))
        for beacon in asked:
            if reveal := answers.get(beacon.party):
                self._keep_reveal(beacon, reveal)
        complete = bool(beacons) and all(beacon.reveal_statement for beacon in beacons)
        if not complete and now < row.sealed_at + self.settings.reveal_seconds * 1000:
            return
        reveals = [b.reveal_statement for b in beacons if b.reveal_statement is not None]
        self.server.submit(reveals)
        self._store_draw(epoch, reveals, whole=not complete, now=now)
        for beacon in beacons:
            self._news.over(_who(beacon))

    def _revealed(
        self, beacon: BeaconRow, shown: tuple[bytes, str, bytes, str]
    ) -> tuple[str, bytes | None]:
        party = next((party for party in self.parties if party.name == beacon.party), None)
        if party is None:
            return beacon.party, None
        try:
            reveal = party.reveal(beacon.epoch, *shown)
            read_reveal(reveal, beacon.commitment_statement, entry_of(shown[2]))
        except CounterfoilError as error:
            if self._news.about(_who(beacon), str(error)):
                logger.warning(
                    "beacon party %s did not reveal for epoch %d: %s",
                    beacon.party,
                    beacon.epoch,
                    error,
                )
            return beacon.party, None
        return beacon.party, reveal

    def _keep_reveal(self, beacon: BeaconRow, reveal: bytes) -> None:
        if not self._taken_in(beacon.party, reveal):
            return
        with session(self.engine) as db:
            stored = db.get_one(BeaconRow, (beacon.epoch, beacon.party))
            stored.reveal_statement = beacon.reveal_statement = reveal

    def _taken_in(self, party: str, statement: bytes) -> bool:
        """Log a party's answer; one whose signature the log refuses must not stop what follows."""
        try:
            self.server.submit([statement])
        except CounterfoilError as error:
            if error.code.value.retryable:
                raise
            logger.warning(
                "the log refuses a statement signed by beacon party %s: %s", party, error
            )
            return False
        return True

    def _store_draw(self, epoch: int, reveals: Sequence[bytes], *, whole: bool, now: int) -> None:
        with session(self.engine) as db:
            row = db.get_one(EpochRow, epoch)
            assert row.first is not None
            assert row.size is not None
            assert row.seal_statement is not None
            seal = read_as(EpochSeal, row.seal_statement)
            opened = read_as(EpochOpen, row.open_statement)
            receipts = _logged(db, row.first, row.size)
            values = [read_as(BeaconReveal, r).reveal for r in reveals]
            seed = selection_seed(self.origin, seal.size, seal.root, combine(values))
            drawn = sample(
                seed,
                receipts,
                rate_ppm=opened.rate_ppm,
                floor=opened.floor,
                whole=whole,
                raised=raised_floors(opened, seal),
            )
            draw = Draw(
                epoch=epoch,
                seal=entry_of(row.seal_statement),
                reveals=tuple(entry_of(raw) for raw in reveals),
                whole=whole,
                seed=seed,
                drawn=tuple(item.index for item in drawn),
            )
            row.draw_statement = self._sign(draw)
            row.whole = whole
            named = entry_of(row.draw_statement)
            requesting = self._requesting
            self.work.assign(db, [requesting.drawn(item, named, epoch, now) for item in drawn])
        self._log_draw(epoch)
        logger.info("epoch %d: %d of %d receipts drawn", epoch, len(drawn), len(receipts))

    def _log_draw(self, epoch: int) -> None:
        """Send the stored draw and its requests; the epoch is done once the log has them all."""
        with session(self.engine) as db:
            row = db.get_one(EpochRow, epoch)
            assert row.draw_statement is not None
            requests = self.work.requests(db, epoch)
        for batch in batched([row.draw_statement, *requests]):
            self.server.submit(batch)
        with session(self.engine) as db:
            db.get_one(EpochRow, epoch).state = "drawn"

    # -- work ----------------------------------------------------------------------------------------

    @property
    def _requesting(self) -> Requesting:
        disclosure_ms = int(self.settings.disclosure_seconds * 1000)
        return Requesting(self.name, self.key, self.peers, disclosure_ms)

    def _answer(self, now: int) -> None:
        """Answer what tenants have asked for since (protocol §6.2.7), and send what a crash left unsent."""
        with session(self.engine) as db:
            self.work.assign(db, Asking.of(self._requesting, self.settings).new(db, now))
        with session(self.engine) as db:
            for batch in batched(unlogged(db)):
                self.server.submit(batch)
            note_logged(db)

    def _escalate(self, now: int) -> None:
        """Ask a second worker, with its own keys, about every verdict that blames a node, and a third if the second differs."""
        with session(self.engine) as db:
            further = [
                self._requesting.further(judged, kind, heard, now)
                for judged, kind, heard in self.work.unconfirmed(db)
            ]
            asked = [item for item in further if item is not None]
            self.work.assign(db, asked)
        for batch in batched([item.request_statement for item in asked]):
            self.server.submit(batch)

    def _sign(self, value: Payload) -> bytes:
        return sign(value, key=self.key, issuer=self.name)


def batched(statements: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Split statements into batches that one call takes; none is empty."""
    for start in range(0, len(statements), MAX_BATCH):
        yield statements[start : start + MAX_BATCH]


def _who(beacon: BeaconRow) -> str:
    return f"{beacon.party} {beacon.epoch}"


def _beacons(db: Session, epoch: int) -> Sequence[BeaconRow]:
    return db.scalars(
        select(BeaconRow).where(BeaconRow.epoch == epoch).order_by(BeaconRow.position)
    ).all()


def _logged(db: Session, first: int, size: int) -> list[Logged]:
    rows = db.execute(
        select(ReceiptRow.entry, ReceiptRow.log_index, ReceiptRow.bundle)
        .where(ReceiptRow.log_index >= first, ReceiptRow.log_index < size)
        .order_by(ReceiptRow.log_index)
    ).all()
    return [Logged(*row) for row in rows]
