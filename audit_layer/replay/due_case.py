"""Assembles what a worker needs to know about a receipt that is to be disclosed, from the trail and the replay tables."""

from collections.abc import Sequence

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from audit_layer.disclosure.evidence import Ciphertexts
from audit_layer.disclosure.ground import AskedGround, DrawnGround
from audit_layer.disclosure.service import Answering, DueCase
from audit_layer.replay.case import ChainCase, Member
from audit_layer.replay.models import WorkRow
from audit_layer.selection.models import BeaconRow, EpochRow
from audit_layer.selection.work import Kind, first_of
from audit_layer.storage.engine import session
from audit_layer.trail.at_rest import decrypted
from audit_layer.trail.models import (
    EvidenceRow,
    OrderRow,
    ReceiptRow,
    StatementRow,
    VerdictRow,
)
from shared.envelope.delivered import Delivered
from shared.envelope.header import Envelope
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import entry_of, read_as
from shared.statements.disclosures import DisclosureReason, DisclosureRequest
from shared.statements.keys import KeyBundle
from shared.statements.orders import Order
from shared.statements.receipts import Receipt
from shared.statements.verdicts import Blame, Reason


def load_case(engine: Engine, row: WorkRow) -> DueCase:
    """Return the case of one work row. CORRUPT when a statement that the log must hold is missing."""
    with session(engine) as db:
        receipt_raw = _statement(db, row.receipt)
        receipt = read_as(Receipt, receipt_raw)
        bundle_raw = _statement(db, receipt.bundle)
        bundle = read_as(KeyBundle, bundle_raw)
        request = read_as(DisclosureRequest, row.request_statement)
        order, head = _part_of(db, receipt)
        return DueCase(
            request=row.request_statement,
            receipt_statement=receipt_raw,
            receipt=receipt,
            bundle=bundle_raw,
            endpoint=bundle.evidence or bundle.endpoint,
            signing_key=bundle.signing_key,
            ground=AskedGround(_statement(db, request.draw))
            if row.epoch is None
            else _drawn(db, row.epoch, receipt, request.reason),
            first_verdict=_first_verdict(db, row),
            order=order,
            head=head,
        )


def _part_of(db: Session, receipt: Receipt) -> tuple[bytes | None, Answering | None]:
    """Return the order that a stage's receipt answers, and its head's receipt, if the log has that; nothing for a whole answer."""
    row = db.get(OrderRow, receipt.order)
    if row is None or row.head is None:
        return None, None
    answer = db.scalar(
        select(ReceiptRow)
        .where(ReceiptRow.order_entry == row.head, ~ReceiptRow.part)
        .order_by(ReceiptRow.log_index)
        .limit(1)
    )
    order = decrypted(db, row.raw)
    if answer is None:
        return order, None
    head = read_as(Receipt, _statement(db, answer.entry))
    bundle = read_as(KeyBundle, _statement(db, head.bundle))
    endpoint = bundle.evidence or bundle.endpoint
    return order, Answering(answer.entry, head, endpoint, bundle.signing_key)


def chain_of(engine: Engine, head: bytes, envelope: bytes) -> ChainCase | None:
    """Return what the log has about the chain of an envelope, given the entry of its head's receipt.

    None if the log lacks a key bundle that the envelope's header names. ERASED if the head's receipt was erased.
    """
    with session(engine) as db:
        bundles = [
            db.get(StatementRow, each.bundle)
            for each in Envelope.from_bytes(envelope).header.stages or ()
        ]
        raw = _statement(db, head)
        receipt = read_as(Receipt, raw)
        order = db.get_one(OrderRow, receipt.order)
        listed = () if receipt.chain is None else receipt.chain.stages or ()
        found = (_member(db, entry) for entry in listed)
        members = (
            Member(raw, decrypted(db, order.raw)),
            *(member for member in found if member is not None),
        )
    raws = [row.raw for row in bundles if row is not None and row.type == KeyBundle.TYPE]
    return ChainCase(tuple(raws), members) if len(raws) == len(bundles) else None


def _member(db: Session, entry: bytes) -> Member | None:
    """Return a receipt and its order; None if the log has no such receipt, or it was erased."""
    row = db.get(ReceiptRow, entry)
    order = None if row is None else db.get(OrderRow, row.order_entry)
    if order is None:
        return None
    try:
        return Member(_statement(db, entry), decrypted(db, order.raw))
    except CounterfoilError as error:
        if error.code is not Code.ERASED:
            raise
        return None


def charged(engine: Engine, receipt: bytes, worker: str) -> bytes | None:
    """Return the first verdict of another worker that blames a receipt's node; None without one."""
    with session(engine) as db:
        rows = db.scalars(
            select(VerdictRow)
            .where(VerdictRow.receipt == receipt, VerdictRow.worker != worker)
            .order_by(VerdictRow.log_index)
        )
        blaming = (row.entry for row in rows if Reason(row.reason).blame is Blame.NODE)
        return next(blaming, None)


def answered_before(engine: Engine, receipt: bytes) -> bytes | None:
    """Return the entry of the receipt that answered the same order at a lower index; None for an order's first."""
    with session(engine) as db:
        row = db.scalars(select(ReceiptRow).where(ReceiptRow.entry == receipt)).one_or_none()
        if row is None:
            return None
        return db.scalar(
            select(ReceiptRow.entry)
            .where(ReceiptRow.order_entry == row.order_entry, ReceiptRow.log_index < row.log_index)
            .order_by(ReceiptRow.log_index)
            .limit(1)
        )


def order_of(engine: Engine, receipt: Receipt) -> Order:
    """Return the order that a receipt in the trail answers; CORRUPT when it is not there, ERASED when it was erased."""
    with session(engine) as db:
        row = db.get(OrderRow, receipt.order)
        if row is None:
            raise CounterfoilError(Code.CORRUPT, "a receipt's order is not in the trail")
        return read_as(Order, decrypted(db, row.raw))


def first_verdict_entry(case: DueCase) -> bytes | None:
    """Return the entry of the verdict that this work is to confirm."""
    return None if case.first_verdict is None else entry_of(case.first_verdict)


class TrailDeposits:
    """Deposited ciphertexts, as the trail keeps them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def find(self, receipt_entry: bytes) -> Sequence[Ciphertexts]:
        """Return all deposits for one receipt, oldest first."""
        with session(self._engine) as db:
            receipt = db.get(ReceiptRow, receipt_entry)
            rows = db.scalars(
                select(EvidenceRow)
                .where(EvidenceRow.receipt == receipt_entry)
                .order_by(EvidenceRow.id)
            ).all()
            order = None if receipt is None else db.get(OrderRow, receipt.order_entry)
            # Without its order nothing counts as delivered.
            raw = b"" if order is None else decrypted(db, order.raw)
        return [
            Ciphertexts(
                raw,
                Delivered(
                    row.envelope,
                    row.node_nonce,
                    tuple(row.frames),
                    row.final_record,
                    row.final_signature,
                ),
            )
            for row in rows
        ]


def _statement(db: Session, entry: bytes) -> bytes:
    row = db.get(StatementRow, entry)
    if row is None:
        raise CounterfoilError(
            Code.CORRUPT, f"statement {entry.hex()[:16]}… is in the log but not in the trail"
        )
    return decrypted(db, row.raw)


def _drawn(db: Session, number: int, receipt: Receipt, reason: DisclosureReason) -> DrawnGround:
    epoch = db.get_one(EpochRow, number)
    beacons = db.scalars(
        select(BeaconRow).where(BeaconRow.epoch == number).order_by(BeaconRow.position)
    ).all()
    assert epoch.seal_statement is not None
    assert epoch.draw_statement is not None
    return DrawnGround(
        opened=epoch.open_statement,
        seal=epoch.seal_statement,
        draw=epoch.draw_statement,
        commitments=tuple(beacon.commitment_statement for beacon in beacons),
        reveals=tuple(b.reveal_statement for b in beacons if b.reveal_statement is not None),
        floor_entries=_floor_entries(db, epoch, receipt, reason),
    )


def _floor_entries(
    db: Session, epoch: EpochRow, receipt: Receipt, reason: DisclosureReason
) -> tuple[bytes, ...]:
    if reason not in {DisclosureReason.FLOOR, DisclosureReason.CONFIRM}:
        return ()
    assert epoch.first is not None
    assert epoch.size is not None
    return tuple(
        db.scalars(
            select(ReceiptRow.entry)
            .where(
                ReceiptRow.bundle == receipt.bundle,
                ReceiptRow.log_index >= epoch.first,
                ReceiptRow.log_index < epoch.size,
            )
            .order_by(ReceiptRow.log_index)
        )
    )


def _first_verdict(db: Session, row: WorkRow) -> bytes | None:
    first = first_of(Kind(row.kind))
    if row.kind == first:
        return None
    return db.scalars(
        select(WorkRow.verdict_statement).where(
            WorkRow.receipt == row.receipt, WorkRow.kind == first
        )
    ).one()
