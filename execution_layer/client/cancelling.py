"""Telling a node that its answer is no longer wanted: what the application gives up, it does not pay for (protocol §4.7)."""

import asyncio
import logging
from typing import Final

import grpc

from shared.proto.counterfoil.execution.v1 import execution_pb2, execution_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc

BOUND_S: Final = 2.0
"""How long an application that gives up waits for the node to hear of it."""
UNHURRIED_S: Final = 10.0
"""How long it may take in the background: a node that did not answer in time may be slow to hear this too."""
PAUSES_S: Final = (0.1, 0.2, 0.4)
"""Between attempts while the node may not know the order yet: the request can still be on its way."""

_log = logging.getLogger(__name__)


class Cancellations:
    """Cancellations that are sent in the background, while the caller already has its error or another node's answer."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[None]] = set()

    def send(
        self, channel: grpc.aio.Channel, order: bytes, signature: bytes, *, accepted: bool
    ) -> None:
        """Begin what `cancel_order` does, within `UNHURRIED_S`."""
        task = asyncio.create_task(
            cancel_order(channel, order, signature, accepted=accepted, bound_s=UNHURRIED_S)
        )
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def close(self) -> None:
        """Give what is under way `BOUND_S` more, and then give it up: the channels are about to be closed."""
        if not self._under_way:
            return
        _, late = await asyncio.wait(self._under_way, timeout=BOUND_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


async def cancel_order(
    channel: grpc.aio.Channel,
    order: bytes,
    signature: bytes,
    *,
    accepted: bool,
    bound_s: float | None = None,
) -> None:
    """Send a signed cancellation of an order (by its entry) within `bound_s`, or `BOUND_S`; a failure is logged, never
    raised.

    `accepted`: whether the node is known to have accepted the request; it has then ended if it is not in flight.
    """
    message = execution_pb2.CancelRequest(order=order, signature=signature)
    facts = {"order": order.hex()}
    bound_s = BOUND_S if bound_s is None else bound_s
    try:
        async with asyncio.timeout(bound_s):
            await _send(channel, message, () if accepted else PAUSES_S, bound_s)
    except CounterfoilError as error:
        level = logging.INFO if error.code is Code.NOT_FOUND else logging.WARNING
        _log.log(level, "the node did not cancel an order: %s", error.detail, extra=facts)
    except TimeoutError:
        _log.warning("the node did not confirm a cancellation in time", extra=facts)
    except Exception:  # noqa: BLE001  # the caller is on its way out with an exception of its own
        _log.exception("a cancellation could not be sent", extra=facts)


async def _send(
    channel: grpc.aio.Channel,
    message: execution_pb2.CancelRequest,
    pauses_s: tuple[float, ...],
    bound_s: float,
) -> None:
    stub = execution_pb2_grpc.InferenceStub(channel)
    for pause_s in (*pauses_s, None):
        try:
            await stub.Cancel(message, timeout=bound_s)
        except grpc.RpcError as error:
            told = error_from_rpc(error)
            if told.code is not Code.NOT_FOUND or pause_s is None:
                raise told from error
            await asyncio.sleep(pause_s)
        else:
            return
