"""How a claim of a receipt is held against what the client knows: the error that says which one is false. Pure."""

from typing import Final

from shared.runtime.clocks import shown, span
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.orders import Order
from shared.statements.receipts import Receipt

SKEW_MS: Final = 300_000
"""How far a node's clock may differ from ours."""
LIE: Final = "The node's answer cannot be believed; the archive keeps it as evidence."


def agree(name: str, claimed: object, ours: object) -> None:
    """COMMITMENT_MISMATCH unless a claim is what the client knows."""
    require(claimed == ours, name, "does not match what was sent and received")


def require(condition: bool, name: str, problem: str) -> None:
    """COMMITMENT_MISMATCH, with a receipt's field and what is wrong with it, unless the condition holds."""
    if not condition:
        raise CounterfoilError(
            Code.COMMITMENT_MISMATCH,
            f"the receipt's {name} {problem}",
            remedy=LIE,
        )


def check_times(order: Order, receipt: Receipt, now_ms: int) -> None:
    """Check that the times are close to when the request was made and answered."""
    require(
        receipt.started >= order.created - SKEW_MS,
        "started",
        f"is before the order was created: the node's clock said {shown(receipt.started)}, and this machine's"
        f" {shown(order.created)}, {span(order.created - receipt.started)} later",
    )
    require(
        receipt.ended <= now_ms + SKEW_MS,
        "ended",
        f"is in the future: the node's clock said {shown(receipt.ended)}, and this machine's says"
        f" {shown(now_ms)}, {span(receipt.ended - now_ms)} earlier",
    )
