"""gRPC: `counterfoil.execution.v1.Stages`. One chain at a time has the stage; a caller's next chain replaces its earlier one."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

import grpc

from execution_layer.pipeline.boundary import Spent
from execution_layer.pipeline.counts import StageCounts
from execution_layer.pipeline.line import Computing, StageLike, StageLine, named
from execution_layer.pipeline.parts import Counts, Offered, Parts
from execution_layer.pipeline.sealed import SealedStage, Tracks
from execution_layer.pipeline.wire import add_spent, from_message, to_message
from shared.proto.counterfoil.execution.v1 import stages_pb2, stages_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc
from shared.runtime.grpc_access import calling_party

CHAIN_S: Final = 24 * 3600.0
"""How long one call may last; a first stage connects again after that."""
CHAIN_BYTES: Final = 32
MOST_STEPS: Final = 256
GIVE_WAY_S: Final = 10.0
"""How long a chain waits for the one before it, which has been told to go."""
Context = grpc.aio.ServicerContext[Any, Any]
Reach = Callable[[str], grpc.aio.Channel]
"""Returns a channel to a stage at host:port."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a stage computes, and for whom."""

    stage: StageLike
    model_root: bytes
    numeric_profile: bytes
    width: int
    blocks: int
    """It has memory for at most so many blocks of keys and values."""
    rows: int
    """Of one step, at most."""
    callers: Collection[str]
    """Names of the nodes that may use it."""
    size: int = 0
    """Positions in a block of keys and values."""

    def check(self, asked: stages_pb2.StageOpen) -> None:
        """Raise unless this is what is asked for: UNKNOWN_MODEL or INVALID_ARGUMENT."""
        first, last = self.stage.first, self.stage.last
        if asked.model_root != self.model_root:
            raise CounterfoilError(Code.UNKNOWN_MODEL, "this stage has layers of another model")
        if asked.numeric_profile != self.numeric_profile:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT,
                "this stage computes in another numeric profile",
                remedy="Set the same `arithmetic` for all stages of a chain.",
            )
        if (asked.first, asked.last) != (first, last):
            raise CounterfoilError(
                Code.INVALID_ARGUMENT,
                f"this stage computes layers {first}:{last}, not {asked.first}:{asked.last}",
            )
        if len(asked.chain) != CHAIN_BYTES or not 0 < asked.steps <= MOST_STEPS:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT,
                f"a chain has an id of {CHAIN_BYTES} bytes and 1 to {MOST_STEPS} steps under way",
            )
        if not (0 < asked.blocks <= self.blocks and 0 < asked.rows <= self.rows):
            raise CounterfoilError(
                Code.INVALID_ARGUMENT,
                f"{asked.blocks} blocks of keys and values and {asked.rows} rows in a step are asked for; this stage has"
                f" {self.blocks} and {self.rows}",
                remedy="Raise the stage's kv_memory_mib, or lower the first stage's kv_memory_mib or prefill_rows.",
            )


class _Use:
    """One chain's use of the stage. Belongs to the event loop, but for what comes out of the stage's thread."""

    def __init__(
        self,
        offer: Offer,
        asked: stages_pb2.StageOpen,
        caller: str,
        sealed: SealedStage | None,
        counts: StageCounts,
    ) -> None:
        """`sealed` is what computes for an accountable chain."""
        self.asked, self.caller, self.sealed = asked, caller, sealed
        self.pushed = asked.joined_first
        """Whether somebody sends states already."""
        self.out: asyncio.Queue[stages_pb2.StageStep | Exception] = asyncio.Queue()
        self.over = asyncio.Event()
        """Set once somebody else has ended the use."""
        self._loop = asyncio.get_running_loop()
        self._steps = asked.steps
        self._under_way = 0
        self._counts = counts
        work = sealed or _plain(offer, asked)
        self._line = StageLine(named(offer.stage), work, self._came, self._spent)

    def take(self, step: stages_pb2.StageStep) -> None:
        """Take a step in; OVERLOADED if more are under way than the chain has."""
        self._under_way += 1
        self._counts.under_way = self._under_way
        if self._under_way > self._steps:
            raise CounterfoilError(
                Code.OVERLOADED, f"more than {self._steps} steps are under way in this stage"
            )
        self._line.send(step)

    async def next(self) -> stages_pb2.StageStep:
        """Return what comes out next; raises what ended the stage."""
        came = await self.out.get()
        if isinstance(came, Exception):
            if isinstance(came, CounterfoilError):
                raise came
            raise CounterfoilError(Code.INVALID_ARGUMENT, f"a step cannot be computed: {came}")
        self._under_way -= 1
        self._counts.under_way = self._under_way
        return came

    def fail(self, error: Exception) -> None:
        """End the use by an error of somebody else."""
        self.over.set()
        self.out.put_nowait(error)

    def close(self) -> None:
        """Free the memory after the step that is being computed; blocks."""
        self._line.close()

    def _spent(self, step: stages_pb2.StageStep, spent: Spent) -> stages_pb2.StageStep:
        self._counts.step(step, spent)
        return add_spent(step, spent)

    def _came(self, arrived: stages_pb2.StageStep | Exception) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed
            self._loop.call_soon_threadsafe(self.out.put_nowait, arrived)


def _plain(
    offer: Offer, asked: stages_pb2.StageOpen
) -> Callable[[stages_pb2.StageStep], stages_pb2.StageStep]:
    """Return what computes for a chain whose states travel whole."""
    computing = Computing(offer.stage, asked.blocks, offer.width, asked.rows)
    return lambda step: to_message(computing(from_message(step, offer.width)))


class StagesService(stages_pb2_grpc.StagesServicer):
    """Computes a range of layers for one chain at a time."""

    def __init__(self, offer: Offer, reach: Reach, parts: Parts | None = None) -> None:
        """`parts` takes the orders of accountable chains; without it, this stage works for its own operator's nodes only."""
        self._offer, self._reach, self._parts = offer, reach, parts
        self._tracks = Tracks()
        self.counts = StageCounts()
        self._use: _Use | None = None
        self._turn = asyncio.Lock()

    async def Join(  # noqa: N802  # the method's wire name
        self, request_iterator: AsyncIterator[stages_pb2.JoinRequest], context: Context
    ) -> AsyncIterator[stages_pb2.JoinResponse]:
        """Serve one chain until its caller goes, or something breaks."""
        caller = self._caller(context)
        asked = await _first(request_iterator, "open")
        self._offer.check(asked.open)
        if asked.open.accountable != (self._parts is not None):
            raise CounterfoilError(
                Code.INVALID_ARGUMENT,
                "this stage works under orders only"
                if self._parts is not None
                else "this stage takes no orders: it works for nodes of its own operator",
                remedy="Name a stage of another operator in `[chain]` with its `name`, one of your own without.",
            )
        async with self._using(asked.open, caller) as use:
            yield stages_pb2.JoinResponse(ready=stages_pb2.StageReady())
            after = await _go(request_iterator, use)
            incoming = asyncio.create_task(self._incoming(request_iterator, use))
            onward = asyncio.create_task(self._push(after, use)) if after else None
            try:
                if onward is not None:
                    await onward
                while True:
                    yield stages_pb2.JoinResponse(step=await use.next())
            finally:
                incoming.cancel()
                if onward is not None:
                    onward.cancel()

    async def Push(  # noqa: N802  # likewise
        self, request_iterator: AsyncIterator[stages_pb2.PushRequest], context: Context
    ) -> stages_pb2.PushResponse:
        """Take the states of the stage before."""
        self._caller(context)
        opened = await _first(request_iterator, "chain")
        use = self._use
        if use is None or use.asked.chain != opened.chain or use.pushed:
            raise CounterfoilError(
                Code.NOT_FOUND, "no chain of this id waits here for the states of another stage"
            )
        use.pushed = True
        try:
            async for message in request_iterator:
                use.take(message.step)
        except Exception as error:
            use.fail(error)
            raise
        use.fail(CounterfoilError(Code.UNAVAILABLE, "the stage before has gone"))
        return stages_pb2.PushResponse()

    async def Accept(  # noqa: N802  # likewise
        self, request: stages_pb2.AcceptRequest, context: Context
    ) -> stages_pb2.AcceptResponse:
        """Take an order for a part."""
        offered = Offered(
            request.order, request.header, request.kc, request.wrap, request.head_bundle
        )
        bundle = await self._accountable().accept(offered, self._caller(context))
        return stages_pb2.AcceptResponse(bundle=bundle)

    async def Close(  # noqa: N802  # likewise
        self, request: stages_pb2.CloseRequest, context: Context
    ) -> stages_pb2.CloseResponse:
        """End a part, and return its receipt."""
        counts = Counts(request.input, request.cached, request.output)
        caller = self._caller(context)
        receipt = await self._accountable().close(request.order, counts, caller, self._tracks.roots)
        self._tracks.forget(request.order)
        if self._use is not None and self._use.sealed is not None:
            self._use.sealed.forget(request.order)
        return stages_pb2.CloseResponse(receipt=receipt)

    def _accountable(self) -> Parts:
        if self._parts is None:
            raise CounterfoilError(
                Code.UNSUPPORTED,
                "this stage takes no orders: it works for nodes of its own operator, which account for it",
            )
        return self._parts

    def _caller(self, context: Context) -> str:
        """Return who calls; FORBIDDEN unless it may."""
        party = calling_party(context)
        if party is None or party.name not in self._offer.callers:
            raise CounterfoilError(
                Code.FORBIDDEN,
                f"this stage does not work for {party or 'callers without a certificate'}",
                remedy="Name the node among the stage's `callers`.",
            )
        return party.name

    @contextlib.asynccontextmanager
    async def _using(self, asked: stages_pb2.StageOpen, caller: str) -> AsyncIterator[_Use]:
        """Have the stage alone. A caller's own earlier chain gives way: its connection may be dead without a word."""
        before = self._use
        if before is not None:
            if before.caller != caller:
                raise CounterfoilError(
                    Code.OVERLOADED, "another node's chain uses this stage", retry_after_s=1.0
                )
            before.fail(CounterfoilError(Code.UNAVAILABLE, "a later chain has replaced this one"))
        try:
            async with asyncio.timeout(GIVE_WAY_S):
                await self._turn.acquire()
        except TimeoutError as error:
            raise CounterfoilError(
                Code.OVERLOADED, "the chain before still uses this stage", retry_after_s=1.0
            ) from error
        sealed = self._sealed(asked, caller)
        use = self._use = _Use(self._offer, asked, caller, sealed, self.counts)
        self.counts.uses += 1
        self.counts.using = True
        _log.info("a chain uses the stage", extra={"caller": caller})
        try:
            yield use
        finally:
            self._use = None
            self.counts.using, self.counts.under_way = False, 0
            try:
                await asyncio.shield(asyncio.to_thread(use.close))
            finally:
                self._turn.release()
                _log.info("the stage is free", extra={"caller": caller})

    def _sealed(self, asked: stages_pb2.StageOpen, caller: str) -> SealedStage | None:
        """Return what computes for an accountable chain of `caller`."""
        if self._parts is None:
            return None
        return SealedStage(
            self._offer.stage,
            blocks=asked.blocks,
            width=self._offer.width,
            limit=asked.rows,
            size=self._offer.size,
            parts=self._parts,
            tracks=self._tracks,
            head=caller,
        )

    async def _incoming(self, requests: AsyncIterator[stages_pb2.JoinRequest], use: _Use) -> None:
        """Take the steps of a chain of which this is the first that is joined; the end of the call ends the use."""
        try:
            async for message in requests:
                if not use.asked.joined_first or message.WhichOneof("what") != "step":
                    use.fail(CounterfoilError(Code.INVALID_ARGUMENT, "no states are due here"))
                    return
                use.take(message.step)
        except Exception as error:  # noqa: BLE001  # whatever it is ends the use
            use.fail(error)
        else:
            use.fail(CounterfoilError(Code.UNAVAILABLE, "the first stage has gone"))

    async def _push(self, address: str, use: _Use) -> None:
        """Send what comes out to the next stage; raises what ends that."""
        channel = self._reach(address)
        call: Any = stages_pb2_grpc.StagesStub(channel).Push(timeout=CHAIN_S)
        watching = asyncio.create_task(_watch(call, address, use))
        try:
            await call.write(stages_pb2.PushRequest(chain=use.asked.chain))
            while True:
                await call.write(stages_pb2.PushRequest(step=await use.next()))
        except (grpc.RpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
            await use.next()  # what the watch has found
            raise
        finally:
            watching.cancel()
            call.cancel()
            await channel.close()


async def _watch(call: Any, address: str, use: _Use) -> None:
    """End the use when a call to the next stage ends."""
    try:
        await call
    except grpc.RpcError as error:
        use.fail(error_from_rpc(error, f"the stage at {address}"))
    else:
        use.fail(CounterfoilError(Code.UNAVAILABLE, f"the stage at {address} has gone"))


async def _go(requests: AsyncIterator[Any], use: _Use) -> str:
    """Return where the next stage is, once the caller says that all are ready; raises what ends the use before."""
    going = asyncio.ensure_future(_first(requests, "go"))
    over = asyncio.ensure_future(use.over.wait())
    try:
        await asyncio.wait({going, over}, return_when=asyncio.FIRST_COMPLETED)
        while not going.done():
            await use.next()  # behind what was computed already is why it is over
        message = going.result()
    finally:
        over.cancel()
        going.cancel()
    return str(message.go.next)


async def _first(requests: AsyncIterator[Any], what: str) -> Any:
    """Return a call's next message, which must be of this kind."""
    async for message in requests:
        if message.WhichOneof("what") == what:
            return message
        break
    raise CounterfoilError(Code.INVALID_ARGUMENT, f"the call does not go on with `{what}`")
