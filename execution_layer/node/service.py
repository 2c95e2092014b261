"""gRPC: `counterfoil.execution.v1.Inference`. Translates, but decides nothing."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc

from execution_layer.node.identities import TenantIdentities
from execution_layer.node.identity import KeyRing
from execution_layer.node.intake import Intake
from execution_layer.node.model_files import ModelFiles
from execution_layer.node.resuming import Resuming, Wish
from execution_layer.node.tape import AcceptedEvent, Event, FinalEvent, FrameEvent
from shared.proto.counterfoil.execution.v1 import execution_pb2, execution_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError

PIECE: Final = 1 << 20
SENDING: Final = 4
"""How many callers may get the model's files concurrently."""
Context = grpc.aio.ServicerContext[Any, Any]


def shown_bundle(
    ring: KeyRing, refused: CounterfoilError | None
) -> execution_pb2.GetKeyBundleResponse:
    """Return a node's newest key bundle and its proof, and why it accepts nothing now, if it does not."""
    keys = ring.current()
    return execution_pb2.GetKeyBundleResponse(
        statement=keys.statement,
        tlog_proof=keys.proof,
        refuses="" if refused is None else refused.detail,
    )


class InferenceService(execution_pb2_grpc.InferenceServicer):
    """Sealed requests in, sealed frames and a receipt out."""

    def __init__(
        self,
        intake: Intake,
        resuming: Resuming,
        ring: KeyRing,
        model_root: bytes,
        files: ModelFiles | None,
        identities: TenantIdentities,
    ) -> None:
        self._intake = intake
        self._resuming = resuming
        self._identities = identities
        self._ring = ring
        self._model_root = model_root
        self._files = files
        self._sending = 0

    async def GetKeyBundle(  # noqa: N802  # the method's wire name
        self,
        request: execution_pb2.GetKeyBundleRequest,  # noqa: ARG002  # likewise its signature
        context: Context,  # noqa: ARG002
    ) -> execution_pb2.GetKeyBundleResponse:
        """Return the newest key bundle and its proof, and whether requests are accepted."""
        return shown_bundle(self._ring, self._intake.refusal())

    async def Generate(  # noqa: N802  # likewise
        self,
        request: execution_pb2.GenerateRequest,
        context: Context,  # noqa: ARG002
    ) -> AsyncIterator[execution_pb2.GenerateResponse]:
        """Run one request. If the caller is gone before the end, the answer goes on without it."""
        await self._identities.heed(request.order)
        session = await self._intake.take(request.order, request.envelope, request.parts)
        ended = False
        async for event in session.events():
            ended = isinstance(event, FinalEvent)
            yield _message(event)
        if not ended and session.left:
            raise CounterfoilError(
                Code.DRAINING,
                "the node stops; the response goes on when it is back",
                remedy="Resume it.",
            )
        if not ended:
            number = session.incident
            raise CounterfoilError(
                Code.UNAVAILABLE,
                "the response was cut off" + (f" (incident {number})" if number else ""),
                remedy="Retry as a new attempt.",
                metadata={} if number is None else {"incident": number},
            )

    async def Resume(  # noqa: N802  # likewise
        self,
        request: execution_pb2.ResumeRequest,
        context: Context,  # noqa: ARG002
    ) -> AsyncIterator[execution_pb2.GenerateResponse]:
        """Send the rest of a response; its answer does not depend on it."""
        wish = Wish(request.order, request.frames, request.at, request.signature)
        async for event in self._resuming.events(wish):
            yield _message(event)

    async def Cancel(  # noqa: N802  # likewise
        self,
        request: execution_pb2.CancelRequest,
        context: Context,  # noqa: ARG002
    ) -> execution_pb2.CancelResponse:
        """End the answer to an order, as its tenant wishes."""
        await self._intake.cancel(request.order, request.signature)
        return execution_pb2.CancelResponse()

    async def GetModelFiles(  # noqa: N802  # likewise
        self,
        request: execution_pb2.GetModelFilesRequest,
        context: Context,  # noqa: ARG002
    ) -> AsyncIterator[execution_pb2.ModelFilePart]:
        """Send the tokenizer's files with their places under the model root, to a few callers at a time."""
        if self._files is None or request.model_root != self._model_root:
            raise CounterfoilError(Code.UNKNOWN_MODEL, "this node does not serve that model")
        if self._sending >= SENDING:
            raise CounterfoilError(
                Code.OVERLOADED,
                "the model's files are being sent to other callers",
                retry_after_s=1.0,
            )
        self._sending += 1
        try:
            files = self._files.read()
            while (found := await asyncio.to_thread(next, files, None)) is not None:
                place, data = found
                head = execution_pb2.ModelFileHead(
                    name=place.name, index=place.index, leaves=self._files.size, path=place.path
                )
                yield execution_pb2.ModelFilePart(head=head)
                for at in range(0, len(data), PIECE):
                    yield execution_pb2.ModelFilePart(data=data[at : at + PIECE])
        finally:
            self._sending -= 1


def _message(event: Event) -> execution_pb2.GenerateResponse:
    match event:
        case AcceptedEvent():
            accepted = execution_pb2.Accepted(
                node_nonce=event.node_nonce, signature=event.signature
            )
            return execution_pb2.GenerateResponse(accepted=accepted)
        case FrameEvent():
            frame = execution_pb2.Frame(
                index=event.index, ciphertext=event.ciphertext, signature=event.signature
            )
            return execution_pb2.GenerateResponse(frame=frame)
        case FinalEvent():
            final = execution_pb2.FinalRecord(
                ciphertext=event.ciphertext, signature=event.signature
            )
            return execution_pb2.GenerateResponse(final_record=final)
