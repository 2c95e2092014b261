"""After a crash or a full disk: every accepted request gets the receipt that it is owed."""

import logging

from execution_layer.node.drafts import Outcome, ReceiptSigner, draft_receipt, stream_context
from execution_layer.node.request_records import UnfinishedRecord
from execution_layer.node.store import NodeStore
from shared.codec.moment import now_ms
from shared.envelope.sealing import open_with_secret
from shared.envelope.secrets import TranscriptKeys
from shared.envelope.stream import FrameOpener
from shared.statements.cose import open_as
from shared.statements.orders import Order
from shared.statements.receipts import EnergyQuality, Finish, Usage

_log = logging.getLogger(__name__)


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
        keys, outcome = _outcome(record)
        signed = await store.finish(
            record.id,
            draft_receipt(record.accepted, keys, outcome),
            sign=signer.receipt,
            seal_final=None,
        )
        _log.warning(
            "a request was interrupted; its receipt says failed",
            extra={"node_sequence": signed.sequence, "output_tokens": outcome.usage.output},
        )
    return len(interrupted)


def _outcome(record: UnfinishedRecord) -> tuple[TranscriptKeys, Outcome]:
    accepted = record.accepted
    order, _ = open_as(Order, accepted.order, None)
    opened = open_with_secret(accepted.envelope, accepted.secret)
    keys, context = opened.keys, stream_context(order, accepted.node_nonce)
    opener = FrameOpener(keys, context, opened.shape)
    tokens = tuple(token for frame in record.frames for token in opener.open(frame).tokens)
    usage = Usage(
        input=accepted.prompt_tokens,
        cached=0,
        output=len(tokens),
        energy_quality=EnergyQuality.UNMEASURED,
    )
    ended = max(accepted.started, now_ms())  # the clock that ran meanwhile is gone with its process
    return keys, Outcome(Finish.FAILED, usage, opener.h_final, tokens, ended)
