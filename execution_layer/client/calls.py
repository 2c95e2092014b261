"""The calls of one response: the one that began it, and those that resume it on the same node (protocol §4.9)."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc

from execution_layer.client.contradiction import Contradiction, contradiction
from execution_layer.client.receiving import Receiving
from shared.codec.moment import now_ms
from shared.proto.counterfoil.execution.v1 import execution_pb2, execution_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc
from shared.runtime.keys import Signer
from shared.statements.resumption import sign_resumption

LIES: Final = frozenset(
    {
        Code.UNREADABLE,
        Code.BAD_SIGNATURE,
        Code.MALFORMED,
        Code.COMMITMENT_MISMATCH,
        Code.EQUIVOCATION,
    }
)
"""Errors of an answer that cannot be believed; nobody asks its node for more of it."""
PASSING: Final = frozenset(
    {
        Code.UNAVAILABLE,
        Code.DRAINING,
        Code.OVERLOADED,
        Code.QUOTA,
        Code.INTERNAL,
        Code.CANCELLED,
        Code.DEADLINE,
    }
)
"""Errors of a call that the next one may not have."""
ANSWER_S: Final = 5.0
"""How long a node may take to begin to answer a wish to resume."""
COMPARE_S: Final = 10.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
Messages = AsyncIterable[execution_pb2.GenerateResponse]
Reach = Callable[[bool], Awaitable[grpc.aio.Channel]]
"""Returns a channel to the node; with True, to where the directory says that it is now."""
OnPause = Callable[[CounterfoilError], None]


@dataclass(frozen=True, slots=True)
class Patience:
    """How a stream that breaks is resumed on its node: for up to `seconds` (0: not at all) without anything new."""

    seconds: float
    reach: Reach
    on_pause: OnPause | None = None
    """Called once for every break."""


class Calls:
    """Receives one response, over as many calls as it takes. `timeout_s` is the longest that one may last."""

    def __init__(
        self,
        order: bytes,
        key: Signer,
        receiving: Receiving,
        patience: Patience,
        timeout_s: float,
    ) -> None:
        self._order = order
        self._key = key
        self._receiving = receiving
        self._patience = patience
        self._timeout_s = timeout_s
        self.over = False
        """Whether the node, or the network, ended the last call."""
        self.contradiction: Contradiction | None = None
        """What the node signed a second time, differently."""
        self._last: execution_pb2.GenerateResponse | None = None
        self._broken: CounterfoilError | None = None
        """What broke the stream, until something new comes."""
        self._asked = 0
        """How often it has been asked for since."""
        self._until = 0.0
        """When that has lasted too long."""

    async def receive(self, call: Any, on_accepted: Callable[[], None]) -> None:
        """Read `call` (None: resume at once) to the final record, resuming the response whenever it breaks.

        Raises what cannot be believed, EQUIVOCATION if the node has signed two different values, or the break that lasted
        too long.
        """
        resumed = call is None
        while True:
            try:
                if call is None:
                    call = await self._ask(len(self._receiving.opened))
                await self._read(call, on_accepted, resumed=resumed)
            except (grpc.RpcError, CounterfoilError) as error:
                if isinstance(error, grpc.RpcError) and self._receiving.response is not None:
                    self.over = True  # whole and signed: how the call ends after that says nothing
                    return
                said = error if isinstance(error, CounterfoilError) else error_from_rpc(error)
            else:
                self.over = True
                return
            finally:
                if call is not None:
                    with contextlib.suppress(Exception):
                        call.cancel()
            self.over = said.code not in LIES
            if resumed and said.code in {*LIES, Code.CONFLICT}:
                await self._accuse(said)
            if said.code in LIES:
                raise said
            await self._wait_out(said, resumed=resumed)
            call, resumed = None, True

    async def _read(
        self, call: Messages, on_accepted: Callable[[], None], *, resumed: bool
    ) -> None:
        receiving = self._receiving
        receiving.begin()
        try:
            async with asyncio.timeout(ANSWER_S if resumed else None) as waiting:
                async for message in call:
                    waiting.reschedule(None)
                    accepted, known = receiving.accepted, len(receiving.opened)
                    self.over, self._last = False, message
                    receiving.take(message)
                    if not accepted:
                        on_accepted()
                    if len(receiving.opened) > known:
                        self._broken = None
        except TimeoutError as error:
            if not waiting.expired():
                raise
            raise CounterfoilError(Code.UNAVAILABLE, "the node does not answer") from error
        if receiving.response is None:
            raise CounterfoilError(Code.UNAVAILABLE, "the stream ended without a final record")

    async def _wait_out(self, said: CounterfoilError, *, resumed: bool) -> None:
        """Return when it is time to ask for the rest; raise if there is no point in it, or no more time."""
        first, now = self._broken or said, time.monotonic()
        if said.code not in PASSING and self._broken is not None:
            raise CounterfoilError(
                Code.UNAVAILABLE, f"{first.detail}; the rest cannot be had: {said.detail}"
            ) from said
        began = resumed or self._receiving.accepted
        if said.code not in PASSING or not began or not self._patience.seconds:
            raise said
        if self._broken is None:
            self._broken, self._asked, self._until = said, 0, now + self._patience.seconds
            if self._patience.on_pause is not None:
                self._patience.on_pause(said)
        if now >= self._until:
            raise first
        pause_s = max(min(FIRST_PAUSE_S * 2**self._asked, LONGEST_PAUSE_S), said.retry_after_s or 0)
        await asyncio.sleep(min(pause_s, self._until - now))
        self._asked += 1

    async def _ask(self, frames: int) -> Any:
        """Call the node for what follows the first `frames` frames."""
        channel = await self._patience.reach(self._asked > 1)
        at = now_ms()
        wish = execution_pb2.ResumeRequest(
            order=self._order,
            frames=frames,
            at=at,
            signature=sign_resumption(self._order, frames, at, self._key),
        )
        return execution_pb2_grpc.InferenceStub(channel).Resume(wish, timeout=self._timeout_s)

    async def _accuse(self, said: CounterfoilError) -> None:
        """Raise EQUIVOCATION if the node has signed something else than it had; a look at the whole response may show it."""
        found = self._contradicts(self._last)
        if found is None:
            with contextlib.suppress(grpc.RpcError, CounterfoilError, TimeoutError):
                async with asyncio.timeout(COMPARE_S):
                    found = await self._compared()
        if found is None:
            return
        self.contradiction = found
        what = "another beginning" if found.position == 0 else f"another frame {found.position}"
        raise CounterfoilError(
            Code.EQUIVOCATION,
            f"the resumed stream differs: its node has signed {what} of the same response before",
            remedy="The archive keeps both; together they are evidence against the node.",
        ) from said

    async def _compared(self) -> Contradiction | None:
        """Read the whole response again, as far as this client has it; return the first thing that differs."""
        call, left = await self._ask(0), len(self._receiving.opened)
        try:
            async for message in call:
                if (found := self._contradicts(message)) is not None or not left:
                    return found
                left -= 1
        finally:
            call.cancel()
        return None

    def _contradicts(self, message: execution_pb2.GenerateResponse | None) -> Contradiction | None:
        receiving = self._receiving
        if message is None or receiving.node_nonce is None:
            return None
        mine = [ciphertext for ciphertext, _ in receiving.frames[: len(receiving.opened)]]
        return contradiction(receiving.sent, receiving.node_nonce, mine, message)
