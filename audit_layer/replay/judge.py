"""The judge, exact regime: opens one disclosed request and replays it (protocol §6.3).

Pure except for the arithmetic passed in. The caller has already checked: the receipt's and the order's signatures, that
the ciphertexts hash to the receipt's `envelope` and `h_final`, that a final record is under the node's signature, and
that the shares recombine to a secret whose commitments hold.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from audit_layer.replay import chain_steps, steps
from audit_layer.replay.case import Case, ChainCase, Member
from audit_layer.replay.hearing import Arithmetic, Hearing
from audit_layer.replay.one_pass import OnePass
from shared.envelope.header import Envelope
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import entry_of, read_as
from shared.statements.orders import Order, Part
from shared.statements.receipts import Receipt
from shared.statements.verdicts import Reason
from shared.verification.judgement import Check, Difference, Judgement
from shared.verification.receipt_claims import implausible, unfounded_end

Step = tuple[int, str, Reason, Callable[[Hearing], Difference | None]]

OPENING: Final[tuple[Step, ...]] = (
    (0, "profile", Reason.PROFILE, steps.profile),
    (1, "secret", Reason.ESCROW, steps.secret),
    (2, "model", Reason.MODEL, steps.model),
)
ANSWER: Final[tuple[Step, ...]] = (
    (2, "nodes", Reason.MODEL, chain_steps.answered_by),
    (2, "layers", Reason.MODEL, chain_steps.layout),
    (3, "prompt", Reason.INPUT, steps.prompt),
    (4, "frames", Reason.STREAM, steps.frames),
    (4, "final record", Reason.STREAM, steps.final_record),
    (4, "receipts of stages", Reason.STREAM, chain_steps.listed),
    (5, "delivery", Reason.WITHHELD, steps.delivered),
    (5, "evidence", Reason.EVIDENCE, steps.evidence),
    (6, "replay", Reason.TOKENS, steps.replay),
    (7, "sent", Reason.ACTIVATIONS, chain_steps.sent),
    (7, "received", Reason.BOUNDARY, chain_steps.received),
    (7, "activations", Reason.ACTIVATIONS, steps.activations),
    (8, "tokens", Reason.TOKENS, steps.tokens),
    (8, "log-probabilities", Reason.LOGPROBS, steps.logprobs),
    (9, "text", Reason.TEXT, steps.text),
    (10, "settings", Reason.SETTINGS, steps.settings),
    (10, "finish", Reason.FINISH, steps.finish),
    (10, "usage", Reason.USAGE, steps.usage),
    (10, "claims", Reason.IMPLAUSIBLE, steps.claims),
)
"""Of a receipt for a whole answer, after the opening: protocol step, name, the reason if it does not hold, and the function."""
STEPS: Final = OPENING + ANSWER
OF_CHAINS: Final = frozenset({"layers", "receipts of stages", "sent", "received"})
"""Names of those that are about a chain's head only."""
PART: Final[tuple[Step, ...]] = (
    (2, "request", Reason.BOUNDARY, chain_steps.same_request),
    (2, "nodes", Reason.MODEL, chain_steps.ordered_from),
    (2, "layers", Reason.BOUNDARY, chain_steps.layout),
    (3, "prompt", Reason.BOUNDARY, chain_steps.tokenised),
    (4, "frames", Reason.BOUNDARY, steps.frames),
    (6, "replay", Reason.BOUNDARY, steps.replay),
    (7, "received", Reason.BOUNDARY, chain_steps.received),
    (7, "sent", Reason.ACTIVATIONS, chain_steps.sent),
    (10, "tokens counted", Reason.USAGE, chain_steps.counted),
    (10, "tokens told", Reason.BOUNDARY, chain_steps.told),
    (10, "claims", Reason.IMPLAUSIBLE, steps.claims),
)
"""Of a stage's receipt: what is the head's doing is nothing against it."""
PASS_STEPS: Final = range(6, 9)
"""The protocol's steps that take the pass."""
WITHOUT_PASS: Final[Step] = (6, "sequence", Reason.TOKENS, steps.sequence)
"""What takes their place where the pass would take too long."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of a case: the judgement of its receipt, and those of the other receipts of its chain, by entry."""

    judgement: Judgement
    others: Mapping[bytes, Judgement] = field(default_factory=dict)
    """Empty unless what another place gave it was wrong: then which one did that is judged too."""


def judge_chain(case: Case, arithmetic: Arithmetic, longest: int | None = None) -> Judged:
    """Judge a case and, where another place of its chain gave it what was wrong, all receipts of the chain, from the same pass."""
    chain = case.chain
    if chain is None:
        return Judged(judge(case, arithmetic, longest))
    case, once = replace(case, frames=tuple(case.frames)), OnePass(arithmetic)
    judgement = judge(case, once, longest)
    if judgement.reason is not Reason.BOUNDARY:
        return Judged(judgement)
    others = {
        entry_of(member.receipt): judge(
            replace(case, receipt=member.receipt, order=member.order), once, longest
        )
        for member in own_members(chain)
        if member.receipt != case.receipt
    }
    return Judged(judgement, others)


def own_members(chain: ChainCase) -> Iterator[Member]:
    """Yield the head and those of the receipts that it lists which answer the same request, at their places.

    A head can list whatever it likes; a receipt of another request says nothing about this one.
    """
    head = chain.members[0]
    receipt = read_as(Receipt, head.receipt)
    places = {entry: place for place, entry in enumerate(_listed(receipt), start=1)}
    yield head
    for member in chain.members[1:]:
        order, own = read_as(Order, member.order), read_as(Receipt, member.receipt)
        place = places.get(entry_of(member.receipt))
        same = (own.ctx, own.kc, own.envelope) == (receipt.ctx, receipt.kc, receipt.envelope)
        if same and place is not None and order.part == Part(receipt.order, place):
            yield member


def _listed(head: Receipt) -> tuple[bytes, ...]:
    return () if head.chain is None else head.chain.stages or ()


def judge(case: Case, arithmetic: Arithmetic, longest: int | None = None) -> Judgement:
    """Return the judgement of one case, whatever the case holds.

    The first step that does not hold gives the reason. Evidence that is withheld gives it only if all others hold: what
    is there may convict. So it is with a sequence of more than `longest` tokens, which this auditor cannot replay in its
    time: every step that takes no pass is made. Its length is that of the tokens in hand, as a node may claim any. What is
    raised is the auditor's own: a receipt or order that is not one (the caller has verified them), or an arithmetic that
    fails.
    """
    receipt, order = read_as(Receipt, case.receipt), read_as(Order, case.order)
    hearing = Hearing(case, receipt, order, arithmetic, _head(case, receipt, order))
    checks: list[Check] = []
    for number, name, reason, step in _steps(hearing, longest):
        difference = step(hearing)
        checks.append(Check(number, name, reason, difference))
        if difference is not None and reason is not Reason.WITHHELD:
            return Judgement(reason, hearing.facts, tuple(checks))
    if any(not check.held for check in checks):
        return Judgement(Reason.WITHHELD, hearing.facts, tuple(checks))
    if longest is not None and hearing.length > longest:
        facts = {**hearing.facts, "longest": longest}
        return Judgement(Reason.UNREPLAYABLE, facts, tuple(checks))
    return Judgement(Reason.EXACT, hearing.facts, tuple(checks))


def _steps(hearing: Hearing, longest: int | None) -> Iterator[Step]:
    """Yield the steps to make; how long the sequence is, is known once those before the pass have been made."""
    table = OPENING + PART if hearing.place else STEPS
    if hearing.receipt.chain is None:
        table = tuple(step for step in table if step[1] not in OF_CHAINS)
    yield from (step for step in table if step[0] < PASS_STEPS.start)
    if longest is None or hearing.length <= longest:
        yield from (step for step in table if step[0] in PASS_STEPS)
    elif not hearing.place:  # tokens that no model can have are the head's doing
        yield WITHOUT_PASS
    yield from (step for step in table if step[0] >= PASS_STEPS.stop)


def _head(case: Case, receipt: Receipt, order: Order) -> Receipt:
    """Return the receipt to which the frames belong; CORRUPT without what a chain's case has."""
    if case.chain is None and (receipt.chain is not None or order.part is not None):
        raise CounterfoilError(Code.CORRUPT, "a receipt of a chain comes without the chain")
    if order.part is None:
        return receipt
    assert case.chain is not None
    return read_as(Receipt, case.chain.members[0].receipt)


def judge_claims(order: Order, receipt: Receipt) -> Judgement | None:
    """Judge what a receipt and its order show by themselves; None if nothing is wrong with it.

    It takes no disclosure, so no evidence that is withheld can prevent it.
    """
    for name, reason, fault in (
        ("finish", Reason.FINISH, unfounded_end(order, receipt)),
        ("claims", Reason.IMPLAUSIBLE, implausible(order, receipt)),
    ):
        if fault is not None:
            return Judgement(reason, {}, (Check(10, name, reason, Difference(found=fault)),))
    return None


def two_finals() -> Judgement:
    """Judge a node that signed two final records for one receipt: whatever they say, its client was shown only one."""
    difference = Difference("one final record", "two, both signed by the node")
    return Judgement(Reason.STREAM, {}, (Check(4, "final record", Reason.STREAM, difference),))


def judge_header(case: Case) -> Judgement | None:
    """Judge whether the receipt is for the model that the sealed header asks for, which takes no model; None if it is.

    A receipt could otherwise name a model that no auditor has, and nobody could judge it.
    """
    receipt = read_as(Receipt, case.receipt)
    try:
        asked = Envelope.from_bytes(case.envelope).header.model_root
    except CounterfoilError:  # the tenant's own doing, which the steps find
        return None
    if asked == receipt.model_root:
        return None
    difference = Difference(asked.hex(), receipt.model_root.hex())
    return Judgement(Reason.MODEL, {}, (Check(2, "model", Reason.MODEL, difference),))
