"""The judge, exact regime: opens one disclosed request and replays it (protocol §6.3).

Pure except for the arithmetic passed in. The caller has already checked: the receipt's and the order's signatures, that
the ciphertexts hash to the receipt's `envelope` and `h_final`, that a final record is under the node's signature, and
that the shares recombine to a secret whose commitments hold.
"""

from collections.abc import Callable, Iterator
from typing import Final

from audit_layer.replay import steps
from audit_layer.replay.case import Case
from audit_layer.replay.hearing import Arithmetic, Hearing
from shared.envelope.header import Envelope
from shared.runtime.errors import CounterfoilError
from shared.statements.cose import read_as
from shared.statements.orders import Order
from shared.statements.receipts import Receipt
from shared.statements.verdicts import Reason
from shared.verification.judgement import Check, Difference, Judgement
from shared.verification.receipt_claims import implausible, unfounded_end

Step = tuple[int, str, Reason, Callable[[Hearing], Difference | None]]

STEPS: Final[tuple[Step, ...]] = (
    (0, "profile", Reason.PROFILE, steps.profile),
    (1, "secret", Reason.ESCROW, steps.secret),
    (2, "model", Reason.MODEL, steps.model),
    (3, "prompt", Reason.INPUT, steps.prompt),
    (4, "frames", Reason.STREAM, steps.frames),
    (4, "final record", Reason.STREAM, steps.final_record),
    (5, "delivery", Reason.WITHHELD, steps.delivered),
    (5, "evidence", Reason.EVIDENCE, steps.evidence),
    (6, "replay", Reason.TOKENS, steps.replay),
    (7, "activations", Reason.ACTIVATIONS, steps.activations),
    (8, "tokens", Reason.TOKENS, steps.tokens),
    (8, "log-probabilities", Reason.LOGPROBS, steps.logprobs),
    (9, "text", Reason.TEXT, steps.text),
    (10, "settings", Reason.SETTINGS, steps.settings),
    (10, "finish", Reason.FINISH, steps.finish),
    (10, "usage", Reason.USAGE, steps.usage),
    (10, "claims", Reason.IMPLAUSIBLE, steps.claims),
)
"""Protocol step, name, the reason if it does not hold, and the function."""
PASS_STEPS: Final = range(6, 9)
"""The protocol's steps that take the pass."""
WITHOUT_PASS: Final[Step] = (6, "sequence", Reason.TOKENS, steps.sequence)
"""What takes their place where the pass would take too long."""


def judge(case: Case, arithmetic: Arithmetic, longest: int | None = None) -> Judgement:
    """Return the judgement of one case, whatever the case holds.

    The first step that does not hold gives the reason. Evidence that is withheld gives it only if all others hold: what
    is there may convict. So it is with a sequence of more than `longest` tokens, which this auditor cannot replay in its
    time: every step that takes no pass is made. Its length is that of the tokens in hand, as a node may claim any. What is
    raised is the auditor's own: a receipt or order that is not one (the caller has verified them), or an arithmetic that
    fails.
    """
    hearing = Hearing(case, read_as(Receipt, case.receipt), read_as(Order, case.order), arithmetic)
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
    yield from (step for step in STEPS if step[0] < PASS_STEPS.start)
    if longest is None or hearing.length <= longest:
        yield from (step for step in STEPS if step[0] in PASS_STEPS)
    else:
        yield WITHOUT_PASS
    yield from (step for step in STEPS if step[0] >= PASS_STEPS.stop)


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
