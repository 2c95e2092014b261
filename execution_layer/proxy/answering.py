"""The endpoint that answers: reads a request, has it answered, and sends nothing as an answer before its receipt was checked.

Whoever closes the connection gives the answer up: its orders are cancelled at their nodes.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from execution_layer.client.completion import Completion
from execution_layer.proxy.answers import DONE, Shape, event
from execution_layer.proxy.api_errors import answer_error, error_members, upstream_status
from execution_layer.proxy.api_keys import ApiKey, ApiKeys
from execution_layer.proxy.asking import Asked, read_object
from execution_layer.proxy.service import Service
from execution_layer.proxy.telling import Telling
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.http import limited_body
from shared.runtime.logs import incident

Answers = tuple[Completion, ...]
Read = Callable[[dict[str, Any]], Asked]
RECEIPT_HEADER = "x-counterfoil-receipt"
_log = logging.getLogger(__name__)


class Answering:
    """One endpoint, as an ASGI application. `read` reads its requests."""

    def __init__(self, service: Service, keys: ApiKeys, read: Read, max_bytes: int) -> None:
        self._service = service
        self._keys = keys
        self._read = read
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        key = self._keys.of(request.headers.get("authorization"))
        body = await limited_body(request, self._max_bytes)
        asked = await run_in_threadpool(lambda: self._read(read_object(body)))
        self._service.model_root(asked.model)
        spell = await run_in_threadpool(self._service.spell, asked)
        shape = Shape(asked, secrets.token_hex(12), int(time.time()), spell)
        with self._service.room(key, asked):
            if asked.stream:
                await self._stream(asked, key, shape, scope, receive, send)
            else:
                await self._whole(asked, key, shape, scope, receive, send)

    async def _whole(
        self, asked: Asked, key: ApiKey, shape: Shape, scope: Scope, receive: Receive, send: Send
    ) -> None:
        async with _while_there(receive, self._service.answer(asked, key, None)) as work:
            await work.first()
            response, answers = _response(work.task, shape)
            _note(shape, key, asked, answers, response.status_code)
            await response(scope, receive, send)

    async def _stream(
        self, asked: Asked, key: ApiKey, shape: Shape, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send text as it comes. What fails before there is any is answered like what is not streamed."""
        telling = Telling()
        answer = self._service.answer(asked, key, telling.say)
        async with _while_there(receive, answer) as work:
            await work.first(telling)
            if work.task.done() and work.task.exception() is not None:
                response, _ = _response(work.task, shape)
                _note(shape, key, asked, None, response.status_code)
                await response(scope, receive, send)
                return
            sending = asyncio.create_task(_events(work, shape, telling, send))
            try:
                await asyncio.wait({sending, work.gone}, return_when=asyncio.FIRST_COMPLETED)
                if not sending.done():
                    raise ClientDisconnect
                _note(shape, key, asked, sending.result(), 200)
            finally:
                await _ended(sending)


class _Work:
    """What is being answered, beside whether the caller is still there."""

    def __init__(self, receive: Receive, answer: Coroutine[Any, Any, Answers]) -> None:
        self.task = asyncio.create_task(answer)
        self.gone = asyncio.create_task(_gone(receive))

    async def first(self, telling: Telling | None = None) -> None:
        """Return when the answer is there, or something is told of it; `ClientDisconnect` if the caller has gone before."""
        ends: set[asyncio.Task[Any]] = {self.task, self.gone}
        heard = None if telling is None else asyncio.create_task(telling.wait())
        if heard is not None:
            ends.add(heard)
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if heard is not None:
                await _ended(heard)
        if done == {self.gone}:
            raise ClientDisconnect


@contextlib.asynccontextmanager
async def _while_there(receive: Receive, answer: Coroutine[Any, Any, Answers]) -> Any:
    """Have something answered; whatever ends the block first ends that too, and its orders are cancelled."""
    work = _Work(receive, answer)
    try:
        yield work
    finally:
        await _ended(work.gone)
        await _ended(work.task)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _ended(task: asyncio.Task[Any]) -> None:
    """Cancel a task, unless it has ended, and wait until it has."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # whoever wanted it has had it


def _response(task: asyncio.Task[Answers], shape: Shape) -> tuple[JSONResponse, Answers | None]:
    """Return the response to what has been answered, or has failed."""
    try:
        answers = task.result()
    except CounterfoilError as error:
        return answer_error(error, http_status=upstream_status(error.code)), None
    receipts = ", ".join(answer.receipt.entry.hex() for answer in answers)
    return JSONResponse(shape.whole(answers), headers={RECEIPT_HEADER: receipts}), answers


async def _events(work: _Work, shape: Shape, telling: Telling, send: Send) -> Answers | None:
    """Send a stream; `[DONE]` ends it only if everything in it was checked. Return what was answered."""
    headers = [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-store"),
        (b"x-accel-buffering", b"no"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def put(*events: bytes) -> None:
        await send({"type": "http.response.body", "body": b"".join(events), "more_body": True})

    await put(*map(event, shape.first()))
    answers: Answers | None = None
    try:
        while not work.task.done():
            await work.first(telling)
            for choice, text in telling.take():
                await put(event(shape.piece(choice, text)))
        answers = work.task.result()
        rest = [(one.choice, one.text[telling.heard(one.choice) :]) for one in answers]
        for choice, text in (*telling.take(), *(pair for pair in rest if pair[1])):
            await put(event(shape.piece(choice, text)))
        await put(*map(event, shape.last(answers)), DONE)
    except CounterfoilError as error:
        await put(event({"error": error_members(error, upstream_status(error.code))}))
    except ClientDisconnect:
        raise
    except Exception as error:  # noqa: BLE001  # the status is sent: the stream itself must say that it ends here
        failure = incident(_log, error, "a stream")
        await put(event({"error": error_members(failure, Code.INTERNAL.value.http)}))
    await send({"type": "http.response.body", "body": b"", "more_body": False})
    return answers


def _note(shape: Shape, key: ApiKey, asked: Asked, answers: Answers | None, status: int) -> None:
    """Log who asked for what, and how it ended; nothing of what was said."""
    receipts = [] if answers is None else [answer.receipt.entry.hex() for answer in answers]
    facts = {"key": key.id, "model": asked.model, "stream": asked.stream, "answers": asked.n}
    _log.info(
        "a request was answered" if answers else "a request failed",
        extra={"request": shape.id, **facts, "status": status, "receipts": receipts},
    )
