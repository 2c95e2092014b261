"""What the stages of a chain signed, held against the client's orders for them and against each other (protocol §4.10.4). Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from execution_layer.client.claims import LIE, agree, check_times, require
from shared.envelope.stream import StreamContext
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import open_as
from shared.statements.keys import KeyBundle
from shared.statements.orders import Order, Part
from shared.statements.receipts import Chain, Finish, Receipt
from shared.verification.receipt_claims import implausible, misplaced

_FROM_ORDER: Final = ("bundle", "ctx", "kc", "envelope", "tenant", "number", "attempt", "rate_card")
_COUNTED: Final = ("input", "cached", "output")


@dataclass(frozen=True, slots=True, repr=False)
class SentPart:
    """What the client ordered from one stage."""

    order: Order
    entry: bytes
    bundle: KeyBundle

    @property
    def name(self) -> str:
        """How it is called in errors."""
        assert self.order.part is not None
        return f"stage {self.order.part.place} ({self.bundle.issuer})"


def part_order(
    head: Order, head_entry: bytes, place: int, bundle: bytes, rate_card: bytes
) -> Order:
    """Return the order for a stage: that for its head, but for the stage's key bundle (its entry) and rate card."""
    return replace(head, bundle=bundle, rate_card=rate_card, part=Part(head_entry, place))


def check_chain(
    receipt: Receipt, signed: Sequence[bytes] | None, parts: Sequence[SentPart], now_ms: int
) -> None:
    """Check the stages' receipts (`signed`, as the final record has them) against the head's, which has been checked itself.

    COMMITMENT_MISMATCH or BAD_SIGNATURE names the stage and what is wrong with it; so does a chain that was not asked for.
    """
    chain = receipt.chain
    check_asked(receipt, signed, len(parts))
    if chain is None or signed is None:
        return
    places = [_checked(raw, receipt, part, now_ms) for raw, part in zip(signed, parts, strict=True)]
    for (entry, _), listed, part in zip(places, chain.stages or (), parts, strict=True):
        require(listed == entry, "chain", f"lists another receipt than that of {part.name}")
    _check_ring([chain, *(stage for _, stage in places)], parts)


def check_asked(receipt: Receipt, signed: Sequence[bytes] | None, stages: int) -> None:
    """Check that there is a chain exactly where one of so many stages was ordered and has answered."""
    asked = stages > 0 and receipt.finish is not Finish.FAILED and receipt.usage.output > 0
    if not asked:
        why = "failed or delivered nothing" if stages else "was not ordered from a chain"
        require(receipt.chain is None, "chain", f"is there, though the answer {why}")
        require(signed is None, "stages", f"have receipts, though the answer {why}")
        return
    require(receipt.chain is not None, "chain", f"is missing: {stages} stages were ordered")
    listed = () if receipt.chain is None else receipt.chain.stages or ()
    require(receipt.chain is not None and receipt.chain.place == 0, "chain", "is not a head's")
    for what, found in (("chain", listed), ("stages", signed or ())):
        count = len(found)
        require(count == stages, what, f"has {count} receipts; {stages} stages were ordered")


def _checked(raw: bytes, head: Receipt, part: SentPart, now_ms: int) -> tuple[bytes, Chain]:
    """Return a stage's receipt's entry, and what it says of its boundaries."""
    try:
        receipt, statement = open_as(Receipt, raw, part.bundle.signing_key)
        agree("issuer", statement.issuer, part.bundle.issuer)
        _check_part(receipt, head, part)
        check_times(part.order, receipt, now_ms)
        impossible = implausible(part.order, receipt)
        require(impossible is None, "claims", f"cannot be true: {impossible}")
    except CounterfoilError as error:
        raise CounterfoilError(error.code, f"{part.name}: {error.detail}", remedy=LIE) from error
    assert receipt.chain is not None
    return statement.entry, receipt.chain


def _check_part(receipt: Receipt, head: Receipt, part: SentPart) -> None:
    order, bundle = part.order, part.bundle
    agree("order", receipt.order, part.entry)
    for name in _FROM_ORDER:
        agree(name, getattr(receipt, name), getattr(order, name))
    agree("model_root", receipt.model_root, head.model_root)
    agree("numeric_profile", receipt.numeric_profile, bundle.numeric_profile)
    context = StreamContext(order.ctx, order.kc, order.bundle, receipt.node_nonce, order.attempt)
    agree("h_final", receipt.h_final, context.h_0)
    for name in _COUNTED:
        counted, heads = getattr(receipt.usage, name), getattr(head.usage, name)
        require(counted == heads, f"usage.{name}", f"is {counted}, and the head's is {heads}")
    require(receipt.finish is Finish.STOP, "finish", f"is {receipt.finish.value}, and not stop")
    require(receipt.cancel is None, "cancel", "is there, which a stage does not get")
    fault = misplaced(order, receipt, bundle)
    require(fault is None, "place", f"is not its order's: {fault}")


def _check_ring(chains: Sequence[Chain], parts: Sequence[SentPart]) -> None:
    """Check that every root that was sent is the one that the next place received, the head after the last stage."""
    names = ["the head", *(part.name for part in parts)]
    places = list(zip(names, chains, strict=True))
    for (sender, sent), (receiver, received) in pairwise([*places, places[0]]):
        if sent.sent != received.received:
            raise CounterfoilError(
                Code.COMMITMENT_MISMATCH,
                f"{sender} signed that it sent other states than {receiver} signed that it received",
                remedy=f"{LIE} An audit of both receipts says which of the two is false.",
            )
