"""What runs before every gRPC method of ours: limits, the mandatory deadline, and rich errors.
Servicers contain no try/except: they raise CounterfoilError, which becomes a `google.rpc.Status` with ErrorInfo {reason:
code, domain: "counterfoil", metadata} and RetryInfo, and with a BytesValue that holds a signed statement, if the error
has one. Any other exception is logged here under an incident id, which
is all that the peer learns.
"""

import asyncio
import contextlib
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NoReturn, TypeAlias

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import BytesValue
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # no stubs

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.logs import incident
from shared.runtime.metrics import Counter
from shared.runtime.traffic import Gate, peer_of_grpc

DOMAIN: Final = "counterfoil"
MAX_DETAIL: Final = 1000
OK: Final = "OK"
CANCELLED: Final = "CANCELLED"
"""What calls are counted under that no error ended."""
DETAILS_KEY: Final = "grpc-status-details-bin"
_OPEN_ENDED: Final = ("/grpc.health.", "/grpc.reflection.")
"""Health's Watch and reflection need no deadline: they have bounds of their own."""
_STATUS_BY_NUMBER: Final = {status.value[0]: status for status in grpc.StatusCode}

_log = logging.getLogger(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Passage: TypeAlias = Callable[[str, Context, Gate], contextlib.AbstractAsyncContextManager[None]]
Passing: TypeAlias = Callable[[Context], contextlib.AbstractAsyncContextManager[None]]


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Passes a call through the gate, requires a deadline, and turns what handlers raise into rich statuses."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.calls = Counter()
        """Calls by method and by the code of how they ended; those that reached no method of ours under `other`."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Wrap the method's handler; what inner interceptors raise is mapped as well."""
        name = handler_call_details.method
        try:
            handler = await continuation(handler_call_details)
        except Exception as error:  # noqa: BLE001  # re-raised in the handler, where it is mapped
            return _refusing(error, name, self.calls)
        if handler is None:
            return handler  # there is no such method
        passage = _open_ended if name.startswith(_OPEN_ENDED) else _bounded
        return wrap(
            handler, lambda context: _mapped(name, context, passage, self._gate, self.calls)
        )


def wrap(handler: Handler, passing: Passing) -> Handler:
    """Return the handler with its behaviour wrapped in `passing`; the four kinds of call are preserved."""
    if handler.response_streaming:
        inner = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            async with passing(context):
                responses: Any = _required(inner)(request, context)
                if inspect.isawaitable(responses):  # writes through the context
                    await responses
                else:
                    async with contextlib.aclosing(responses):
                        async for response in responses:
                            yield response

        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_stream_rpc_method_handler
        )
        return make(stream, handler.request_deserializer, handler.response_serializer)
    single = handler.stream_unary if handler.request_streaming else handler.unary_unary

    async def unary(request: Any, context: Context) -> Any:
        async with passing(context):
            response: Any = _required(single)(request, context)
            return await response if inspect.isawaitable(response) else response

    make_unary = (
        grpc.stream_unary_rpc_method_handler
        if handler.request_streaming
        else grpc.unary_unary_rpc_method_handler
    )
    return make_unary(unary, handler.request_deserializer, handler.response_serializer)


def _refusing(error: Exception, method: str, calls: Counter) -> Handler:
    async def refuse(_request: Any, context: Context) -> Any:
        calls.add("other", _code(error))  # whoever calls has chosen the method's name
        await _abort(context, error, method)

    return grpc.unary_unary_rpc_method_handler(refuse)


def _required(behaviour: Callable[..., Any] | None) -> Callable[..., Any]:
    if behaviour is None:
        raise CounterfoilError(Code.INTERNAL, "a method has no behaviour")
    return behaviour


@contextlib.asynccontextmanager
async def _mapped(
    method: str, context: Context, passing: Passage, gate: Gate, calls: Counter
) -> AsyncIterator[None]:
    """Run a handler within `passing` and map what either raises. Cancellation propagates."""
    ended = CANCELLED
    try:
        async with passing(method, context, gate):
            yield
        ended = OK
    except grpc.aio.AbortError:
        raise
    except Exception as error:  # noqa: BLE001  # the boundary: nothing else may reach the peer
        ended = _code(error)
        await _abort(context, error, method)
    finally:
        calls.add(method, ended)


def _code(error: Exception) -> str:
    return error.code.name if isinstance(error, CounterfoilError) else Code.INTERNAL.name


@contextlib.asynccontextmanager
async def _bounded(method: str, context: Context, gate: Gate) -> AsyncIterator[None]:
    """A call of ours: it must have a deadline."""
    if context.time_remaining() is None:
        raise CounterfoilError(
            Code.DEADLINE_REQUIRED, f"{method} was called without one", remedy="Set a timeout."
        )
    with gate.call(peer_of_grpc(context.peer()), method):
        yield


@contextlib.asynccontextmanager
async def _open_ended(method: str, context: Context, gate: Gate) -> AsyncIterator[None]:
    """A stream that may lack a deadline: there are few per peer, and each ends after a while."""
    longest_s = gate.traffic.watch_s
    with gate.watch(peer_of_grpc(context.peer()), method):
        try:
            async with asyncio.timeout(longest_s) as bound:
                yield
        except TimeoutError as error:
            if not bound.expired():
                raise
            raise CounterfoilError(
                Code.DEADLINE,
                f"{method} lasts at most {longest_s} seconds here",
                remedy="Call it again.",
            ) from error


async def _abort(context: Context, error: Exception, method: str) -> NoReturn:
    status = status_of(error, method)
    trailing = ((DETAILS_KEY, status.SerializeToString()),)
    await context.abort(_STATUS_BY_NUMBER[status.code], status.message, trailing)
    raise error  # not reached: abort raises


def status_of(error: Exception, where: str) -> status_pb2.Status:
    """Return what a peer may learn of `error`; the rest is logged."""
    if not isinstance(error, CounterfoilError):
        error = incident(_log, error, where)
    elif error.code.value.opaque:
        _log.info("%s refused: %s", where, error)
    meaning = error.code.value
    info = error_details_pb2.ErrorInfo(reason=error.code.name, domain=DOMAIN)
    if not meaning.opaque or "incident" in error.metadata:
        info.metadata.update(error.metadata)
    status = status_pb2.Status(
        code=grpc.StatusCode[meaning.grpc].value[0], message=error.public_detail()[:MAX_DETAIL]
    )
    status.details.append(_packed(info))
    if (delay := error.retry_s) is not None and not meaning.opaque:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(delay * 1e9))
        status.details.append(_packed(retry))
    if error.statement is not None:
        status.details.append(_packed(BytesValue(value=error.statement)))
    return status


def _packed(message: Any) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
