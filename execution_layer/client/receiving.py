"""One response as it arrives, over as many calls as it takes. Pure."""

import time
from collections.abc import Callable

from execution_layer.client.archive import Received
from execution_layer.client.response_check import Response, Said, Sent, StreamReader
from shared.envelope.stream import Frame
from shared.proto.counterfoil.execution.v1 import execution_pb2
from shared.runtime.errors import Code, CounterfoilError


class Receiving:
    """What has come back: as it was sent, and opened. `said` creates a reader of the text, if the client has the tokenizer;
    `on_text` gets every text once.
    """

    def __init__(
        self,
        sent: Sent,
        said: Callable[[], Said] | None,
        on_text: Callable[[str], None] | None,
    ) -> None:
        self.sent = sent
        self._said = said
        self._on_text = on_text
        self._reader: StreamReader | None = None
        self._signature: bytes | None = None
        """Over h_0."""
        self.frames: list[tuple[bytes, bytes]] = []
        """(ciphertext, signature) in order; the last one may be one that was refused."""
        self.opened: list[Frame] = []
        """What opened under the chain and was signed."""
        self._final: tuple[bytes, bytes] | None = None
        self.response: Response | None = None
        """Once the final record has been opened."""
        self.first_token_at: float | None = None
        self.node_nonce: bytes | None = None
        self.calls = 0
        self._begun = False
        """Whether the call under way has repeated the acceptance."""

    @property
    def accepted(self) -> bool:
        """Whether the node said that it accepted the request."""
        return self.node_nonce is not None

    def received(self) -> Received:
        """Return everything for the archive, even if it is not believed."""
        sealed, signature = self._final or (None, None)
        return Received(self.node_nonce, self._signature, tuple(self.frames), sealed, signature)

    def begin(self) -> None:
        """Begin another call: what comes next is the acceptance."""
        self.calls += 1
        self._begun = False

    def recall(self, kept: Received) -> None:
        """Take what an earlier process has received of this response."""
        if kept.node_nonce is None:
            return
        self._accept(kept.node_nonce, kept.accepted_signature or b"")
        for index, (ciphertext, signature) in enumerate(kept.frames, start=1):
            self._frame(index, ciphertext, signature)

    def take(self, message: execution_pb2.GenerateResponse) -> None:
        """Take the next message; UNREADABLE, BAD_SIGNATURE, MALFORMED or COMMITMENT_MISMATCH if it cannot be believed."""
        event = message.WhichOneof("event")
        if self.response is not None:
            raise CounterfoilError(Code.MALFORMED, "the node sent something after the final record")
        if not self._begun:
            if event != "accepted":
                raise CounterfoilError(
                    Code.MALFORMED, "the stream does not begin with the acceptance"
                )
            self._accept(message.accepted.node_nonce, message.accepted.signature)
            self._begun = True
        elif event == "frame":
            frame = message.frame
            self._frame(frame.index, frame.ciphertext, frame.signature)
        elif event == "final_record":
            self._end(message.final_record.ciphertext, message.final_record.signature)
        else:
            raise CounterfoilError(Code.MALFORMED, "the node accepted the request twice")

    def _accept(self, node_nonce: bytes, signature: bytes) -> None:
        if self.node_nonce is not None and node_nonce != self.node_nonce:
            raise CounterfoilError(
                Code.COMMITMENT_MISMATCH, "the resumed stream has another nonce than it began with"
            )
        if self._reader is None:
            self.node_nonce, self._signature = node_nonce, signature
            said = None if self._said is None else self._said()
            self._reader = StreamReader(self.sent, node_nonce, signature, said)

    def _frame(self, index: int, ciphertext: bytes, signature: bytes) -> None:
        assert self._reader is not None
        self.frames.append((ciphertext, signature))
        frame = self._reader.frame(index, ciphertext, signature)
        self.opened.append(frame)
        if frame.tokens and self.first_token_at is None:
            self.first_token_at = time.monotonic()
        if frame.text and self._on_text is not None:
            self._on_text(frame.text)

    def _end(self, sealed: bytes, signature: bytes) -> None:
        assert self._reader is not None
        self._final = sealed, signature
        self.response = Response.of(self.sent, self._reader, self._reader.final(sealed, signature))
