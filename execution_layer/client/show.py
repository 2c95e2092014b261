"""How the archive shows an attempt."""

from typing import Any

from execution_layer.client.archive import Transcript
from execution_layer.client.part_records import Part
from shared.codec.moment import to_rfc3339
from shared.envelope.body import settings_map
from shared.envelope.sealing import OpenedRequest, open_with_secret
from shared.envelope.stream import FrameOpener, StreamContext
from shared.statements.cose import open_as
from shared.statements.orders import Order


def brief(item: Transcript) -> dict[str, Any]:
    """Return an attempt's facts for a list; no plaintext."""
    return {
        "number": item.number,
        "attempt": item.attempt,
        "node": item.node,
        "state": item.state.value,
        "created": to_rfc3339(item.created),
        "order": item.order_entry.hex(),
        "receipt": None if item.receipt_entry is None else item.receipt_entry.hex(),
        "refusal": None if item.refusal_entry is None else item.refusal_entry.hex(),
        "log_index": item.log_index,
        "tags": item.tags,
        "problem": item.problem,
        **({"stages": [_stage(part) for part in item.parts]} if item.parts else {}),
    }


def _stage(part: Part) -> dict[str, Any]:
    return {
        "place": part.place,
        "node": part.node,
        "order": part.order_entry.hex(),
        "receipt": None if part.receipt_entry is None else part.receipt_entry.hex(),
        "log_index": part.log_index,
    }


def full(item: Transcript) -> dict[str, Any]:
    """Return everything readable: the request, and as much of the answer as arrived."""
    opened = open_with_secret(item.envelope, item.secret)
    body = opened.body
    return {
        **brief(item),
        "prompt": body.prompt,
        "messages": [{"role": m.role, "content": m.content} for m in body.messages],
        "settings": settings_map(body.settings),
        "choice": body.choice,
        "text": _text(item, opened),
        "proved": item.proof is not None,
    }


def _text(item: Transcript, opened: OpenedRequest) -> str | None:
    if item.node_nonce is None:
        return None
    order, _ = open_as(Order, item.order_statement, None)
    context = StreamContext(order.ctx, order.kc, item.bundle, item.node_nonce, item.attempt)
    opener = FrameOpener(opened.keys, context, opened.shape)
    return "".join(opener.open(frame).text for frame in item.frames)
