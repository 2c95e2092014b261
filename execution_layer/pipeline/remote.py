"""A chain whose stages are on other machines, as its first stage connects it."""

import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, Self

import grpc

from execution_layer.pipeline.boundary import Boundary
from execution_layer.pipeline.line import (
    Arrived,
    Computing,
    StageLike,
    StageLine,
    named,
    noted,
)
from execution_layer.pipeline.service import CHAIN_BYTES, CHAIN_S
from execution_layer.pipeline.wire import from_message, to_message
from shared.proto.counterfoil.execution.v1 import stages_pb2, stages_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc

READY_S: Final = 20.0
_log = logging.getLogger(__name__)
Reach = Callable[[str], grpc.Channel]
"""Returns a channel to a stage at host:port."""


@dataclass(frozen=True, slots=True)
class Place:
    """A stage of a chain: where it is, and the layers [first, last) that it computes."""

    address: str
    first: int
    last: int
    spares: tuple[str, ...] = ()
    """Where else a stage computes these layers, if this one is not ready."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What all stages of a chain are asked for."""

    model_root: bytes
    numeric_profile: bytes
    width: int
    blocks: int
    rows: int
    steps: int
    accountable: bool = False
    """Whether states travel sealed, each part under an order of its own."""


class Codec(Protocol):
    """How boundaries travel to the first stage, and from the last one."""

    def encode(self, boundary: Boundary) -> stages_pb2.StageStep:
        """Return a boundary as it is sent."""

    def decode(self, step: stages_pb2.StageStep) -> Boundary:
        """Return what was sent; MALFORMED or UNREADABLE for anything else."""


class _Plain:
    """Whole, for stages of one's own."""

    def __init__(self, width: int) -> None:
        self._width = width

    def encode(self, boundary: Boundary) -> stages_pb2.StageStep:
        return to_message(boundary)

    def decode(self, step: stages_pb2.StageStep) -> Boundary:
        return from_message(step, self._width)


class _Joined:
    """One stage that was joined, for as long as the call lasts."""

    def __init__(
        self,
        channel: grpc.Channel,
        place: Place,
        opened: stages_pb2.StageOpen,
        codec: Codec,
        out: Arrived,
    ) -> None:
        """`out` gets the steps that come back through this call, and what ends it."""
        self._channel, self._place, self._codec, self._out = channel, place, codec, out
        self._is_last = self._is_ready = False
        self._requests: queue.SimpleQueue[stages_pb2.JoinRequest | None] = queue.SimpleQueue()
        self._requests.put(stages_pb2.JoinRequest(open=opened))
        self._ready: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self._call: Any = stages_pb2_grpc.StagesStub(channel).Join(
            iter(self._requests.get, None), timeout=CHAIN_S
        )
        threading.Thread(target=self._read, name=f"stage {place.address}", daemon=True).start()

    @property
    def address(self) -> str:
        """Where it is."""
        return self._place.address

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

    def go(self, after: str) -> None:
        """Say which stage follows (host:port, empty for none), once all are ready."""
        self._is_last = not after
        self._requests.put(stages_pb2.JoinRequest(go=stages_pb2.StageGo(next=after)))

    def send(self, arrived: Boundary | Exception) -> None:
        """Send a step; an error ends the chain."""
        if isinstance(arrived, Boundary):
            try:
                step = self._codec.encode(arrived)
            except CounterfoilError as error:
                self._out(error)
            else:
                self._requests.put(stages_pb2.JoinRequest(step=step))
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
                self._out(self._codec.decode(message.step))
            else:
                return "says what is not due"
        return ""


def _join_any(
    place: Place, opened: stages_pb2.StageOpen, reach: Reach, codec: Codec, out: Arrived
) -> _Joined:
    """Join the first stage of a place that is ready. Raises what prevents the last one."""
    failed: CounterfoilError | None = None
    for address in (place.address, *place.spares):
        at = replace(place, address=address)
        try:
            return _Joined(reach(address), at, opened, codec, out).ready()
        except CounterfoilError as error:
            _log.debug("a stage cannot be joined", extra={"stage": address, "error": str(error)})
            failed = error
    assert failed is not None
    raise failed


def _all(join: Callable[[Place], _Joined], places: Sequence[Place]) -> list[_Joined]:
    """Join all places at the same time; if one cannot be joined, let go of the others and raise why."""
    with ThreadPoolExecutor(len(places)) as pool:
        joining = [pool.submit(join, place) for place in places]
    failed = next((error for one in joining if (error := one.exception()) is not None), None)
    if failed is None:
        return [one.result() for one in joining]
    for one in joining:
        if one.exception() is None:
            one.result().close()
    raise failed


class RemoteLine:
    """A connected chain: the node's own layers, if it has any, and then the stages elsewhere."""

    def __init__(
        self, into: Arrived, own: StageLine[Boundary] | None, joined: Sequence[_Joined]
    ) -> None:
        self._into, self._own, self._joined = into, own, joined

    @classmethod
    def connect(
        cls,
        own: StageLike | None,
        places: Sequence[Place],
        ask: Ask,
        reach: Reach,
        out: Arrived,
        codec: Codec | None = None,
    ) -> "RemoteLine":
        """Join all stages at once, and let them begin when all are ready. Raises what prevents it.

        `codec` is what an accountable chain's connection has.
        """
        assert ask.accountable == (codec is not None)
        codec = codec or _Plain(ask.width)
        chain = os.urandom(CHAIN_BYTES)

        def join(place: Place) -> _Joined:
            opened = stages_pb2.StageOpen(
                chain=chain,
                model_root=ask.model_root,
                numeric_profile=ask.numeric_profile,
                first=place.first,
                last=place.last,
                blocks=ask.blocks,
                rows=ask.rows,
                steps=ask.steps,
                joined_first=place is places[0],
                accountable=ask.accountable,
            )
            return _join_any(place, opened, reach, codec, out)

        joined = _all(join, places)
        for one, after in zip(joined, [*(each.address for each in joined[1:]), ""], strict=True):
            one.go(after)
        first = joined[0]
        if own is None:
            return cls(first.send, None, joined)
        work = Computing(own, ask.blocks, ask.width, ask.rows)
        line = StageLine(named(own), work, first.send, noted)
        return cls(line.send, line, joined)

    @property
    def addresses(self) -> list[str]:
        """Where the stages are that were joined, in order; spares among them."""
        return [one.address for one in self._joined]

    def send(self, boundary: Boundary) -> None:
        """Let a boundary in."""
        self._into(boundary)

    def close(self) -> None:
        """Let go of all stages."""
        for one in self._joined:
            one.close()
        if self._own is not None:
            self._own.close()
