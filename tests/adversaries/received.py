"""What a client makes of an answer: the checks of its program, and what opens whatever they say."""

import contextlib
from collections.abc import Sequence

from execution_layer.client.response_check import Response, Sent, StreamReader, check_response
from execution_layer.node.tape import AcceptedEvent, Event, FinalEvent, FrameEvent
from shared.codec.moment import now_ms
from shared.envelope.evidence import Evidence, open_evidence
from shared.envelope.stream import FinalRecord, Frame, FrameOpener
from shared.runtime.errors import Code, CounterfoilError
from shared.text.prompt import prompt_ids
from shared.text.stream import SaidText
from shared.text.tokenizer import Tokenizer


def objection(sent: Sent, events: Sequence[Event], tokenizer: Tokenizer) -> CounterfoilError | None:
    """Return what a client with the tokenizer says against an answer."""
    body = sent.opened.body
    said = SaidText(tokenizer, body.settings.stop, body.settings.stop_token_ids)
    reader: StreamReader | None = None
    try:
        for event in events:
            if isinstance(event, AcceptedEvent):
                reader = StreamReader(sent, event.node_nonce, event.signature, said)
                continue
            assert reader is not None
            if isinstance(event, FrameEvent):
                reader.frame(event.index, event.ciphertext, event.signature)
                continue
            final = reader.final(event.ciphertext, event.signature)
            response = Response.of(sent, reader, final)
            check_response(response, now_ms(), lambda: prompt_ids(tokenizer, body))
            return None
    except CounterfoilError as error:
        return error
    return CounterfoilError(Code.UNAVAILABLE, "the stream ended without a final record")


def as_received(
    sent: Sent, events: Sequence[Event]
) -> tuple[tuple[Frame, ...], FinalRecord | None, Evidence | None]:
    """Open what the client received as far as it opens, whatever else is wrong with it."""
    frames: list[Frame] = []
    final: FinalRecord | None = None
    evidence: Evidence | None = None
    accepted = next(event for event in events if isinstance(event, AcceptedEvent))
    context = sent.context(accepted.node_nonce)
    opener = FrameOpener(sent.opened.keys, context, sent.opened.shape)
    with contextlib.suppress(CounterfoilError):
        for event in events:
            if isinstance(event, FrameEvent):
                frames.append(opener.open(event.ciphertext))
            elif isinstance(event, FinalEvent):
                final = opener.open_final(event.ciphertext)
                if final.evidence is not None:
                    evidence = open_evidence(final.evidence, sent.opened.keys, context)
    return tuple(frames), final, evidence
