"""The places in a node's session at which its receipt and its final record can be made to lie."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from execution_layer.node import drafts
from execution_layer.node import session as session_module
from execution_layer.node.drafts import Outcome, draft_receipt
from execution_layer.node.request_records import AcceptedRecord
from execution_layer.node.session import Session
from shared.envelope.secrets import TranscriptKeys
from shared.envelope.stream import FinalRecord
from shared.statements.receipts import Receipt, Usage
from tests.adversaries.adversary import patched


def outcome_changed(change: Callable[[Outcome], Outcome]) -> AbstractContextManager[None]:
    """Change how a request ended and what is billed for it, in receipt and final record alike."""
    ordinary = Session._outcome

    def outcome(self: Session, *how: Any) -> Outcome:
        return change(ordinary(self, *how))

    return patched((Session, "_outcome", outcome))


def usage_changed(change: Callable[[Usage], Usage]) -> AbstractContextManager[None]:
    """Change what is billed, in receipt and final record alike."""
    return outcome_changed(lambda outcome: replace(outcome, usage=change(outcome.usage)))


def receipt_changed(change: Callable[[Receipt], Receipt]) -> AbstractContextManager[None]:
    """Change what the node signs in its receipts."""

    def draft(record: AcceptedRecord, keys: TranscriptKeys, outcome: Outcome) -> Receipt:
        return change(draft_receipt(record, keys, outcome))

    return patched((session_module, "draft_receipt", draft))


def final_changed(change: Callable[[FinalRecord], FinalRecord]) -> AbstractContextManager[None]:
    """Change what the final record says beside the receipt."""

    def record(**said: Any) -> FinalRecord:
        return change(FinalRecord(**said))

    return patched((drafts, "FinalRecord", record))
