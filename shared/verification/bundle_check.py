"""Checking a bundle offline (`docs/bundle.md`): numbered steps, and whose word the result rests on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from shared.codec.cbor import Value
from shared.codec.moment import to_rfc3339
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cancellations import verify_cancellation
from shared.statements.cose import (
    SignedStatement,
    check_signing_key,
    detach,
    open_as,
    parse_statement,
    verify_signature,
)
from shared.statements.identities import TYPES
from shared.statements.keys import KeyBundle
from shared.statements.orders import Order, within_order
from shared.statements.receipts import Finish, Receipt
from shared.statements.refusals import Refusal, check_refused
from shared.translog.cose_receipt import parse_receipt, verify_receipt
from shared.translog.notes import Verifier
from shared.translog.policy import Group, LogPolicy
from shared.translog.policy_file import parse_policy_file
from shared.translog.tlog_proof import VerifiedInclusion, verify_tlog_proof
from shared.verification.bundle import Bundle, OrderContext
from shared.verification.identities import Logged
from shared.verification.receipt_claims import implausible, misplaced, unfounded_end
from shared.verification.steps import Step, Verification, as_text
from shared.verification.trust import SIGNED_BY, Role, Trust

SHARED_WITH_ORDER: Final = (
    *("ctx", "kc", "envelope", "bundle", "tenant", "number", "attempt", "rate_card"),
)
"""Fields on which a receipt and the order that it answers must agree."""
ENDS: Final = {
    Finish.STOP: ", which only an audit can check",
    Finish.LENGTH: ", which only an audit can check",
    Finish.CANCELLED: ": its tenant signed the cancellation",
    Finish.DEADLINE: ": the order's time was over",
    Finish.FAILED: ": the node's own failure, which is never paid",
}
"""What the receipt's word for its end means to somebody who holds the two statements only."""


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a verification."""

    steps: list[Step]
    rests_on: list[str]
    """Sentences that say whose word the result rests on."""
    facts: dict[str, Any] = field(default_factory=dict)
    """The verified content; empty unless every step holds."""

    @property
    def verified(self) -> bool:
        """Whether every step holds."""
        return bool(self.facts)

    def as_text(self) -> str:
        """Return steps, whose word they rest on, and the result for people."""
        *steps, result = as_text(self.steps).split("\n")
        return "\n".join([*steps, *(f"! {sentence}" for sentence in self.rests_on), result])


def verify_bundle(bundle: Bundle, trust: Trust) -> Report:
    """Check everything that a bundle claims, offline."""
    run = Verification()
    policy: LogPolicy = run.step(
        "the policy names a log and a quorum of witnesses",
        lambda: policy_in(bundle.policy, trust),
    )
    known: Trust = trust
    if bundle.identities:
        known = (
            run.step(
                "what it shows of identities' keys is in the witnessed log",
                lambda: followed(bundle, policy, trust),
            )
            or trust
        )
    statement: SignedStatement
    found: VerifiedInclusion
    if bundle.context is None:
        statement = run.step(
            "the statement is signed by its issuer", lambda: _signed(bundle, known)
        )
        found = run.step(
            "the statement is in the witnessed log",
            lambda: _place(bundle.tlog_proof, statement, statement.issuer, policy, known),
        )
    elif _is_refusal(bundle.statement):
        statement, found = _refusal_steps(run, bundle, bundle.context, policy, known)
    else:
        statement, found = _receipt_steps(run, bundle, bundle.context, policy, known)
    _, receipts = detach(bundle.statement) if run.holds else (b"", ())
    if receipts:
        run.step(
            "every COSE Receipt on it signs a tree that has it at that index",
            lambda: _cose_receipts(receipts, statement.entry, found, bundle, trust),
        )
    facts = _facts(statement, found, len(receipts)) if run.holds else {}
    return Report(run.steps, _rests_on(bundle, trust), facts)


def followed(bundle: Bundle, policy: LogPolicy, trust: Trust) -> tuple[Trust, str]:
    """Return a verifier's trust, continued by what a bundle shows of identities' keys, also in words; the errors of `included`,
    and MALFORMED for a statement about something else.
    """
    shown = []
    for raw, proof in bundle.identities:
        statement = parse_statement(raw)
        if statement.type not in TYPES:
            raise CounterfoilError(
                Code.MALFORMED, f"a {statement.type} says nothing of identities' keys"
            )
        shown.append(Logged(included(proof, statement.entry, policy)[0].index, raw))
    return trust.followed(shown), f"{len(shown)} statements"


def key_bundle_steps(
    run: Verification,
    raw: bytes,
    proof: str,
    policy: LogPolicy,
    trust: Trust,
    offered: Sequence[bytes] = (),
    *,
    of: str | None = None,
) -> tuple[KeyBundle, bytes]:
    """Run the two steps about a key bundle (of a node, to tell several apart); return it and its entry (None once a step has
    failed).
    """
    called = "the key bundle" if of is None else f"the key bundle of {of}"
    found: tuple[KeyBundle, bytes] = run.step(
        f"{called} is signed by its operator", lambda: key_bundle_of(raw, trust, offered)
    )
    run.step(
        f"{called} is in the witnessed log",
        lambda: _key_bundle_place(raw, proof, policy, trust),
    )
    return found


def _key_bundle_place(
    raw: bytes, proof: str, policy: LogPolicy, trust: Trust
) -> tuple[VerifiedInclusion, str]:
    claimed, statement = open_as(KeyBundle, raw, None)
    return _place(proof, statement, claimed.operator, policy, trust)


def _place(
    proof: str, statement: SignedStatement, name: str, policy: LogPolicy, trust: Trust
) -> tuple[VerifiedInclusion, str]:
    """Check that the log has a statement, at a place where its signer was one of the keys of this name."""
    found, told = included(proof, statement.entry, policy)
    if (role := SIGNED_BY.get(statement.type)) is not None:
        trust.check_place(role, name, statement.kid, found.index)
    return found, told


def included(proof: str, entry: bytes, policy: LogPolicy) -> tuple[VerifiedInclusion, str]:
    """Check a tlog-proof; return what it shows, also in words."""
    found = verify_tlog_proof(proof, entry, policy)
    times = ", ".join(
        f"{name} {to_rfc3339(1000 * seconds)}" for name, seconds in found.witnessed.times.items()
    )
    at = f"index {found.index} of {found.checkpoint.size} in {found.checkpoint.origin}"
    return found, f"{at}; witnessed by {times}"


def order_of(raw: bytes, receipt: Receipt) -> tuple[Order, SignedStatement]:
    """Parse the order that a receipt answers; COMMITMENT_MISMATCH if it is another one. Its signature is not checked."""
    order, statement = open_as(Order, raw, None)
    if statement.entry != receipt.order or any(
        getattr(order, name) != getattr(receipt, name) for name in SHARED_WITH_ORDER
    ):
        raise CounterfoilError(Code.COMMITMENT_MISMATCH, "the receipt answers another order")
    if (excess := within_order(order, receipt.usage)) is not None:
        raise CounterfoilError(Code.COMMITMENT_MISMATCH, excess)
    return order, statement


def in_words(member: Verifier | Group) -> str:
    """Describe a quorum for people; a witness with several keys, all of which must sign, is one name."""
    if isinstance(member, Verifier):
        return member.name
    names = {key.name for key in member.leaves()}
    if len(names) == 1 and member.threshold == len(member.members):
        return names.pop()
    return f"{member.threshold} of ({', '.join(in_words(inner) for inner in member.members)})"


def policy_in(text: str, trust: Trust, what: str = "bundle") -> tuple[LogPolicy, str]:
    """Return the verifier's own log policy, or else that of a bundle or another kind of file (C2SP tlog-policy), also in words."""
    policy = trust.log or parse_policy_file(text).policy()
    whose = f"the {what}'s own" if trust.log is None else "yours"
    logs = ", ".join(sorted({key.name for key in policy.logs}))
    return policy, f"{whose}: log {logs}; witnessed by {in_words(policy.quorum)}"


def _signed(bundle: Bundle, trust: Trust) -> tuple[SignedStatement, str]:
    statement = parse_statement(detach(bundle.statement)[0])
    if statement.type in {Receipt.TYPE, Refusal.TYPE}:
        raise CounterfoilError(
            Code.MALFORMED, f"the bundle of a {statement.type} lacks its order and key bundle"
        )
    role = SIGNED_BY.get(statement.type)
    if role is None:
        raise CounterfoilError(
            Code.UNSUPPORTED, f"this version does not know statements of type {statement.type!r}"
        )
    key, whose = trust.key(role, statement.kid, statement.issuer, bundle.keys)
    verify_signature(statement, key)
    return statement, f"{statement.type} {statement.entry.hex()} of {whose}"


def _receipt_steps(
    run: Verification, bundle: Bundle, context: OrderContext, policy: LogPolicy, trust: Trust
) -> tuple[SignedStatement, VerifiedInclusion]:
    keys = key_bundle_steps(
        run, context.key_bundle, context.key_bundle_proof, policy, trust, bundle.keys
    )
    receipt: SignedStatement = run.step(
        "the receipt is a valid statement of the bundle's signing key and names the bundle",
        lambda: receipt_of(bundle.statement, *keys),
    )
    answered: tuple[Order, bytes] = run.step(
        "the order that it answers is in the bundle and signed by its tenant",
        lambda: ordered(context.order, receipt.read(Receipt), keys[0], trust, bundle.keys),
    )
    found: VerifiedInclusion = run.step(
        "the receipt is in the witnessed log",
        lambda: included(bundle.tlog_proof, receipt.entry, policy),
    )
    # After the log: whoever shows a false receipt still sees that it was signed and logged.
    run.step(
        "the answer ended by a rule, by its tenant's signature, or at its order's deadline",
        lambda: _end(*answered, receipt.read(Receipt)),
    )
    run.step(
        "nothing that it claims about times, compute and energy is impossible",
        lambda: _claims(answered[0], receipt.read(Receipt)),
    )
    return receipt, found


def _is_refusal(raw: bytes) -> bool:
    """Whether a statement says that it is a refusal; whatever else it is, the steps of a receipt judge it."""
    try:
        return parse_statement(detach(raw)[0]).type == Refusal.TYPE
    except CounterfoilError:
        return False


def _refusal_steps(
    run: Verification, bundle: Bundle, context: OrderContext, policy: LogPolicy, trust: Trust
) -> tuple[SignedStatement, VerifiedInclusion]:
    keys = key_bundle_steps(
        run, context.key_bundle, context.key_bundle_proof, policy, trust, bundle.keys
    )
    refusal: SignedStatement = run.step(
        "the refusal is a valid statement of the bundle's signing key and names the bundle",
        lambda: _refusal_of(bundle.statement, *keys),
    )
    run.step(
        "the order that it refuses is in the bundle and signed by its tenant",
        lambda: _refused(context.order, refusal.read(Refusal), trust, bundle.keys),
    )
    found: VerifiedInclusion = run.step(
        "the refusal is in the witnessed log",
        lambda: included(bundle.tlog_proof, refusal.entry, policy),
    )
    return refusal, found


def _refusal_of(raw: bytes, keys: KeyBundle, entry: bytes) -> tuple[SignedStatement, str]:
    """Verify a refusal with the key bundle that it names (its entry). Whether that had expired makes no difference."""
    refusal, statement = open_as(Refusal, detach(raw)[0], keys.signing_key)
    if refusal.bundle != entry or statement.issuer != keys.issuer:
        raise CounterfoilError(Code.COMMITMENT_MISMATCH, "the refusal names another key bundle")
    if refusal.at < keys.not_before:
        raise CounterfoilError(
            Code.STALE_KEY, "the key bundle was not valid yet when the order was refused"
        )
    return statement, f"{statement.issuer} for {refusal.reason}: {statement.entry.hex()}"


def _refused(raw: bytes, refusal: Refusal, trust: Trust, offered: Sequence[bytes]) -> str:
    """Verify the order that a refusal is about; return whose it is."""
    order, statement = open_as(Order, raw, None)
    check_refused(refusal, order, statement.entry)
    key, whose = trust.key(Role.TENANT, statement.kid, order.tenant, offered, pinned=False)
    verify_signature(statement, key)
    trust.check_order(order.tenant, statement.kid, refusal.at)
    return f"{whose}, number {order.number}, which the refusal closes if no later attempt follows"


def key_bundle_of(
    raw: bytes, trust: Trust, offered: Sequence[bytes]
) -> tuple[tuple[KeyBundle, bytes], str]:
    """Verify a key bundle; return it and its entry, and whose key signed it."""
    claimed, statement = open_as(KeyBundle, raw, None)
    key, whose = trust.key(Role.OPERATOR, statement.kid, claimed.operator, offered)
    verify_signature(statement, key)
    return (claimed, statement.entry), whose


def receipt_of(raw: bytes, keys: KeyBundle, entry: bytes) -> tuple[SignedStatement, str]:
    """Verify a receipt with the key bundle that it names, given that one's entry; COMMITMENT_MISMATCH or STALE_KEY if they
    do not fit.
    """
    receipt, statement = open_as(Receipt, detach(raw)[0], keys.signing_key)
    if receipt.bundle != entry or statement.issuer != keys.issuer:
        raise CounterfoilError(Code.COMMITMENT_MISMATCH, "the receipt names another key bundle")
    if not keys.is_live(receipt.started):
        raise CounterfoilError(Code.STALE_KEY, "the key bundle was not valid when the work began")
    if (
        receipt.model_root not in keys.model_roots
        or receipt.numeric_profile != keys.numeric_profile
    ):
        raise CounterfoilError(
            Code.COMMITMENT_MISMATCH, "the key bundle is for another model or numeric profile"
        )
    return statement, f"{statement.issuer}, number {receipt.node_sequence}: {statement.entry.hex()}"


def ordered(
    raw: bytes, receipt: Receipt, keys: KeyBundle, trust: Trust, offered: Sequence[bytes]
) -> tuple[tuple[Order, bytes], str]:
    """Verify the order that a receipt under a key bundle answers; return it and its tenant's key, and whose that is."""
    order, statement = order_of(raw, receipt)
    if (fault := misplaced(order, receipt, keys)) is not None:
        raise CounterfoilError(Code.COMMITMENT_MISMATCH, fault)
    key, whose = trust.key(Role.TENANT, statement.kid, order.tenant, offered, pinned=False)
    verify_signature(statement, key)
    trust.check_order(order.tenant, statement.kid, receipt.started)
    return (order, key), f"{whose}, number {order.number}"


def _end(order: Order, tenant_key: bytes, receipt: Receipt) -> str:
    """Check what protocol §4.7 says of receipt and order; the log's own check of `cancel` is not relied on."""
    if receipt.cancel is not None:
        verify_cancellation(receipt.order, receipt.cancel, tenant_key)
    if (unfounded := unfounded_end(order, receipt)) is not None:
        raise CounterfoilError(Code.COMMITMENT_MISMATCH, f"the end is unfounded: {unfounded}")
    return f"it says {receipt.finish.value}" + ENDS[receipt.finish]


def _claims(order: Order, receipt: Receipt) -> None:
    """Check what protocol §4.8 says of receipt and order."""
    if (impossible := implausible(order, receipt)) is not None:
        raise CounterfoilError(Code.COMMITMENT_MISMATCH, f"a claim cannot be true: {impossible}")


def _cose_receipts(
    receipts: Sequence[bytes], entry: bytes, found: VerifiedInclusion, bundle: Bundle, trust: Trust
) -> str:
    words = set()
    for raw in receipts:
        kid = parse_receipt(raw).kid
        key, whose = trust.key(Role.LOG, kid, found.checkpoint.origin, bundle.keys, pinned=False)
        check_signing_key(key)
        if verify_receipt(raw, entry, key).index != found.index:
            raise CounterfoilError(Code.BAD_PROOF, "a COSE Receipt gives the entry another index")
        words.add(whose)
    return f"{len(receipts)} of {'; '.join(sorted(words))}"


def whose_word(trust: Trust, what: str = "bundle") -> list[str]:
    """Say on whose word log, witnesses and signers are who their names say, for a bundle or another kind of file."""
    policy = (
        f"Log and witnesses are those of the policy in the {what}: only its maker says that they exist and are"
        " independent. Give your own policy with --policy FILE."
        if trust.log is None
        else "Log and witnesses are those of your own policy."
    )
    signers = (
        f"Only the {what}'s maker says which key belongs to which name. Pin your own with"
        " --signer NAME=KEY."
        if not trust.pins
        else "Signers are identified by keys that you trust, except where a step says otherwise."
    )
    return [policy, signers]


def _rests_on(bundle: Bundle, trust: Trust) -> list[str]:
    unchecked = ["The timestamp tokens in it were not checked."] if bundle.timestamps else []
    return [*whose_word(trust), *unchecked]


def _facts(statement: SignedStatement, found: VerifiedInclusion, receipts: int) -> dict[str, Any]:
    return {
        "type": statement.type,
        "entry": statement.entry,
        "issuer": statement.issuer,
        "subject": statement.subject,
        "signer": statement.kid,
        "origin": found.checkpoint.origin,
        "index": found.index,
        "size": found.checkpoint.size,
        "root": found.checkpoint.root,
        "witnesses": found.witnessed.times,
        "cose_receipts": receipts,
        "payload": _shown(dict(statement.payload)),
    }


def _shown(value: Value) -> Any:
    """Return a payload's value with bytes in hexadecimal, including in keys."""
    match value:
        case bytes():
            return value.hex()
        case list():
            return [_shown(item) for item in value]
        case dict():
            return {
                key.hex() if isinstance(key, bytes) else str(key): _shown(item)
                for key, item in value.items()
            }
        case _:
            return value
