"""What each type of statement needs to be admitted to the log. Pure, given the lookups."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from shared.codec.hashing import labelled_hash
from shared.runtime.clocks import untimely
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import key_id
from shared.statements.beacons import BeaconCommitment, BeaconReveal
from shared.statements.cancellations import verify_cancellation
from shared.statements.cose import (
    Payload,
    SignedStatement,
    parse_statement,
    verify_signature,
)
from shared.statements.disclosures import (
    AuditRequest,
    DisclosureRelease,
    DisclosureRequest,
    EscrowReport,
    ShareReport,
)
from shared.statements.epochs import Draw, EpochOpen, EpochSeal
from shared.statements.erasures import Erasure
from shared.statements.identities import Holder, IdentityKey, IdentityKeyEnd
from shared.statements.keys import KeyBundle, Revocation
from shared.statements.orders import Order, within_order
from shared.statements.periods import PeriodSeal
from shared.statements.ratecards import RateCard
from shared.statements.receipts import Receipt
from shared.statements.refusals import Refusal, check_refused, refusal_domain
from shared.statements.seals import TenantSeal, seal_domain
from shared.statements.verdicts import Blame, Verdict
from shared.verification.identities import END_SKEW_MS, GRACE_MS, KeyHistory, KeyLife, next_lives
from shared.verification.receipt_claims import misplaced

CLOCK_SKEW_MS = 5 * 60_000
"""How far an issuer's clock may be ahead of ours."""


class Lookups(Protocol):
    """What admission asks the trail."""

    def party_key(self, role: str, kid: bytes) -> tuple[str, bytes] | None:
        """Return (name, public key) of an enabled party with this key id."""

    def identity(self, role: str, name: str) -> tuple[KeyLife, ...]:
        """Return the keys of a name in a role that the log still believes, or that `identity-key-end` statements have ended."""

    def ended_key(self, role: str, kid: bytes) -> tuple[str, KeyLife] | None:
        """Return (name, life) of a key that an `identity-key-end` in the log has ended."""

    def bundle(self, entry: bytes) -> KeyBundle | None:
        """Return a key bundle that is in the log."""

    def revoked_at(self, bundle: bytes) -> int | None:
        """Return when a bundle was revoked."""

    def receipt(self, entry: bytes) -> Receipt | None:
        """Return a receipt that is in the log."""

    def release(self, entry: bytes) -> DisclosureRelease | None:
        """Return a disclosure release that is in the log."""

    def tenant_chose(self, verdict: Verdict) -> bool:
        """Return whether the receipt's tenant chose it for this audit, and no draw did."""

    def numeric_profiles(self) -> frozenset[bytes]:
        """Return the numeric profiles that this log's auditors can compute (protocol §7.2)."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A statement that may enter the log, with its idempotency key and what the index needs of it."""

    statement: SignedStatement
    value: Payload
    issuer: bytes
    """Number domain, 32 bytes."""
    number: int | None
    order: SignedStatement | None = None
    order_value: Order | None = None
    bundle: KeyBundle | None = None
    concerns: Receipt | None = None
    """The receipt that a verdict is about."""
    concerns_bundle: KeyBundle | None = None
    asked: bool = False
    """Whether the tenant of a verdict's receipt chose it for this audit."""


def admit(raw: bytes, order: bytes | None, lookups: Lookups, now: int) -> Admitted:
    """Check one statement; raise an error for what is wrong with it."""
    statement = parse_statement(raw)
    if statement.type == Receipt.TYPE:
        return _admit_receipt(statement, order, lookups, now)
    if statement.type == Refusal.TYPE:
        return _admit_refusal(statement, order, lookups, now)
    if order:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT, "only a receipt or a refusal comes with an order"
        )
    kind = KINDS.get(statement.type)
    if kind is None:
        raise CounterfoilError(
            Code.UNSUPPORTED, f"statements of type {statement.type!r} are not admitted"
        )
    cls, role, check = kind
    name, _ = _verified(statement, role or statement.subject.partition("/")[0], lookups)
    value = statement.read(cls, new=True)
    _check_issuer(statement, name)
    admitted = Admitted(statement, value, issuer=statement.kid, number=None)
    return check(admitted, name, lookups, now)


def receipt_domain(operator: str, node: str) -> bytes:
    """Return the number domain of a node's receipts; it spans key bundles."""
    return labelled_hash("receipt-domain", operator.encode(), node.encode())


def _verified(statement: SignedStatement, role: str, lookups: Lookups) -> tuple[str, bytes]:
    """Verify a statement with the registered key of its signer; return the signer's name and key."""
    found = lookups.party_key(role, statement.kid)
    if found is None:
        raise CounterfoilError(
            Code.UNTRUSTED_KEY,
            f"the signer of this {statement.type} is not registered as {role}",
            remedy=f"Register it: counterfoil audit party add NAME --role {role} --key HEX",
        )
    name, public_key = found
    verify_signature(statement, public_key)
    return name, public_key


def _orderer(order: SignedStatement, started: int, lookups: Lookups, now: int) -> tuple[str, bytes]:
    """Verify an order with its tenant's key; one that has ended since counts for what had begun before (protocol §2.3)."""
    ended = lookups.ended_key("tenant", order.kid)
    if ended is None:
        return _verified(order, "tenant", lookups)
    name, life = ended
    at = life.ended_at or 0
    if started >= at + END_SKEW_MS or now > at + GRACE_MS:
        raise CounterfoilError(
            Code.UNTRUSTED_KEY, f"the order's key was ended by its tenant: {life.reason}"
        )
    verify_signature(order, life.key)
    return name, life.key


def _check_issuer(statement: SignedStatement, name: str) -> None:
    """The issuer is the name under which the signer is known: nobody signs in another's name."""
    if statement.issuer != name:
        raise CounterfoilError(
            Code.UNTRUSTED_KEY,
            f"the {statement.type} names {statement.issuer[:80]!r} as its issuer, but its signer is {name!r}",
        )


def _admit_receipt(
    statement: SignedStatement, order_raw: bytes | None, lookups: Lookups, now: int
) -> Admitted:
    receipt = statement.read(Receipt, new=True)
    bundle = lookups.bundle(receipt.bundle)
    if bundle is None:
        raise CounterfoilError(Code.STALE_KEY, "the receipt's key bundle is not in the log")
    verify_signature(statement, bundle.signing_key)
    _check_issuer(statement, bundle.issuer)
    _check_bundle_use(receipt, bundle, lookups.revoked_at(receipt.bundle), now)
    order, order_statement, tenant_key = _order_of(
        statement, receipt.order, receipt.started, order_raw, lookups, now
    )
    for name in ("tenant", "number", "attempt", "ctx", "kc", "envelope", "bundle", "rate_card"):
        if getattr(receipt, name) != getattr(order, name):
            raise CounterfoilError(Code.NO_ORDER, f"receipt and order disagree on {name}")
    if (excess := within_order(order, receipt.usage)) is not None:
        raise CounterfoilError(Code.INVALID_ARGUMENT, excess)
    if (fault := misplaced(order, receipt, bundle)) is not None:
        raise CounterfoilError(Code.NO_ORDER, fault)
    if receipt.cancel is not None:
        verify_cancellation(order_statement.entry, receipt.cancel, tenant_key)
    return Admitted(
        statement,
        receipt,
        issuer=receipt_domain(bundle.operator, bundle.node),
        number=receipt.node_sequence,
        order=order_statement,
        order_value=order,
        bundle=bundle,
    )


def _admit_refusal(
    statement: SignedStatement, order_raw: bytes | None, lookups: Lookups, now: int
) -> Admitted:
    """Admit a refusal with its order. Whether the key bundle had expired makes no difference: that may be the reason."""
    refusal = statement.read(Refusal, new=True)
    bundle = lookups.bundle(refusal.bundle)
    if bundle is None:
        raise CounterfoilError(Code.STALE_KEY, "the refusal's key bundle is not in the log")
    verify_signature(statement, bundle.signing_key)
    _check_issuer(statement, bundle.issuer)
    order, order_statement, _ = _order_of(
        statement, refusal.order, refusal.at, order_raw, lookups, now
    )
    check_refused(refusal, order, order_statement.entry)
    revoked_at = lookups.revoked_at(refusal.bundle)
    if refusal.at < bundle.not_before or (revoked_at is not None and refusal.at >= revoked_at):
        raise CounterfoilError(
            Code.STALE_KEY,
            "the key bundle was not valid yet, or revoked, when the order was refused",
        )
    if refusal.at > now + CLOCK_SKEW_MS:
        raise untimely(
            Code.INVALID_ARGUMENT,
            "the order was refused in the future, at",
            refusal.at,
            now,
            remedy="Set the node's clock, or the audit server's.",
        )
    return Admitted(
        statement,
        refusal,
        issuer=refusal_domain(refusal.order),
        number=0,
        order=order_statement,
        order_value=order,
        bundle=bundle,
    )


def _order_of(
    statement: SignedStatement,
    entry: bytes,
    at: int,
    order_raw: bytes | None,
    lookups: Lookups,
    now: int,
) -> tuple[Order, SignedStatement, bytes]:
    """Verify the order that a statement answers, given its entry and when (ms) that began; return it with its tenant's key."""
    if not order_raw:
        raise CounterfoilError(Code.NO_ORDER, f"the {statement.type} comes without its order")
    order_statement = parse_statement(order_raw, expected=Order.TYPE)
    if order_statement.entry != entry:
        raise CounterfoilError(Code.NO_ORDER, f"the order submitted is not the {statement.type}'s")
    tenant, tenant_key = _orderer(order_statement, at, lookups, now)
    order = order_statement.read(Order, new=True)
    if tenant != order.tenant:
        raise CounterfoilError(Code.NO_ORDER, "the order's tenant has a different key")
    _check_issuer(order_statement, tenant)
    return order, order_statement, tenant_key


def _check_bundle_use(
    receipt: Receipt, bundle: KeyBundle, revoked_at: int | None, now: int
) -> None:
    if not bundle.not_before <= receipt.started < bundle.not_after:
        raise CounterfoilError(Code.STALE_KEY, "the key bundle was not valid when the work began")
    if revoked_at is not None and receipt.started >= revoked_at:
        raise CounterfoilError(Code.STALE_KEY, "the key bundle was revoked before the work began")
    if receipt.model_root not in bundle.model_roots:
        raise CounterfoilError(
            Code.UNKNOWN_MODEL, "the key bundle does not name the receipt's model"
        )
    if receipt.numeric_profile != bundle.numeric_profile:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT, "receipt and key bundle have different numeric profiles"
        )
    if receipt.ended > now + CLOCK_SKEW_MS:
        raise untimely(
            Code.INVALID_ARGUMENT,
            "the receipt ended in the future, at",
            receipt.ended,
            now,
            remedy="Set the node's clock, or the audit server's.",
        )


Check = Callable[[Admitted, str, Lookups, int], Admitted]


def _no_more(admitted: Admitted, _name: str, _lookups: Lookups, _now: int) -> Admitted:
    return admitted


def _same_name(field: str) -> Check:
    """Require that a field of the payload is the signer's registered name."""

    def check(admitted: Admitted, name: str, _lookups: Lookups, _now: int) -> Admitted:
        if getattr(admitted.value, field) != name:
            raise CounterfoilError(
                Code.UNTRUSTED_KEY,
                f"the {admitted.statement.type} names {getattr(admitted.value, field)!r}, but its signer is {name!r}",
            )
        return admitted

    return check


def _revocation(admitted: Admitted, name: str, lookups: Lookups, _now: int) -> Admitted:
    value = admitted.value
    assert isinstance(value, Revocation)
    bundle = lookups.bundle(value.bundle)
    if bundle is None or bundle.operator != name:
        raise CounterfoilError(Code.NOT_FOUND, "the operator has no such key bundle in the log")
    return admitted


def _verdict(admitted: Admitted, name: str, lookups: Lookups, now: int) -> Admitted:
    value = admitted.value
    assert isinstance(value, Verdict)
    _same_name("worker")(admitted, name, lookups, now)
    receipt = lookups.receipt(value.receipt)
    bundle = None if receipt is None else lookups.bundle(receipt.bundle)
    if receipt is None or bundle is None:
        raise CounterfoilError(
            Code.NOT_FOUND, "the verdict is about a receipt that is not in the log"
        )
    if value.reason.blame is Blame.CHAIN and receipt.chain is None:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT, "the verdict blames a chain, and the receipt is of none"
        )
    return Admitted(
        admitted.statement,
        value,
        issuer=admitted.issuer,
        number=None,
        concerns=receipt,
        concerns_bundle=bundle,
        asked=lookups.tenant_chose(value),
    )


def _share_report(admitted: Admitted, name: str, lookups: Lookups, now: int) -> Admitted:
    """Admit a worker's report only about a release that its custodian signed: the log holds what it is about."""
    value = admitted.value
    assert isinstance(value, ShareReport)
    _same_name("worker")(admitted, name, lookups, now)
    release = lookups.release(value.release)
    if release is None:
        raise CounterfoilError(
            Code.NOT_FOUND, "the share report is about a release that is not in the log"
        )
    for field in ("request", "receipt", "custodian"):
        if getattr(release, field) != getattr(value, field):
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, f"share report and release disagree on {field}"
            )
    return admitted


def _audit_request(admitted: Admitted, name: str, lookups: Lookups, now: int) -> Admitted:
    value = admitted.value
    assert isinstance(value, AuditRequest)
    _same_name("tenant")(admitted, name, lookups, now)
    receipt = lookups.receipt(value.receipt)
    if receipt is None or receipt.tenant != name:
        raise CounterfoilError(
            Code.NOT_FOUND,
            "the tenant has no such receipt in the log",
            remedy="Hand the receipt in first, with its order.",
        )
    return admitted


def _bundle(admitted: Admitted, name: str, lookups: Lookups, now: int) -> Admitted:
    """Admit only what an auditor of this log can recompute: any other profile would never be judged."""
    value = admitted.value
    assert isinstance(value, KeyBundle)
    _same_name("operator")(admitted, name, lookups, now)
    profiles = lookups.numeric_profiles()
    if value.numeric_profile not in profiles:
        raise CounterfoilError(
            Code.UNSUPPORTED,
            f"no auditor of this log computes the numeric profile {value.numeric_profile.hex()}"
            f" of {value.issuer}",
            remedy="Serve under one of its profiles: "
            + (", ".join(sorted(profile.hex() for profile in profiles)) or "it has none yet")
            + ". An operator of the log adds one to numeric_profiles in audit.toml.",
        )
    return admitted


def _seal(admitted: Admitted, _name: str, _lookups: Lookups, _now: int) -> Admitted:
    """Number each tenant's seals in a domain of their own, so that the log never has two with one number."""
    value = admitted.value
    assert isinstance(value, TenantSeal)
    return replace(admitted, issuer=seal_domain(value.tenant), number=value.number)


def _identity(admitted: Admitted, name: str, lookups: Lookups, now: int) -> Admitted:
    """Continue an identity's keys as every verifier will; its times must be the log's, since grace is counted from them."""
    value = admitted.value
    assert isinstance(value, IdentityKey | IdentityKeyEnd)
    _same_name("name")(admitted, name, lookups, now)
    moment = value.not_before if isinstance(value, IdentityKey) else value.at
    if abs(moment - now) > END_SKEW_MS:
        raise untimely(
            Code.INVALID_ARGUMENT,
            f"the {admitted.statement.type} says that it was made at",
            moment,
            now,
            remedy="Make it anew, and check the clock of the machine that signs it.",
        )
    history = KeyHistory(Holder(value.role), name, lookups.identity(value.role, name))
    next_lives(history, admitted.statement)
    if isinstance(value, IdentityKey):
        taken = lookups.party_key(value.role, key_id(value.key))
        if taken is not None:
            raise CounterfoilError(Code.CONFLICT, f"this key is a {value.role}'s already")
    return admitted


def _party(admitted: Admitted, name: str, lookups: Lookups, now: int) -> Admitted:
    return _same_name("party")(admitted, name, lookups, now)


KINDS: Mapping[str, tuple[type[Payload], str | None, Check]] = {
    KeyBundle.TYPE: (KeyBundle, "operator", _bundle),
    Revocation.TYPE: (Revocation, "operator", _revocation),
    RateCard.TYPE: (RateCard, "operator", _same_name("operator")),
    IdentityKey.TYPE: (IdentityKey, None, _identity),
    IdentityKeyEnd.TYPE: (IdentityKeyEnd, None, _identity),
    EpochOpen.TYPE: (EpochOpen, "authority", _no_more),
    EpochSeal.TYPE: (EpochSeal, "authority", _no_more),
    Draw.TYPE: (Draw, "authority", _no_more),
    TenantSeal.TYPE: (TenantSeal, "authority", _seal),
    Erasure.TYPE: (Erasure, "authority", _no_more),
    PeriodSeal.TYPE: (PeriodSeal, "authority", _no_more),
    AuditRequest.TYPE: (AuditRequest, "tenant", _audit_request),
    DisclosureRequest.TYPE: (DisclosureRequest, "authority", _no_more),
    BeaconCommitment.TYPE: (BeaconCommitment, "beacon", _party),
    BeaconReveal.TYPE: (BeaconReveal, "beacon", _party),
    DisclosureRelease.TYPE: (DisclosureRelease, "custodian", _same_name("custodian")),
    EscrowReport.TYPE: (EscrowReport, "custodian", _same_name("custodian")),
    ShareReport.TYPE: (ShareReport, "worker", _share_report),
    Verdict.TYPE: (Verdict, "worker", _verdict),
}
"""Type → (class, role that must have signed it, what is checked beyond the signature). Without a role: the subject names it."""

ROLES = frozenset({"operator", "tenant", "authority", "worker", "custodian", "witness"})
BEACON_ROLES = ("custodian", "witness")
"""A beacon statement may come from either."""
