"""A chain whose stages are on other machines, as its first stage connects it."""

import os
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import grpc

from execution_layer.pipeline.boundary import Boundary
from execution_layer.pipeline.line import Arrived, Line, StageLike, StageLine
from execution_layer.pipeline.service import CHAIN_BYTES, CHAIN_S
from execution_layer.pipeline.wire import from_message, to_message
from shared.proto.counterfoil.execution.v1 import stages_pb2, stages_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc

READY_S: Final = 20.0
Reach = Callable[[str], grpc.Channel]
"""Returns a channel to a stage at host:port."""


@dataclass(frozen=True, slots=True)
class Place:
    """A stage of a chain: where it is, and the layers [first, last) that it computes."""

    address: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Ask:
    """What all stages of a chain are asked for."""

    model_root: bytes
    numeric_profile: bytes
    width: int
    blocks: int
    rows: int
    steps: int


class _Joined:
    """One stage that was joined, for as long as the call lasts."""

    def __init__(
        self,
        channel: grpc.Channel,
        place: Place,
        opened: stages_pb2.StageOpen,
        width: int,
        out: Arrived,
    ) -> None:
        """`out` gets the steps that come back through this call, and what ends it."""
        self._channel, self._place, self._width, self._out = channel, place, width, out
        self._is_last, self._is_ready = not opened.next, False
        self._requests: queue.SimpleQueue[stages_pb2.JoinRequest | None] = queue.SimpleQueue()
        self._requests.put(stages_pb2.JoinRequest(open=opened))
        self._ready: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self._call: Any = stages_pb2_grpc.StagesStub(channel).Join(
            iter(self._requests.get, None), timeout=CHAIN_S
        )
        threading.Thread(target=self._read, name=f"stage {place.address}", daemon=True).start()

    def ready(self) -> Self:
        """Return once the stage is ready; raises what prevents it."""
        try:
            failed = self._ready.get(timeout=READY_S)
        except queue.Empty:
            failed = CounterfoilError(
                Code.UNAVAILABLE,
                f"the stage at {self._place.address} is not ready within {READY_S:g} s",
            )
        if failed is not None:
            self.close()
            raise failed
        return self

    def send(self, arrived: Boundary | Exception) -> None:
        """Send a step; an error ends the chain."""
        if isinstance(arrived, Boundary):
            self._requests.put(stages_pb2.JoinRequest(step=to_message(arrived)))
        else:
            self._out(arrived)

    def close(self) -> None:
        """Let go of the stage."""
        self._requests.put(None)
        self._call.cancel()
        self._channel.close()

    def _read(self) -> None:
        who = f"the stage at {self._place.address}"
        try:
            wrong = self._listen()
        except grpc.RpcError as error:
            over = error_from_rpc(error, who)
        except CounterfoilError as error:
            over = error
        else:
            over = CounterfoilError(
                Code.MALFORMED if wrong else Code.UNAVAILABLE, f"{who} {wrong or 'has gone'}"
            )
        if self._is_ready:
            self._out(over)
        else:
            self._ready.put(over)

    def _listen(self) -> str:
        """Pass on what comes; return what is wrong with it, or nothing at the call's end."""
        for message in self._call:
            what = message.WhichOneof("what")
            if not self._is_ready and what == "ready":
                self._is_ready = True
                self._ready.put(None)
            elif self._is_ready and self._is_last and what == "step":
                self._out(from_message(message.step, self._width))
            else:
                return "says what is not due"
        return ""


class RemoteLine:
    """A connected chain: the node's own layers, if it has any, and then the stages elsewhere."""

    def __init__(self, into: Arrived, own: StageLine | None, joined: Sequence[_Joined]) -> None:
        self._into, self._own, self._joined = into, own, joined

    @classmethod
    def connect(
        cls, own: StageLike | None, places: Sequence[Place], ask: Ask, reach: Reach, out: Arrived
    ) -> Line:
        """Join all stages, the last one first: each is ready for the states of the one before. Raises what prevents it."""
        chain = os.urandom(CHAIN_BYTES)
        joined: list[_Joined] = []
        after = ""
        try:
            for place in reversed(places):
                opened = stages_pb2.StageOpen(
                    chain=chain,
                    model_root=ask.model_root,
                    numeric_profile=ask.numeric_profile,
                    first=place.first,
                    last=place.last,
                    blocks=ask.blocks,
                    rows=ask.rows,
                    steps=ask.steps,
                    next=after,
                    joined_first=place is places[0],
                )
                channel = reach(place.address)
                joined.append(_Joined(channel, place, opened, ask.width, out).ready())
                after = place.address
        except BaseException:
            for one in joined:
                one.close()
            raise
        first = joined[-1]
        if own is None:
            return cls(first.send, None, joined)
        line = StageLine(own, ask.blocks, ask.width, ask.rows, first.send)
        return cls(line.send, line, joined)

    def send(self, boundary: Boundary) -> None:
        """Let a boundary in."""
        self._into(boundary)

    def close(self) -> None:
        """Let go of all stages."""
        for one in self._joined:
            one.close()
        if self._own is not None:
            self._own.close()
