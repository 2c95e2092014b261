"""Admission of a stage's part of an answer (protocol §4.10.1 rule 4), in numbered steps.

No step writes anything, and nothing is signed about what fails: the head refuses the whole request then.
"""

from dataclasses import dataclass

from execution_layer.node import order_times
from execution_layer.node.identity import BundleKeys
from execution_layer.node.order_checks import (
    OrderChecks,
    SignedOrder,
    check_header,
    check_model,
    check_size,
)
from execution_layer.pipeline.parts import Offered
from shared.envelope.header import MAX_HEADER, STAGE_WRAP_BYTES, Header
from shared.envelope.stages import BoundarySecret, open_stage
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import MAX_STATEMENT, entry_of, read_as
from shared.statements.keys import KeyBundle
from shared.statements.orders import Order


@dataclass(frozen=True, slots=True, repr=False)
class CheckedPart:
    """An order for a part whose public side has passed the checks."""

    signed: SignedOrder
    place: int
    header: Header
    keys: BundleKeys


class PartAdmission:
    """The steps, with what this stage knows."""

    def __init__(self, checks: OrderChecks, model_root: bytes) -> None:
        self._checks = checks
        self._model_root = model_root

    def signed(self, offered: Offered) -> SignedOrder:
        """Check that (1) a known tenant has signed the order, and that it is for a part."""
        signed = self._checks.signed(offered.order)
        if signed.order.part is None:
            raise CounterfoilError(
                Code.NO_ORDER,
                "the order is for a whole answer; a stage takes orders for parts",
                remedy="Order from the chain's head.",
            )
        return signed

    def bundle(self, signed: SignedOrder, now_ms: int) -> BundleKeys:
        """Return the key bundle that an order names, if it is this node's and live."""
        return self._checks.bundle(signed.order, now_ms)

    def check(self, signed: SignedOrder, offered: Offered, caller: str, now_ms: int) -> CheckedPart:
        """Check times, key bundle, header, place, head, terms and model; nothing is opened yet."""
        order = signed.order
        assert order.part is not None
        order_times.check_order(order, now_ms)  # (2)
        keys = self._checks.bundle(order, now_ms)  # (3)
        check_size("header", offered.header, MAX_HEADER)
        header = Header.from_cbor(offered.header, max_bytes=MAX_HEADER)
        check_header(order, header, offered.kc, now_ms)  # (4)
        _check_place(order, order.part.place, header)  # (5)
        _check_head(offered.head_bundle, header, caller)  # (6)
        self._checks.terms(order)  # (7)
        check_model(header, self._model_root, keys)  # (8)
        return CheckedPart(signed, order.part.place, header, keys)


def open_part(checked: CheckedPart, offered: Offered) -> tuple[BoundarySecret, BoundarySecret]:
    """Open the wrap: (9) UNREADABLE unless it holds the secrets to which the header commits at this place."""
    if len(offered.wrap) != STAGE_WRAP_BYTES:
        raise CounterfoilError(
            Code.MALFORMED, f"a stage's wrap has {STAGE_WRAP_BYTES} bytes, not {len(offered.wrap)}"
        )
    return open_stage(checked.header, offered.kc, checked.place, offered.wrap, checked.keys.hpke)


def _check_place(order: Order, place: int, header: Header) -> None:
    stages = header.stages or ()
    if place > len(stages) or stages[place - 1].bundle != order.bundle:
        raise CounterfoilError(
            Code.STALE_KEY,
            f"the envelope's chain does not have the ordered key bundle at place {place}",
        )


def _check_head(head_bundle: bytes, header: Header, caller: str) -> None:
    """Check that the caller is the candidate's node. The tenant, who signed ctx, has named the candidate by its hash, so the
    statement with that hash is the one that it has chosen: its signature proves nothing more here.
    """
    check_size("head's key bundle", head_bundle, MAX_STATEMENT)
    if not head_bundle or entry_of(head_bundle) != header.candidates[0]:
        raise CounterfoilError(
            Code.STALE_KEY, "the head's key bundle is not the one for which the envelope is sealed"
        )
    head = read_as(KeyBundle, head_bundle).issuer
    if head != caller:
        raise CounterfoilError(
            Code.FORBIDDEN, f"the order is for a chain whose head is {head}, not {caller}"
        )
