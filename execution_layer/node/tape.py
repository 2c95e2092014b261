"""The events of one response, for any number of readers, each at its own pace.

All frames are in the store, and the newest ones in memory too: a reader that is behind reads from the store. So a reader
costs no memory however slow it is, and never the engine's time.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from execution_layer.node.drafts import ReceiptSigner
from execution_layer.node.store import NodeStore
from execution_layer.node.stored_streams import frames_after
from shared.envelope.stream import (
    StreamContext,
    final_signature_message,
    next_hash,
    stream_signature_message,
)
from shared.runtime.errors import Code, CounterfoilError

NEWEST: Final = 16
"""Frames that are kept in memory."""
PAGE: Final = 64
"""Frames that are read from the store at a time."""


@dataclass(frozen=True, slots=True)
class AcceptedEvent:
    """The request is accepted and stored. `signature` covers h_0."""

    node_nonce: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class FrameEvent:
    """A sealed frame; `signature` covers h_index."""

    index: int
    ciphertext: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class FinalEvent:
    """The sealed final record, which contains the receipt, and the node's signature over it."""

    ciphertext: bytes
    signature: bytes


Event = AcceptedEvent | FrameEvent | FinalEvent


@dataclass(frozen=True, slots=True)
class StreamSigner:
    """Signs what belongs to one response (protocol §4.2)."""

    context: StreamContext
    signer: ReceiptSigner

    def accepted(self) -> AcceptedEvent:
        """Return the beginning of the response."""
        return AcceptedEvent(self.context.node_nonce, self._sign(0, self.context.h_0))

    def frame(self, index: int, ciphertext: bytes, h: bytes) -> FrameEvent:
        """Return a frame, given h_index. Repeated, it is the same: the signatures are deterministic."""
        return FrameEvent(index, ciphertext, self._sign(index, h))

    def final(self, h_final: bytes, sealed: bytes) -> bytes:
        """Return the signature over the sealed final record."""
        return self.signer.message(final_signature_message(self.context, h_final, sealed))

    def _sign(self, index: int, h: bytes) -> bytes:
        return self.signer.message(stream_signature_message(self.context, index, h))


class Tape:
    """One response, stored and to come. Belongs to one event loop."""

    def __init__(self, store: NodeStore, request: int, signer: StreamSigner, frames: int) -> None:
        self._store = store
        self._request = request
        self._signer = signer
        self._frames = frames
        """How many frames there are."""
        self._newest: deque[FrameEvent] = deque(maxlen=NEWEST)
        self._ended = False
        self._final: FinalEvent | None = None
        self._news = asyncio.Event()
        """Set, and replaced, whenever something has changed."""

    def add(self, frame: FrameEvent) -> None:
        """Let readers have the next frame, which is stored."""
        assert frame.index == self._frames + 1
        self._newest.append(frame)
        self._frames = frame.index
        self.wake()

    def end(self, final: FinalEvent | None) -> None:
        """End the response, with its final record if there is one; a second end changes nothing."""
        if not self._ended:
            self._ended, self._final = True, final
            self.wake()

    def wake(self) -> None:
        """Let readers look whether they are still wanted."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def read(
        self, after: int = 0, wanted: Callable[[], bool] = lambda: True
    ) -> AsyncIterator[Event]:
        """Yield the acceptance, the frames behind the first `after`, and the final record, waiting for what is to come.

        It ends early once `wanted` says no, which it is asked before every event.
        """
        yield self._signer.accepted()
        index, h = 0, self._signer.context.h_0
        while wanted():
            news = self._news
            for frame in self._following(index):
                index, h = frame.index, next_hash(h, frame.ciphertext)
                if index <= after:
                    continue
                if not wanted():
                    return
                yield frame if frame.signature else self._signer.frame(index, frame.ciphertext, h)
            if index < self._frames:
                await asyncio.sleep(0)  # a long response is read again beside others
            elif not self._ended:
                await news.wait()
            else:
                if self._final is not None:
                    yield self._final
                return

    def _following(self, index: int) -> list[FrameEvent]:
        """Return some of the frames behind `index`; those from the store are not signed."""
        if index == self._frames:
            return []
        if self._newest and self._newest[0].index <= index + 1:
            return [frame for frame in self._newest if frame.index > index]
        limit = min(PAGE, self._frames - index)
        found = self._store.journal.read(lambda db: frames_after(db, self._request, index, limit))
        if not found:  # a frame is stored before it is announced, so it was there
            raise CounterfoilError(Code.NOT_FOUND, "the response is no longer kept here")
        return [FrameEvent(position, ciphertext, b"") for position, ciphertext in found]
