"""gRPC: `counterfoil.execution.v1.Inference` at a stage: it shows its key bundle, and answers nothing."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from execution_layer.node.identity import KeyRing
from execution_layer.node.service import shown_bundle
from shared.proto.counterfoil.execution.v1 import execution_pb2, execution_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError

Context = grpc.aio.ServicerContext[Any, Any]


class StageInference(execution_pb2_grpc.InferenceServicer):
    """What a stage says to clients."""

    def __init__(self, ring: KeyRing, refusal: Callable[[], CounterfoilError | None]) -> None:
        """`refusal` returns why nothing is accepted now."""
        self._ring = ring
        self._refusal = refusal

    async def GetKeyBundle(  # noqa: N802  # the method's wire name
        self,
        request: execution_pb2.GetKeyBundleRequest,  # noqa: ARG002  # likewise its signature
        context: Context,  # noqa: ARG002
    ) -> execution_pb2.GetKeyBundleResponse:
        """Return the newest key bundle and its proof, and whether orders are accepted."""
        return shown_bundle(self._ring, self._refusal())

    async def Generate(  # noqa: N802  # likewise
        self,
        request: execution_pb2.GenerateRequest,  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> AsyncIterator[execution_pb2.GenerateResponse]:
        """Refuse: the head of a chain answers."""
        self._refuse()
        yield execution_pb2.GenerateResponse()

    async def Resume(  # noqa: N802  # likewise
        self,
        request: execution_pb2.ResumeRequest,  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> AsyncIterator[execution_pb2.GenerateResponse]:
        """Refuse likewise."""
        self._refuse()
        yield execution_pb2.GenerateResponse()

    async def Cancel(  # noqa: N802  # likewise
        self,
        request: execution_pb2.CancelRequest,  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> execution_pb2.CancelResponse:
        """Refuse likewise."""
        self._refuse()
        return execution_pb2.CancelResponse()

    async def GetModelFiles(  # noqa: N802  # likewise
        self,
        request: execution_pb2.GetModelFilesRequest,  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> AsyncIterator[execution_pb2.ModelFilePart]:
        """Refuse likewise: a stage may have a part of the model only."""
        self._refuse()
        yield execution_pb2.ModelFilePart()

    def _refuse(self) -> None:
        """Raise UNSUPPORTED."""
        layers = self._ring.current().bundle.layers
        which = "" if layers is None else f" {layers.first}:{layers.last}"
        raise CounterfoilError(
            Code.UNSUPPORTED,
            f"this node computes layers{which} for the heads of chains and answers no requests itself",
            remedy="Choose a node whose key bundle names no layers.",
        )
