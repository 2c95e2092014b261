"""What an operator can do about a verdict: hand in the evidence of a receipt, for auditors who could not reach its node."""

import sqlite3
from dataclasses import dataclass

import grpc

from execution_layer.node.request_records import StoredEvidence
from execution_layer.node.settings import NodeSettings
from execution_layer.node.store import stored_evidence
from shared.codec.ids import parse_hex_prefix
from shared.proto.counterfoil.audit.v1 import audit_pb2, audit_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc, secure_channel
from shared.runtime.journal import connect

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class HandedIn:
    """A receipt's entry, and how many bytes of evidence the audit layer has taken."""

    entry: bytes
    size: int


def hand_in(settings: NodeSettings, receipt: str) -> HandedIn:
    """Deposit the ciphertexts of one receipt with the audit layer, whether or not the node is running.

    `receipt` is its entry in hexadecimal, or at least the first 12 digits. NOT_FOUND if the node has no such receipt or
    no longer keeps its evidence, INVALID_ARGUMENT if several begin so, or the audit server's error.
    """
    db = connect(settings.spool, read_only=True)
    try:
        entry = _entry(db, receipt.removesuffix("…").lower())
        found = stored_evidence(db, entry)
    finally:
        db.close()
    if found is None:
        raise CounterfoilError(
            Code.NOT_FOUND, f"the evidence of receipt {entry.hex()[:16]}… is no longer kept"
        )
    _deposit(settings, entry, found)
    size = len(found.envelope) + len(found.final_record) + sum(map(len, found.frames))
    return HandedIn(entry, size)


def _entry(db: sqlite3.Connection, digits: str) -> bytes:
    """Return the one receipt whose entry begins with these digits."""
    first, last = parse_hex_prefix(digits, "a receipt's entry")
    query = "SELECT entry FROM receipts WHERE entry BETWEEN ? AND ? LIMIT 2"
    rows = db.execute(query, (first, last)).fetchall()
    if not rows:
        raise CounterfoilError(Code.NOT_FOUND, f"this node signed no receipt {digits[:16]}…")
    if len(rows) > 1:
        raise CounterfoilError(Code.INVALID_ARGUMENT, f"several receipts begin with {digits}")
    return bytes(rows[0]["entry"])


def _deposit(settings: NodeSettings, entry: bytes, found: StoredEvidence) -> None:
    request = audit_pb2.DepositRequest(
        receipt=entry,
        envelope=found.envelope,
        node_nonce=found.node_nonce,
        frames=found.frames,
        final_record=found.final_record,
        final_signature=found.final_signature,
    )
    with secure_channel(settings.audit.target, settings.audit.ca_file, settings.party) as channel:
        try:
            audit_pb2_grpc.IntakeStub(channel).Deposit(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
