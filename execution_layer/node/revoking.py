"""Ending a key bundle before its time: the operator's identity key signs a revocation, and the log takes it in."""

from collections.abc import Iterable
from dataclasses import dataclass

from execution_layer.node.audit_link import AuditLink
from execution_layer.node.operators import Operator
from shared.runtime.errors import CounterfoilError
from shared.statements.cose import entry_of, open_as, sign
from shared.statements.keys import Revocation


@dataclass(frozen=True, slots=True)
class Revoked:
    """A revocation that is in the log."""

    bundle: bytes
    at: int
    """From when (ms) the bundle counts no more."""
    entry: bytes
    index: int
    statement: bytes


async def revoke(
    operator: Operator, bundle: bytes, link: AuditLink, *, reason: str, at: int
) -> Revoked:
    """Sign and hand in a revocation; raises what the log refuses it for (NOT_FOUND: no such bundle of this operator)."""
    statement = sign(
        Revocation(bundle=bundle, reason=reason, at=at), key=operator.key, issuer=operator.name
    )
    (answer,) = await link.submit([(statement, b"")])
    if answer.index is None:
        assert answer.refusal is not None
        raise CounterfoilError(*answer.refusal)
    return Revoked(bundle, at, entry_of(statement), answer.index, statement)


def revoked_from(listed: Iterable[bytes], bundle: bytes, operator_key: bytes) -> int | None:
    """Return from when (ms) the operator's own revocations end a bundle; None where none of those listed does."""
    found = []
    for raw in listed:
        try:
            value, _ = open_as(Revocation, raw, operator_key)
        except CounterfoilError:
            continue  # another operator's, or nobody's
        if value.bundle == bundle:
            found.append(value.at)
    return min(found, default=None)
