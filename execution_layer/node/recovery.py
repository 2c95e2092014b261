"""After a crash or a full disk: what was accepted goes on, or gets the receipt that it is owed (protocol §4.9)."""

import logging
from dataclasses import dataclass
from typing import Final

from execution_layer.engine.protocol import Resumed
from execution_layer.node.admission import Admitted, ServedModel
from execution_layer.node.chain import check_parts
from execution_layer.node.drafts import (
    Outcome,
    ReceiptSigner,
    draft_receipt,
    seal_final,
    stream_context,
)
from execution_layer.node.request_records import AcceptedRecord, UnfinishedRecord
from execution_layer.node.session import Before
from execution_layer.node.store import NodeStore
from execution_layer.node.tape import StreamSigner
from shared.codec.moment import now_ms
from shared.envelope.blinded import token_bytes
from shared.envelope.body import settings_bytes
from shared.envelope.sealing import OpenedRequest, open_with_secret
from shared.envelope.stream import FrameOpener, FrameSealer
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import open_as
from shared.statements.orders import Order
from shared.statements.receipts import EnergyQuality, Finish, Usage

MOST_INTERRUPTIONS: Final = 3
"""After so many, a request ends as failed: it may be what ends the process."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, repr=False)
class Continuation:
    """A request that goes on, as it was admitted, and what was stored of its response."""

    record: UnfinishedRecord
    admitted: Admitted
    before: Before

    @property
    def resumed(self) -> Resumed:
        """What the engine has to know of it."""
        return Resumed(self.before.tokens, self.before.text, self.record.cached)


def continuations(store: NodeStore, served: ServedModel) -> list[Continuation]:
    """Return the accepted requests without a receipt that are to go on, oldest first."""
    found = []
    for record in store.unfinished():
        why = _ended(record, served, now_ms())
        if why is None:
            try:
                found.append(_reopen(record, served))
                continue
            except CounterfoilError as error:
                why = error.detail
        _log.warning("an interrupted request does not go on: %s", why)
    return found


async def finish_interrupted(
    store: NodeStore, signer: ReceiptSigner, only: frozenset[int] | None = None
) -> int:
    """Write a receipt with finish `failed` for each accepted request without one; return how many.

    While sessions run, `only` says which requests to consider. The frames on disk are all that can have left the
    node, so the receipt covers exactly those. CORRUPT if they do not open: then the keys and the database do not
    belong together.
    """
    interrupted = [item for item in store.unfinished() if only is None or item.id in only]
    for record in interrupted:
        accepted = record.accepted
        order, _ = open_as(Order, accepted.order, None)
        opened = open_with_secret(accepted.envelope, accepted.secret)
        context = stream_context(order, accepted.node_nonce)
        before = _said(record, order, opened)
        sealer = FrameSealer(opened.keys, context, opened.shape)
        for ciphertext in record.frames:
            sealer.follow(ciphertext)
        outcome = _failed(accepted, before, sealer.h)
        signed = await store.finish(
            record.id,
            draft_receipt(accepted, opened.keys, outcome),
            sign=signer.receipt,
            seal_final=seal_final(
                sealer, StreamSigner(context, signer).final, outcome, before.text
            ),
        )
        _log.warning(
            "a request was interrupted; its receipt says failed",
            extra={"node_sequence": signed.sequence, "output_tokens": outcome.usage.output},
        )
    return len(interrupted)


def _ended(record: UnfinishedRecord, served: ServedModel, now: int) -> str | None:
    """Return, in words, why a request does not go on; None if it does."""
    accepted = record.accepted
    order, _ = open_as(Order, accepted.order, None)
    until = order.expiry if order.max_ms is None else accepted.started + order.max_ms
    if record.cancelled:
        return "its tenant has cancelled it"
    if until <= now:
        return "its deadline has passed"
    if record.interruptions >= MOST_INTERRUPTIONS:
        return f"it was interrupted {record.interruptions} times"
    if (accepted.model_root, accepted.numeric_profile) != (served.root, served.numeric_profile):
        return "the node computes another model, or in another numeric profile, than it did"
    if accepted.tenant_key is None:
        return "an older version accepted it"
    return None


def _reopen(record: UnfinishedRecord, served: ServedModel) -> Continuation:
    """Open a request with its stored secret; CORRUPT if it is not the one that was accepted."""
    accepted = record.accepted
    assert accepted.tenant_key is not None
    order, statement = open_as(Order, accepted.order, None)
    opened = open_with_secret(accepted.envelope, accepted.secret)
    prompt_ids = served.tokenise(opened.body)
    admitted = Admitted(
        order=order,
        order_statement=accepted.order,
        order_entry=statement.entry,
        tenant_key=accepted.tenant_key,
        envelope=accepted.envelope,
        opened=opened,
        prompt_ids=prompt_ids,
        parts=check_parts(order, statement.entry, opened.header, accepted.parts),
    )
    blinded = (
        opened.keys.blind("settings", settings_bytes(opened.body, admitted.seed)),
        opened.keys.blind("input", token_bytes(prompt_ids)),
    )
    if blinded != (accepted.settings, accepted.input):
        raise CounterfoilError(
            Code.CORRUPT, "its settings or its prompt's tokens are not those that were accepted"
        )
    return Continuation(record, admitted, _said(record, order, opened))


def _said(record: UnfinishedRecord, order: Order, opened: OpenedRequest) -> Before:
    """Return what the stored frames say."""
    context = stream_context(order, record.accepted.node_nonce)
    opener = FrameOpener(opened.keys, context, opened.shape)
    frames = [opener.open(ciphertext) for ciphertext in record.frames]
    return Before(
        frames=record.frames,
        tokens=tuple(token for frame in frames for token in frame.tokens),
        text="".join(frame.text for frame in frames),
    )


def _failed(accepted: AcceptedRecord, before: Before, h_final: bytes) -> Outcome:
    usage = Usage(
        input=accepted.prompt_tokens,
        cached=0,
        output=len(before.tokens),
        energy_quality=EnergyQuality.UNMEASURED,
    )
    ended = max(accepted.started, now_ms())  # the clock that ran meanwhile is gone with its process
    return Outcome(Finish.FAILED, usage, h_final, before.tokens, ended)
