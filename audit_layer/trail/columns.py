"""From signed bytes to index columns: one function per table, used when writing and by `fsck`. Pure."""

from typing import Any

from audit_layer.trail.admission import Admitted
from audit_layer.trail.models import EvidenceRow
from shared.codec.hashing import sha256
from shared.statements.cose import SignedStatement
from shared.statements.keys import KeyBundle
from shared.statements.orders import Order
from shared.statements.receipts import Receipt
from shared.statements.refusals import Refusal
from shared.statements.verdicts import Verdict

Values = dict[str, Any]
ANSWERED_TWICE = "order-answered-twice"
"""Kind of the finding about a second receipt for one order."""
REFUSED_AND_ANSWERED = "order-refused-and-answered"
"""Kind of the finding about an order that has both a refusal and a receipt."""


def statement_values(item: Admitted, index: int, now: int, raw: bytes) -> Values:
    """Return the columns of `trail_statements`; `raw` is the stored form of the signed bytes."""
    return {
        **signed_columns(item.statement),
        "log_index": index,
        "raw": raw,
        "recorded_at": now,
    }


def signed_columns(statement: SignedStatement) -> Values:
    """Return the columns of `trail_statements` that its bytes determine."""
    return {
        "entry": statement.entry,
        "type": statement.type,
        "signer": statement.kid,
        "issuer": statement.issuer,
        "subject": statement.subject,
    }


def order_values(item: Admitted, raw: bytes) -> Values:
    """Return the columns of `trail_orders`; `raw` is the stored form of the signed bytes."""
    assert item.order is not None
    assert item.order_value is not None
    order = item.order_value
    return {
        "entry": item.order.entry,
        "tenant": order.tenant,
        "number": order.number,
        "attempt": order.attempt,
        "max_input_tokens": order.max_input_tokens,
        "max_output_tokens": order.max_output_tokens,
        "max_ms": order.max_ms,
        "cost_centre": order.cost_centre,
        **part_columns(order),
        "raw": raw,
    }


def part_columns(order: Order) -> Values:
    """Return the columns of `trail_orders` that say of which chain's answer an order is a part."""
    part = order.part
    return {
        "head": None if part is None else part.head,
        "place": None if part is None else part.place,
    }


def receipt_values(item: Admitted, index: int) -> Values:
    """Return the columns of `trail_receipts`."""
    assert isinstance(item.value, Receipt)
    assert item.bundle is not None
    return receipt_columns(item.statement.entry, index, item.value, item.bundle)


def receipt_columns(entry: bytes, index: int, receipt: Receipt, bundle: KeyBundle) -> Values:
    """Return the columns of `trail_receipts` for a receipt under its key bundle."""
    usage, chain = receipt.usage, receipt.chain
    stages = None if chain is None else chain.stages
    return {
        "entry": entry,
        "log_index": index,
        "order_entry": receipt.order,
        "bundle": receipt.bundle,
        "tenant": receipt.tenant,
        "number": receipt.number,
        "attempt": receipt.attempt,
        "operator": bundle.operator,
        "node": bundle.node,
        "node_sequence": receipt.node_sequence,
        "model_root": receipt.model_root,
        "numeric_profile": receipt.numeric_profile,
        "input_tokens": usage.input,
        "cached_tokens": usage.cached,
        "output_tokens": usage.output,
        "compute_ms": usage.compute_ms,
        "energy_mj": usage.energy_mj,
        "energy_quality": usage.energy_quality.value,
        "finish": receipt.finish.value,
        "cancelled": receipt.cancel is not None,
        "started": receipt.started,
        "ended": receipt.ended,
        "rate_card": receipt.rate_card,
        "part": bundle.layers is not None,
        "sent": None if chain is None else chain.sent,
        "received": None if chain is None else chain.received,
        "stages": None if stages is None else b"".join(stages),
    }


def refusal_values(item: Admitted, index: int) -> Values:
    """Return the columns of `trail_refusals`."""
    assert isinstance(item.value, Refusal)
    assert item.bundle is not None
    return refusal_columns(item.statement.entry, index, item.value, item.bundle)


def refusal_columns(entry: bytes, index: int, refusal: Refusal, bundle: KeyBundle) -> Values:
    """Return the columns of `trail_refusals` for a refusal under its key bundle."""
    return {
        "entry": entry,
        "log_index": index,
        "order_entry": refusal.order,
        "bundle": refusal.bundle,
        "tenant": refusal.tenant,
        "number": refusal.number,
        "attempt": refusal.attempt,
        "operator": bundle.operator,
        "node": bundle.node,
        "reason": refusal.reason.value,
        "at": refusal.at,
    }


def verdict_values(item: Admitted, index: int) -> Values:
    """Return the columns of `trail_verdicts`."""
    assert isinstance(item.value, Verdict)
    assert item.concerns is not None
    assert item.concerns_bundle is not None
    return verdict_columns(
        item.statement.entry,
        index,
        item.value,
        item.concerns,
        item.concerns_bundle,
        asked=item.asked,
    )


def verdict_columns(
    entry: bytes, index: int, verdict: Verdict, receipt: Receipt, bundle: KeyBundle, *, asked: bool
) -> Values:
    """Return the columns of `trail_verdicts` for a verdict about a receipt, which its tenant chose if it was `asked` for."""
    return {
        "entry": entry,
        "log_index": index,
        "receipt": verdict.receipt,
        "worker": verdict.worker,
        "outcome": verdict.outcome.value,
        "reason": verdict.reason,
        "confirms": verdict.confirms,
        "at": verdict.at,
        "tenant": receipt.tenant,
        "operator": bundle.operator,
        "node": bundle.node,
        "asked": asked,
    }


def evidence_digest(row: EvidenceRow) -> bytes:
    """Return the hash over one deposit's parts."""
    return sha256(row.envelope, row.node_nonce, *row.frames, row.final_record, row.final_signature)


def finding_values(
    kind: str, issuer: str, detail: str, statements: tuple[bytes, bytes], at: int
) -> Values:
    """Return the columns of `trail_findings`; its digest is unique to the kind and pair of statements."""
    first, second = statements
    return {
        "kind": kind,
        "issuer": issuer,
        "detail": detail,
        "digest": sha256(kind.encode(), sha256(first), sha256(second)),
        "first_statement": first,
        "second_statement": second,
        "at": at,
    }
