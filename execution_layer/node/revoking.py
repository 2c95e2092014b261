"""Ending a key bundle before its expiry: the operator's identity key signs a revocation, which goes into the log."""

from collections.abc import Iterable
from dataclasses import dataclass

from execution_layer.node.audit_link import AuditLink
from execution_layer.node.operators import Operator
from shared.runtime.errors import CounterfoilError
from shared.statements.cose import entry_of, open_as, parse_statement, sign
from shared.statements.keys import Revocation
from shared.verification.trust import key_for


@dataclass(frozen=True, slots=True)
class Revoked:
    """A revocation that is in the log."""

    bundle: bytes
    at: int
    """The time (ms) from which the key bundle no longer counts."""
    entry: bytes
    index: int
    statement: bytes


async def revoke(
    operator: Operator, bundle: bytes, link: AuditLink, *, reason: str, at: int
) -> Revoked:
    """Sign and submit a revocation; raise the log's refusal (NOT_FOUND: the operator has no such key bundle)."""
    statement = sign(
        Revocation(bundle=bundle, reason=reason, at=at), key=operator.key, issuer=operator.name
    )
    (answer,) = await link.submit([(statement, b"")])
    if answer.index is None:
        assert answer.refusal is not None
        raise CounterfoilError(*answer.refusal)
    return Revoked(bundle, at, entry_of(statement), answer.index, statement)


def revoked_from(listed: Iterable[bytes], bundle: bytes, *operator_keys: bytes) -> int | None:
    """Return the time (ms) at which the operator's own revocations end a key bundle; None if none of those listed does."""
    found = []
    for raw in listed:
        try:
            value, _ = open_as(Revocation, raw, key_for(parse_statement(raw), operator_keys))
        except CounterfoilError:
            continue  # another operator's, or not validly signed
        if value.bundle == bundle:
            found.append(value.at)
    return min(found, default=None)
