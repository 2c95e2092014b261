"""What a custodian verifies before it releases a share: steps (1) to (6) of protocol §6.2, numbered as there.

Pure: everything is in the case that it receives and in the trust that it was configured with. Steps (7)
and (8) need the custodian's HPKE key: `shared.envelope.sealing.open_escrow`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from shared.envelope.body import Audit
from shared.envelope.header import Envelope, envelope_hash
from shared.runtime.errors import Code, CounterfoilError
from shared.selection import beacon
from shared.selection.draw import drawn_by_rate, floor_of, node_hash, selection_seed
from shared.selection.epoch import Epoch, open_epoch, open_witnessed, raised_floors, require
from shared.selection.party import Revealed
from shared.statements.beacons import BeaconCommitment, BeaconReveal
from shared.statements.cose import (
    Payload,
    SignedStatement,
    open_as,
    parse_statement,
    verify_signature,
)
from shared.statements.disclosures import AuditRequest, DisclosureReason, DisclosureRequest
from shared.statements.epochs import Draw
from shared.statements.keys import KeyBundle
from shared.statements.orders import Order
from shared.statements.receipts import Receipt
from shared.statements.verdicts import Blame, Verdict
from shared.translog.tlog_proof import verify_tlog_proof
from shared.verification.limits import InsistenceError, Recipient, Rule, Terms
from shared.verification.release_case import OF_A_DRAW, ReleaseCase
from shared.verification.trust import Role, Trust, key_for

P = TypeVar("P", bound=Payload)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Permitted:
    """A release that all of steps (1) to (6) permit."""

    request: DisclosureRequest
    request_entry: bytes
    receipt: Receipt
    recipient: Recipient
    epoch: int | None
    """None if the tenant asked."""
    drawn_by: DisclosureReason
    """Why the receipt is disclosed, even for a confirmation: the rule that draws it (DRAW, FLOOR or WHOLE), or TENANT."""
    without_own: bool
    """Whether the draw was made without the custodian's reveal, which it has not given."""
    only_always: bool = False
    """Whether the sealed policy alone can show that the tenant wants the audit."""

    def check_policy(self, policy: Audit) -> None:
        """(8) Refuse with FORBIDDEN what the tenant's sealed policy does not permit."""
        if policy is Audit.NEVER:
            raise CounterfoilError(
                Code.FORBIDDEN, "the tenant's policy permits no audit of this request"
            )
        if self.only_always and policy is not Audit.ALWAYS:
            raise CounterfoilError(
                Code.FORBIDDEN,
                "no tenant's key is pinned, and the sealed policy is not 'always': nothing shows that the tenant asked",
                remedy="pin the tenant's key in custodian.toml (tenants)",
            )


def check_release(
    case: ReleaseCase, trust: Trust, terms: Terms, *, revealed: Revealed | None = None
) -> Permitted:
    """Check a case under the custodian's terms; `revealed` is this custodian's own reveal for the epoch, if any.

    Errors: MALFORMED, BAD_SIGNATURE, UNTRUSTED_KEY, NOT_WITNESSED and BAD_PROOF for statements and proofs
    that do not hold; COMMITMENT_MISMATCH for openings; `InsistenceError` for what the custodian's own rules
    refuse (protocol §6.2.1).
    """
    request, index, request_entry, recipient = _check_request(case, trust, terms)  # (1)
    receipt, receipt_entry = _check_receipt(case, trust, request)  # (2)
    if case.audit is not None:
        _check_asked(case, trust, request, index, receipt)  # (5)
        if request.reason is DisclosureReason.CONFIRM:
            _check_verdict(case, trust, recipient, receipt_entry)
        _check_agreement(case, trust, receipt)  # (6)
        unknown = Role.TENANT not in trust.pins
        tenant = DisclosureReason.TENANT
        return Permitted(request, request_entry, receipt, recipient, None, tenant, False, unknown)
    epoch = _check_epoch(case, trust, terms, request, revealed)  # (3)
    reveals = _check_reveals(case, trust, terms, epoch)  # (4)
    draw = _check_draw(case, trust, request, epoch, reveals)  # (5)
    without_own = terms.own not in reveals
    if revealed is not None and without_own:
        raise InsistenceError(
            Rule.OWN_REVEAL, f"the draw of epoch {draw.epoch} lacks the reveal of this custodian"
        )
    drawn_by = _check_drawn(case, trust, request, recipient, receipt_entry, receipt, epoch, draw)
    _check_agreement(case, trust, receipt)  # (6)
    return Permitted(request, request_entry, receipt, recipient, draw.epoch, drawn_by, without_own)


def _check_request(
    case: ReleaseCase, trust: Trust, terms: Terms
) -> tuple[DisclosureRequest, int, bytes, Recipient]:
    """(1) The request is signed by the authority, witnessed, and for a recipient that the configuration pins."""
    request, statement, index = _witnessed(
        DisclosureRequest, case.request, case.request_proof, trust, _authority(case.request, trust)
    )
    for recipient in terms.recipients:
        if recipient.key_id == request.recipient:
            return request, index, statement.entry, recipient
    raise CounterfoilError(Code.UNTRUSTED_KEY, "the recipient is not a worker in the configuration")


def _check_receipt(
    case: ReleaseCase, trust: Trust, request: DisclosureRequest
) -> tuple[Receipt, bytes]:
    """(2) The receipt is witnessed at the request's index and signed with the key of the key bundle that it names."""
    receipt, statement, index = _witnessed(Receipt, case.receipt, case.receipt_proof, trust, None)
    require(request.receipt == statement.entry, "the request is about another receipt")
    require(request.index == index, "the receipt is not at the index that the request gives")
    bundle, bundle_statement = open_as(KeyBundle, case.bundle, None)
    require(receipt.bundle == bundle_statement.entry, "the receipt names another key bundle")
    _check_pinned(bundle_statement, bundle.operator, trust, Role.OPERATOR)
    _check_bundle_place(case, bundle_statement, bundle.operator, trust)
    verify_signature(statement, bundle.signing_key)
    return receipt, statement.entry


def _check_epoch(
    case: ReleaseCase,
    trust: Trust,
    terms: Terms,
    request: DisclosureRequest,
    revealed: Revealed | None,
) -> Epoch:
    """(3) Seal and open statement are signed by the authority, witnessed, belong together and cover the receipt."""
    epoch = open_epoch(
        _shown(case.open),
        _shown(case.open_proof),
        _shown(case.seal),
        _shown(case.seal_proof),
        log=trust.required_log(),
        origin=trust.origin,
        authority=_authority(_shown(case.open), trust),
    )
    require(
        epoch.seal.first <= request.index < epoch.seal.size, "the epoch does not cover the receipt"
    )
    if revealed is not None and (revealed.epoch, revealed.seal) != (
        epoch.seal.epoch,
        epoch.seal_entry,
    ):
        raise InsistenceError(Rule.SECOND_SEAL, "this custodian revealed under another seal")
    terms.limits.check_epoch(epoch)
    return epoch


def _check_reveals(case: ReleaseCase, trust: Trust, terms: Terms, epoch: Epoch) -> dict[str, bytes]:
    """(4) The reveals open the commitments that the open statement names; return them by party, in order."""
    expected: dict[str, BeaconCommitment] = {}
    entries = []
    for raw in _shown(case.commitments):
        value, statement = open_as(BeaconCommitment, raw, None)
        _check_party(statement, value.party, trust)
        require(value.party not in expected, "a party has two commitments")
        _same_place(value, trust, epoch)
        expected[value.party] = value
        entries.append(statement.entry)
    require(
        tuple(entries) == epoch.opened.commitments, "the open statement names other commitments"
    )
    if terms.own not in expected:
        raise InsistenceError(
            Rule.OWN_COMMITMENT,
            f"epoch {epoch.opened.epoch} was opened without this custodian's commitment",
        )
    order = list(expected)
    places, values = [], {}
    for raw in _shown(case.reveals):
        reveal, statement = open_as(BeaconReveal, raw, None)
        _check_party(statement, reveal.party, trust)
        require(reveal.party in expected, "a reveal has no commitment")
        _same_place(reveal, trust, epoch)
        require(reveal.seal == epoch.seal_entry, "a reveal was made under another seal")
        opening = beacon.commitment(reveal.party, reveal.origin, reveal.epoch, reveal.reveal)
        if opening != expected[reveal.party].commitment:
            raise CounterfoilError(
                Code.COMMITMENT_MISMATCH, "a reveal does not open its commitment"
            )
        places.append(order.index(reveal.party))
        values[reveal.party] = reveal.reveal
    require(all(a < b for a, b in pairwise(places)), "reveals are out of order")
    return values


def _same_place(value: BeaconCommitment | BeaconReveal, trust: Trust, epoch: Epoch) -> None:
    require(
        (value.origin, value.epoch) == (trust.origin, epoch.opened.epoch),
        "a commitment or reveal is for another log or epoch",
    )


def _check_draw(
    case: ReleaseCase,
    trust: Trust,
    request: DisclosureRequest,
    epoch: Epoch,
    reveals: Mapping[str, bytes],
) -> Draw:
    """(5) The draw is signed by the authority, witnessed, and follows from the seal and the reveals."""
    raw_draw = _shown(case.draw)
    draw, statement, index = _witnessed(
        Draw, raw_draw, _shown(case.draw_proof), trust, _authority(raw_draw, trust)
    )
    require(request.draw == statement.entry, "the request names another draw")
    require(
        (draw.epoch, draw.seal) == (epoch.seal.epoch, epoch.seal_entry)
        and index > epoch.seal_index,
        "the draw is not of this seal",
    )
    shown = tuple(open_as(BeaconReveal, raw, None)[1].entry for raw in _shown(case.reveals))
    require(draw.reveals == shown, "the draw names other reveals")
    complete = len(reveals) == len(_shown(case.commitments))
    require(draw.whole is not complete, "the draw must be whole exactly when a reveal is missing")
    seal = epoch.seal
    seed = selection_seed(
        trust.origin, seal.size, seal.root, beacon.combine(list(reveals.values()))
    )
    require(draw.seed == seed, "the draw's seed is not that of the reveals")
    require(request.index in draw.drawn, "the draw does not list the receipt")
    return draw


def _check_drawn(
    case: ReleaseCase,
    trust: Trust,
    request: DisclosureRequest,
    recipient: Recipient,
    receipt_entry: bytes,
    receipt: Receipt,
    epoch: Epoch,
    draw: Draw,
) -> DisclosureReason:
    """(5) The receipt is in the sample, by the rule that the request names; return the rule that draws it."""
    by_rate = drawn_by_rate(draw.seed, receipt_entry, epoch.opened.rate_ppm)
    drawn_by = (
        DisclosureReason.WHOLE
        if draw.whole
        else DisclosureReason.DRAW
        if by_rate
        else DisclosureReason.FLOOR
    )
    match request.reason:
        case DisclosureReason.DRAW:
            require(drawn_by is DisclosureReason.DRAW, "the rate does not draw the receipt")
        case DisclosureReason.WHOLE:
            require(draw.whole, "the epoch is not audited whole")
        case DisclosureReason.FLOOR:
            require(not draw.whole, "an epoch that is audited whole has no floor")
            drawn_by = DisclosureReason.FLOOR
        case DisclosureReason.TENANT:
            require(False, "a draw is no reason to release in the tenant's name")
        case DisclosureReason.CONFIRM:
            _check_verdict(case, trust, recipient, receipt_entry)
    if drawn_by is DisclosureReason.FLOOR:
        _check_floor(case, receipt, receipt_entry, epoch, draw)
    return drawn_by


def _check_asked(
    case: ReleaseCase,
    trust: Trust,
    request: DisclosureRequest,
    request_index: int,
    receipt: Receipt,
) -> None:
    """(5) Its tenant asked before the request. Without pinned tenants, audit request and order only name one key."""
    require(
        all(getattr(case, name) is None for name in OF_A_DRAW),
        "a case shows either a draw or an audit request",
    )
    require(
        request.reason in (DisclosureReason.TENANT, DisclosureReason.CONFIRM),
        "an audit request is no reason to release in the name of a draw",
    )
    raw = _shown(case.audit)
    signed, key = parse_statement(raw, expected=AuditRequest.TYPE), None
    if Role.TENANT not in trust.pins:
        ordered = parse_statement(case.order, expected=Order.TYPE)
        require(signed.kid == ordered.kid, "another key than the order's asks for the audit")
    elif keys := trust.named(Role.TENANT, receipt.tenant):
        key = key_for(signed, keys)
    else:
        raise CounterfoilError(
            Code.UNTRUSTED_KEY, f"{receipt.tenant} asks for an audit, and has no key that is pinned"
        )
    asked, _, index = _witnessed(AuditRequest, raw, _shown(case.audit_proof), trust, key)
    trust.check_place(Role.TENANT, receipt.tenant, signed.kid, index)
    require(request.draw == signed.entry, "the request names another audit request")
    require(
        (asked.receipt, asked.tenant) == (request.receipt, receipt.tenant),
        "the audit request is about another receipt or by another tenant",
    )
    require(index < request_index, "the audit request came after the disclosure request")


def _check_floor(
    case: ReleaseCase, receipt: Receipt, receipt_entry: bytes, epoch: Epoch, draw: Draw
) -> None:
    entries = case.floor_entries or ()
    if node_hash(entries) != epoch.seal.nodes.get(receipt.bundle):
        raise CounterfoilError(
            Code.COMMITMENT_MISMATCH, "the node's entries do not hash to the seal's value"
        )
    raised = raised_floors(epoch.opened, epoch.seal)
    floor = raised.get(receipt.bundle, epoch.opened.floor)
    smallest = floor_of(draw.seed, entries, floor)
    require(receipt_entry in smallest, "the floor does not draw the receipt")


def _check_verdict(
    case: ReleaseCase, trust: Trust, recipient: Recipient, receipt_entry: bytes
) -> None:
    """Another worker's verdict that blames the node for this receipt, or another one of its chain, is witnessed."""
    if case.verdict is None or case.verdict_proof is None:
        raise CounterfoilError(Code.BAD_PROOF, "there is no verdict to confirm")
    claimed, statement = open_as(Verdict, case.verdict, None)
    keys = trust.named(Role.WORKER, claimed.worker)
    if not keys:
        raise CounterfoilError(
            Code.UNTRUSTED_KEY, "the verdict is by a worker that is not in the configuration"
        )
    verdict, _, _ = _witnessed(
        Verdict, case.verdict, case.verdict_proof, trust, key_for(statement, keys)
    )
    chained = open_as(Receipt, case.receipt, None)[0].chain is not None
    blames = {Blame.NODE, Blame.CHAIN} if chained else {Blame.NODE}
    require(verdict.reason.blame in blames, "the verdict to confirm does not blame the node")
    require(verdict.receipt == receipt_entry, "the verdict is about another receipt")
    require(verdict.worker != recipient.name, "a worker does not confirm its own verdict")


def _shown(value: T | None) -> T:
    if value is None:
        raise CounterfoilError(Code.MALFORMED, "the case lacks a part that its reason needs")
    return value


def _witnessed(
    cls: type[P], raw: bytes, proof: str, trust: Trust, key: bytes | None
) -> tuple[P, SignedStatement, int]:
    return open_witnessed(cls, raw, proof, key, log=trust.required_log(), origin=trust.origin)


def _authority(raw: bytes, trust: Trust) -> bytes:
    """Return the audit authority's key for one of its statements."""
    statement = parse_statement(raw)
    return trust.authority_key(statement.kid, f"the {statement.type}")


def _check_party(statement: SignedStatement, name: str, trust: Trust) -> None:
    """Verify the signature of a beacon party that the configuration pins."""
    keys = trust.named(Role.PARTY, name)
    if keys:
        verify_signature(statement, key_for(statement, keys))


def _check_pinned(statement: SignedStatement, name: str, trust: Trust, role: Role) -> None:
    """Verify a signature in somebody's name if the configuration pins keys for the role; UNTRUSTED_KEY without one."""
    if role not in trust.pins:
        return
    keys = trust.named(role, name)
    if not keys:
        raise CounterfoilError(
            Code.UNTRUSTED_KEY,
            f"the {statement.type} is signed as {name}, for whom no key is pinned",
        )
    verify_signature(statement, key_for(statement, keys))


def _check_bundle_place(
    case: ReleaseCase, statement: SignedStatement, operator: str, trust: Trust
) -> None:
    """The key bundle's signer was its operator's key where the log has the key bundle: rotation changes nothing about it."""
    history = trust.histories.get((Role.OPERATOR, operator))
    life = None if history is None else history.life(statement.kid)
    if life is None or (life.added is None and life.ended is None):
        return  # nothing is known of this key but that it is pinned
    if case.bundle_proof is None:
        raise CounterfoilError(
            Code.BAD_PROOF, "the operator's keys have changed, and the key bundle has no proof"
        )
    found = verify_tlog_proof(case.bundle_proof, statement.entry, trust.required_log())
    trust.check_place(Role.OPERATOR, operator, statement.kid, found.index)


def _check_agreement(case: ReleaseCase, trust: Trust, receipt: Receipt) -> None:
    """(6) Order, receipt and envelope are about one request, sealed for the node that signed the receipt."""
    order, statement = open_as(Order, case.order, None)
    require(receipt.order == statement.entry, "the receipt answers another order")
    _check_pinned(statement, order.tenant, trust, Role.TENANT)
    trust.check_order(order.tenant, statement.kid, receipt.started)
    for name in ("ctx", "kc", "envelope", "bundle", "tenant", "number", "attempt"):
        require(
            getattr(order, name) == getattr(receipt, name),
            f"order and receipt disagree about {name}",
        )
    require(envelope_hash(case.envelope) == receipt.envelope, "the envelope is not the receipt's")
    envelope = Envelope.from_bytes(case.envelope)
    require(
        (envelope.header.ctx, envelope.kc) == (receipt.ctx, receipt.kc),
        "the envelope has another ctx or key commitment",
    )
    header = envelope.header
    if order.part is None:
        sealed_for = header.candidates
    else:
        place = order.part.place
        sealed_for = tuple(each.bundle for each in (header.stages or ())[place - 1 : place])
    require(
        receipt.bundle in sealed_for,
        "the envelope was not sealed for the node that signed the receipt",
    )
