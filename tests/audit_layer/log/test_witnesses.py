"""The log's client of witnesses, against answers that C2SP tlog-witness allows and answers that it does not."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from audit_layer.log.witnesses import HttpWitness, WitnessHoldsError
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.http import serve_https
from shared.runtime.tls import LocalCA, client_context
from shared.translog.notes import SignatureLine
from shared.translog.witness_protocol import parse_add_checkpoint

PROOF = (b"\x01" * 32, b"\x02" * 32)
NOTE = "log.example/test\n7\nAAAA\n\n— log.example/test AAAAAAAA\n"
LINES = (
    SignatureLine("witness.example", b"\x00" * 4, b"\x05" * 72),
    SignatureLine("nobody.example", b"\x01" * 4, b"\x06" * 9),
)


@dataclass
class ScriptedWitness:
    """A double: answers whatever the test says, below a prefix, and records what it was asked."""

    answer: Response = field(default_factory=Response)
    asked: list[tuple[str, bytes]] = field(default_factory=list)

    def app(self) -> Starlette:
        return Starlette(
            routes=[Route("/{path:path}", self._respond, methods=["GET", "POST"])]
        )  # fmt: skip

    async def _respond(self, request: Request) -> Response:
        self.asked.append((f"{request.method} {request.url.path}", await request.body()))
        return self.answer


@asynccontextmanager
async def scripted(folder: Path) -> AsyncIterator[tuple[ScriptedWitness, HttpWitness]]:
    authority = LocalCA.load_or_create(folder / "ca")
    double = ScriptedWitness()
    server = await serve_https(double.app(), authority.issue("witness"), "127.0.0.1:0")
    client = HttpWitness(
        "witness.example", f"https://{server.address}/prefix/", client_context(authority.ca_file)
    )
    try:
        yield double, client
    finally:
        await client.aclose()
        await server.stop()


def answering(status: int, body: bytes, content_type: str) -> Response:
    return Response(body, status_code=status, headers={"content-type": content_type})


async def refusal(call: Callable[[], Awaitable[object]]) -> Code:
    with pytest.raises(CounterfoilError) as caught:
        await call()
    return caught.value.code


async def test_a_request_is_posted_below_the_prefix_and_every_line_is_returned(tmp_path: Path):
    async with scripted(tmp_path) as (double, client):
        body = "".join(line.encode() for line in LINES).encode()
        double.answer = answering(200, body, "application/whatever")
        assert await client.add_checkpoint(4, PROOF, NOTE) == LINES, "the caller knows the keys"
        (((target, request)),) = double.asked
        assert target == "POST /prefix/add-checkpoint"
        parsed = parse_add_checkpoint(request)
        assert (parsed.old_size, parsed.proof, parsed.note) == (4, PROOF, NOTE)
        assert request.startswith(b"old 4\n" + b"AQEB")


async def test_only_a_409_of_the_sizes_type_carries_a_size(tmp_path: Path):
    async with scripted(tmp_path) as (double, client):
        for content_type in ("text/x.tlog.size", "TEXT/X.tlog.size; charset=utf-8"):
            double.answer = answering(409, b"20852163\n", content_type)
            with pytest.raises(WitnessHoldsError) as held:
                await client.add_checkpoint(4, PROOF, NOTE)
            assert held.value.size == 20852163
        for content_type in ("text/plain", "text/x.tlog.sizes", "application/problem+json"):
            double.answer = answering(409, b"20852163\n", content_type)
            assert await refusal(lambda: client.add_checkpoint(4, PROOF, NOTE)) is Code.CONFLICT
        for body in (b"", b"8", b"08\n", b"-8\n", b"8\n\n", b" 8\n", b"8\r\n", b"9" * 30 + b"\n"):
            double.answer = answering(409, body, "text/x.tlog.size")
            assert await refusal(lambda: client.add_checkpoint(4, PROOF, NOTE)) is Code.MALFORMED


@pytest.mark.parametrize("status", [301, 400, 403, 404, 405, 422, 429])
async def test_other_statuses_are_refusals_and_lead_nowhere_else(tmp_path: Path, status: int):
    async with scripted(tmp_path) as (double, client):
        double.answer = Response(
            b"no\n", status_code=status, headers={"location": "https://127.0.0.1:1/"}
        )
        assert await refusal(lambda: client.add_checkpoint(4, PROOF, NOTE)) is Code.CONFLICT
        assert len(double.asked) == 1


async def test_failures_can_be_tried_again_and_junk_is_malformed(tmp_path: Path):
    async with scripted(tmp_path) as (double, client):
        for status in (500, 502, 503):
            double.answer = answering(status, b"", "text/plain")
            assert await refusal(lambda: client.add_checkpoint(4, PROOF, NOTE)) is Code.UNAVAILABLE
            assert await refusal(lambda: client.latest("log.example/test")) is Code.UNAVAILABLE
        line = LINES[0].encode().encode()
        for body in (b"", b"\n", line[:-1], line + b"\n", b"junk\n", line * 65, b"x" * 300_000):
            double.answer = answering(200, body, "text/plain")
            assert await refusal(lambda: client.add_checkpoint(4, PROOF, NOTE)) is Code.MALFORMED


async def test_a_witness_without_retrieval_counts_as_empty(tmp_path: Path):
    async with scripted(tmp_path) as (double, client):
        double.answer = answering(404, b"", "text/plain")
        assert await client.latest("log.example/test") is None
        double.answer = answering(200, NOTE.encode(), "text/plain")
        assert await client.latest("log.example/test") == NOTE
        assert all(target.startswith("GET /prefix/checkpoint/") for target, _ in double.asked)
