"""One HTTP/1.1 connection that does not wait forever: uvicorn's own timeouts start only after a response."""

import asyncio
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from shared.runtime.party import Party, party_in
from shared.runtime.traffic import Gate, peer_of

MAX_HEAD_BYTES: Final = 32 * 2**10
_TIMEOUT: Final = 408


def _party(transport: asyncio.Transport) -> Party | None:
    """Return the party whose certificate the caller has shown; TLS has verified it."""
    secure = transport.get_extra_info("ssl_object")
    shown = None if secure is None else secure.getpeercert(binary_form=True)
    return party_in(shown) if shown else None


class Connection(H11Protocol):
    """Ends a connection whose request does not arrive in time, whose response nobody reads, or that exceeds the limit.
    A request's head must arrive within `head_s` seconds of the connection or of the head's first byte, and its body within
    `body_s` seconds of the head, even if the request was already answered: the rest of the body is discarded, because a
    client that is still writing would not see the response otherwise. A client that has stopped reading gets as long.
    """

    def __init__(self, *args: Any, gate: Gate, **options: Any) -> None:
        super().__init__(*args, **options)
        self._gate = gate
        self._peer: str | None = None
        """The peer whose place this connection takes."""
        self._awaited: object = None
        """The state of the request for which `_arrival` was set."""
        self._arrival: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's signature
        """Take a place, and wait for the first request."""
        super().connection_made(transport)
        peer = peer_of(self.client[0]) if self.client else ""
        if not self._gate.connections.take(peer):
            transport.abort()
            return
        self._peer = peer
        self.app_state = {**self.app_state, "party": _party(transport)}
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the place."""
        for timer in (self._arrival, self._reading):
            if timer is not None:
                timer.cancel()
        if self._peer is not None:
            self._gate.connections.give(self._peer)
            self._peer = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Continue with the request."""
        if self._peer is None:  # refused; the transport is about to end
            return
        super().data_received(data)
        self._await_request()

    def pause_writing(self) -> None:
        """Wait for a client that does not read, but not forever."""
        super().pause_writing()
        self._reading = self._reading or self.loop.call_later(
            self._gate.traffic.body_s, self.transport.abort
        )

    def resume_writing(self) -> None:
        """Continue with the response."""
        super().resume_writing()
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _await_request(self) -> None:
        """Set the time by which the head, or the body, must have arrived."""
        state = self.conn.their_state
        if state is self._awaited and self._arrival is not None:
            return
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None
        self._awaited = state
        traffic = self._gate.traffic
        if state is h11.SEND_BODY:
            self._arrival = self.loop.call_later(traffic.body_s, self._end, "body")
        elif state is h11.IDLE and self.timeout_keep_alive_task is None:
            self._arrival = self.loop.call_later(traffic.head_s, self._end, "head")

    def on_response_complete(self) -> None:
        """Forget the request that was answered; the next one, if it has begun to arrive, has its own deadline."""
        super().on_response_complete()
        self._await_request()

    def _end(self, part: str) -> None:
        """Answer 408 if nothing was answered yet, and close."""
        self._arrival = None
        if self.transport.is_closing():
            return
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            text = f"The {part} of the request did not arrive in time.\n".encode()
            head = [
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", str(len(text)).encode()),
                (b"connection", b"close"),
            ]
            answer = h11.Response(
                status_code=_TIMEOUT, headers=head, reason=STATUS_PHRASES[_TIMEOUT]
            )
            for event in (answer, h11.Data(data=text), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
