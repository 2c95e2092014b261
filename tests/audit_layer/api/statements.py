"""Signed statements of a small world: two operators, two tenants, an authority, a worker."""

from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_layer.trail.service import Submission, Trail
from shared.codec.moment import now_ms
from shared.envelope.delivered import Delivered, receipt_context
from shared.envelope.header import envelope_hash
from shared.envelope.stream import StreamContext, final_signature_message, stream_hash
from shared.runtime.keys import public_bytes
from shared.statements.cancellations import sign_cancellation
from shared.statements.cose import entry_of, open_as, read_as, sign
from shared.statements.disclosures import AuditRequest, DisclosureReason, DisclosureRequest
from shared.statements.epochs import EpochOpen
from shared.statements.keys import KeyBundle, Revocation
from shared.statements.orders import Order
from shared.statements.ratecards import Price, RateCard
from shared.statements.receipts import NO_RECEIPT, EnergyQuality, Finish, Receipt, Usage
from shared.statements.refusals import RefusalReason, refuse_order
from shared.statements.verdicts import Reason, Verdict

NOW = now_ms()
HOUR = 3_600_000
MODEL = sha256(b"model").digest()
PROFILE = sha256(b"profile").digest()
ENVELOPE, FRAMES = b"envelope", (b"one", b"two")
"""What was sent for every receipt; none of it decrypts."""


def key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(sha256(name.encode()).digest())


def public(name: str) -> bytes:
    return public_bytes(key(name))


def some(*parts: object) -> bytes:
    return sha256(repr(parts).encode()).digest()


def register(trail: Trail) -> None:
    for role, names in {
        "operator": ("alpha", "beta"),
        "tenant": ("acme", "bolt"),
        "authority": ("authority",),
        "worker": ("worker",),
    }.items():
        for name in names:
            trail.add_party(name, role, public(name))


def bundle(operator: str, *, not_after: int = NOW + 20 * HOUR, model: bytes = MODEL) -> bytes:
    value = KeyBundle(
        operator=operator,
        node="one",
        not_before=not_after - 24 * HOUR,
        not_after=not_after,
        signing_key=public(f"{operator}/one"),
        hpke_key=bytes(1216),
        model_roots=(model,),
        numeric_profile=PROFILE,
        profile={"dtype": "float32"},
        endpoint="127.0.0.1:1",
    )
    return sign(value, key=key(operator), issuer=operator)


def revocation(operator: str, entry: bytes) -> bytes:
    value = Revocation(bundle=entry, reason="key lost", at=NOW - 1)
    return sign(value, key=key(operator), issuer=operator)


def rate_card(operator: str, name: str = "list") -> bytes:
    price = Price(model_root=MODEL, input="1", cached="0.5", output="2", per=1000)
    value = RateCard(name=name, operator=operator, currency="EUR", valid_from=0, prices=(price,))
    return sign(value, key=key(operator), issuer=operator)


@dataclass
class Node:
    """Numbers and chains receipts of `<operator>/one`."""

    operator: str
    bundle: bytes
    card: bytes
    number: int = 0
    previous: bytes = NO_RECEIPT
    orders: dict[str, int] = field(default_factory=dict)

    def receipt(
        self,
        tenant: str,
        *,
        started: int = NOW - 1000,
        tokens: int = 7,
        max_ms: int | None = None,
        cancelled: bool = False,
        cost_centre: bytes | None = None,
    ) -> Submission:
        """`cancelled`: by its tenant, with its signature."""
        number = self.orders.get(tenant, 0)
        self.orders[tenant] = number + 1
        name = (self.operator, tenant, number)
        shared: dict[str, Any] = {
            "tenant": tenant,
            "number": number + 1000 * (self.operator == "beta"),
            "attempt": 0,
            "ctx": some("ctx", name),
            "kc": some("kc", name),
            "envelope": envelope_hash(ENVELOPE),
            "bundle": self.bundle,
            "rate_card": self.card,
        }
        order = sign(
            Order(
                **shared,
                created=NOW - 5000,
                expiry=NOW + HOUR,
                max_input_tokens=64,
                max_output_tokens=64,
                max_ms=max_ms,
                cost_centre=cost_centre,
            ),
            key=key(tenant),
            issuer=tenant,
        )
        nonce = some("nonce", name)
        context = StreamContext(shared["ctx"], shared["kc"], self.bundle, nonce, 0)
        value = Receipt(
            **shared,
            order=entry_of(order),
            node_nonce=nonce,
            h_final=stream_hash(context, FRAMES),
            model_root=MODEL,
            numeric_profile=PROFILE,
            usage=Usage(input=5, cached=0, output=tokens, energy_quality=EnergyQuality.UNMEASURED),
            finish=Finish.CANCELLED if cancelled else Finish.STOP,
            cancel=sign_cancellation(entry_of(order), key(tenant)) if cancelled else None,
            started=started,
            ended=started + 10,
            node_sequence=self.number,
            previous=self.previous,
        )
        issuer = f"{self.operator}/one"
        raw = sign(value, key=key(issuer), issuer=issuer)
        self.number, self.previous = self.number + 1, entry_of(raw)
        return Submission(raw, order)

    def refusal(self, tenant: str, **facts: Any) -> Submission:
        """Refuse the tenant's next order; the node's own numbers do not move."""
        number, previous = self.number, self.previous
        order = self.receipt(tenant).order
        self.number, self.previous = number, previous
        assert order is not None
        return refusal_of(order, operator=self.operator, **facts)


def refusal_of(
    order: bytes,
    *,
    reason: RefusalReason = RefusalReason.REQUEST,
    at: int = NOW - 1000,
    operator: str = "alpha",
    signer: str | None = None,
    **changes: Any,
) -> Submission:
    """Return a refusal of an order by `<operator>/one`, with that order."""
    value = refuse_order(read_as(Order, order), entry_of(order), reason, at)
    issuer = f"{operator}/one"
    raw = sign(replace(value, **changes), key=key(signer or issuer), issuer=issuer)
    return Submission(raw, order)


def delivered(
    submission: Submission,
    final: bytes = b"final",
    *,
    given: bytes = ENVELOPE,
    frames: tuple[bytes, ...] = FRAMES,
) -> Delivered:
    """Return what was sent for a receipt, with a final record that its node signs."""
    receipt, statement = open_as(Receipt, submission.statement, None)
    message = final_signature_message(receipt_context(receipt), receipt.h_final, final)
    signature = key(statement.issuer).sign(message)
    return Delivered(given, receipt.node_nonce, frames, final, signature)


def epoch_open() -> bytes:
    value = EpochOpen(epoch=0, at=NOW, first=0, commitments=(), rate_ppm=500_000, floor=1)
    return sign(value, key=key("authority"), issuer="authority")


def audit_request(receipt: bytes, tenant: str = "acme", *, at: int = NOW) -> bytes:
    value = AuditRequest(tenant=tenant, receipt=receipt, at=at)
    return sign(value, key=key(tenant), issuer=tenant)


def disclosure_request(
    receipt: bytes,
    draw: bytes | None = None,
    reason: DisclosureReason = DisclosureReason.DRAW,
) -> bytes:
    value = DisclosureRequest(
        receipt=receipt,
        index=0,
        draw=some("draw") if draw is None else draw,
        reason=reason,
        recipient=some("worker's key"),
        deadline=NOW + HOUR,
    )
    return sign(value, key=key("authority"), issuer="authority")


def verdict(
    receipt: bytes,
    *,
    reason: Reason = Reason.EXACT,
    evidence: bytes | None = None,
    worker: str = "worker",
    confirms: bytes | None = None,
    request: bytes | None = None,
) -> bytes:
    value = Verdict(
        receipt=receipt,
        request=some("request") if request is None else request,
        worker=worker,
        outcome=reason.outcome,
        reason=reason,
        evidence=some("evidence") if evidence is None else evidence,
        numeric_profile=PROFILE,
        at=NOW,
        confirms=confirms,
    )
    return sign(value, key=key(worker), issuer=worker)
