"""Evidence against nodes in a client's archive: what one signed twice, differently. Whoever is shown it needs no secret.

A stream that differs (protocol §4.9) is proved by order, key bundle and two signatures; no statement of the log convicts by
it. A receipt and a refusal of one order are statements, and convict in the log (§3.7).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from execution_layer.client.archive import Archive, Transcript
from shared.codec.moment import to_rfc3339

STREAM: Final = "two values in one place of a stream"
REFUSED: Final = "a refusal of an order that was answered"


@dataclass(frozen=True, slots=True)
class Accusation:
    """What a node contradicted itself about."""

    found: Transcript
    kind: str
    position: int | None = None
    """Of the frame, from 1; 0 for the node's nonce. Only of a stream."""
    value: bytes = b""
    signature: bytes = b""
    """The second value, and the node's signature with it."""

    @property
    def convicts(self) -> bool:
        """Whether the log convicts by the statements."""
        return self.found.receipt is not None and self.found.refusal is not None


def accusations(archive: Archive) -> list[Accusation]:
    """Return all, oldest first."""
    return [one for found in archive.accused() for one in _against(archive, found)]


def _against(archive: Archive, found: Transcript) -> Iterator[Accusation]:
    for position, value, signature in archive.contradictions(found.id):
        yield Accusation(found, STREAM, position, value, signature)
    if found.refusal is not None and (found.receipt or found.accepted_signature) is not None:
        yield Accusation(found, REFUSED)


def facts(one: Accusation) -> dict[str, Any]:
    """Return what people and programs are told about one accusation."""
    found = one.found
    return {
        "against": found.node,
        "number": found.number,
        "attempt": found.attempt,
        "order": found.order_entry,
        "reason": one.kind if one.position is None else f"{one.kind}: {_place(one.position)}",
        "proved_by": _proof(one),
        "seen": to_rfc3339(found.finished or found.created),
    }


def _proof(one: Accusation) -> str:
    if one.kind == STREAM:
        return "order, key bundle and two signatures: give the file of --to to an auditor"
    if one.convicts:
        return "receipt and refusal: the log convicts by both (--hand-in)"
    return "the signed beginning of the answer, and the refusal"


def _place(position: int) -> str:
    return "its beginning" if position == 0 else f"frame {position}"


def exported(archive: Archive, one: Accusation) -> dict[str, Any]:
    """Return one accusation as a file has it: order and key bundle, and what the node signed, in hexadecimal.

    Of the frames there are only those that a signature covers. Nothing in it says what was asked or answered.
    """
    found = one.found
    bundle, proof = archive.bundle(found.bundle)
    values: dict[str, Any] = {
        "kind": one.kind,
        "node": found.node,
        "order": found.order_statement.hex(),
        "bundle": bundle.hex(),
        "bundle_proof": proof,
    }
    signed = {"receipt": found.receipt, "refusal": found.refusal}
    values |= {name: raw.hex() for name, raw in signed.items() if raw is not None}
    if found.node_nonce is not None and found.accepted_signature is not None:
        accepted = {"node_nonce": found.node_nonce, "signature": found.accepted_signature}
        values["accepted"] = {name: raw.hex() for name, raw in accepted.items()}
    if one.position is None:
        return values
    covered = zip(found.frames[: one.position], found.signatures[: one.position], strict=True)
    return values | {
        "position": one.position,
        "frames": [{"ciphertext": c.hex(), "signature": s.hex()} for c, s in covered],
        "second": {"value": one.value.hex(), "signature": one.signature.hex()},
    }
