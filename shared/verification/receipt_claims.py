"""What a receipt claims about its own end and effort, held against its order and against physics. Pure.

Anyone who holds the two statements can do this; nothing is disclosed for it (protocol §4.7, §4.8).
"""

from typing import Final

from shared.statements.keys import KeyBundle
from shared.statements.orders import Order
from shared.statements.receipts import Finish, Receipt

SLACK_MS: Final = 1_000
"""How far two readings of one clock may be apart: rounding, and an end that leaves time to deliver the receipt."""
SKEW_MS: Final = 300_000
"""How far two parties' clocks may be apart."""
MAX_WATTS: Final = 150_000
"""More than any machine that serves one request draws: a rack of 72 accelerators is rated at about 120 kW
(NVIDIA GB200 NVL72, data sheet)."""
MIN_TOKEN_US: Final = 10
"""Less time than any decoding step takes: launching one kernel costs a few microseconds, and a step has many."""


def unfounded_end(order: Order, receipt: Receipt) -> str | None:
    """Return, in words, why nobody but the node wanted the answer to end there; None if it ended by a rule or a signature.

    The log has checked that `cancel` is the signature of the order's tenant.
    """
    took = receipt.ended - receipt.started
    return unfounded(receipt.finish, receipt.cancel is not None, took, order.max_ms)


def unfounded(finish: Finish, cancelled: bool, took: int, max_ms: int | None) -> str | None:
    """Do the same, given whether the tenant signed a cancellation and what the answer took (ms)."""
    if finish is Finish.CANCELLED and not cancelled:
        return "it is called cancelled, but the tenant did not sign a cancellation"
    if finish is Finish.DEADLINE:
        if max_ms is None:
            return "it is called late, but the order sets no deadline"
        if took + SLACK_MS < max_ms:
            return f"it is called late after {took} ms, but the order allows {max_ms} ms"
    return None


def misplaced(order: Order, receipt: Receipt, bundle: KeyBundle) -> str | None:
    """Return, in words, how a receipt is not one of its order's place in a chain or outside of any (protocol §4.10.4); None if
    it is.
    """
    chain, part = receipt.chain, order.part
    if (part is None) != (bundle.layers is None):
        whose = "a whole answer's" if part is None else "that for a part"
        return f"the order is {whose}, and its key bundle is not"
    if chain is None:
        if part is not None and receipt.finish is not Finish.FAILED:
            return "a stage that has not failed says what passed through it"
        return None if part is None else _not_a_stages(receipt)
    if chain.place != (0 if part is None else part.place):
        return f"it is of place {chain.place} of a chain, and its order is not"
    if receipt.finish is Finish.FAILED or not receipt.usage.output:
        return "what failed, or has no output, is of no chain"
    return None if part is None else _not_a_stages(receipt)


def _not_a_stages(receipt: Receipt) -> str | None:
    """Return what a stage's receipt has that only a head can know."""
    if receipt.finish not in {Finish.STOP, Finish.FAILED}:
        return f"a stage does not know that an answer ended by {receipt.finish}"
    known = ("settings", "activation_root", "input", "output", "evidence")
    found = [name for name in known if getattr(receipt, name) is not None]
    return f"a stage does not know of {found[0]}" if found else None


def implausible(order: Order, receipt: Receipt) -> str | None:
    """Return, in words, which claim about times, compute or energy cannot be true; None if all of them can be."""
    usage, took = receipt.usage, receipt.ended - receipt.started
    if receipt.started + SKEW_MS < order.created:
        return f"it began {order.created - receipt.started} ms before its order was signed"
    if usage.compute_ms is not None and usage.compute_ms > took + SLACK_MS:
        return f"it computed for {usage.compute_ms} ms in {took} ms"
    most = MAX_WATTS * (took + SLACK_MS)
    if usage.energy_mj is not None and usage.energy_mj > most:
        return f"it used {usage.energy_mj} mJ in {took} ms, above {MAX_WATTS} W"
    if usage.output * MIN_TOKEN_US > (took + SLACK_MS) * 1000:
        return f"it generated {usage.output} tokens in {took} ms"
    return None
