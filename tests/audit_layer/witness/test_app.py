"""The witness over HTTPS, asked by the log's own client."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter

from audit_layer.log.witnesses import HttpWitness, WitnessHoldsError
from audit_layer.witness.app import create_app
from audit_layer.witness.core import Witness
from audit_layer.witness.store import WitnessStore
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.http import HttpsServer, serve_https
from shared.runtime.party import PartyFiles, PartyRole
from shared.runtime.tls import LocalCA, client_context
from shared.translog.checkpoint import Checkpoint
from shared.translog.notes import SignatureType, Signer
from shared.translog.proofs import consistency_proof
from shared.translog.signed_checkpoint import sign, signature_time
from shared.translog.witness_protocol import AddCheckpoint, latest_path
from tests.audit_layer.witness.test_core import COSIGNERS, FORKED, HONEST, KNOWN, NAME, ORIGIN
from tests.parties import shown_by


def log_of(ca_file: Path) -> PartyFiles:
    """Return what the log's server shows."""
    return shown_by(PartyRole.AUDIT, ORIGIN, ca_file)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[HttpsServer, Path]]:
    authority = LocalCA.load_or_create(tmp_path / "ca")
    extra = APIRouter()

    @extra.post("/beacon/commitment")
    def beacon() -> str:
        raise CounterfoilError(Code.NOT_FOUND, "no such epoch")

    with WitnessStore(tmp_path / "witness.db") as store:
        app = create_app(Witness(store, COSIGNERS, KNOWN), extra_routers=[extra])
        tls = authority.issue("witness")
        server = await serve_https(app, tls, "127.0.0.1:0", callers_ca=tls.ca)
        yield server, authority.ca_file
        await server.stop()


@pytest.fixture
async def client(served: tuple[HttpsServer, Path]) -> AsyncIterator[HttpWitness]:
    server, ca_file = served
    witness = HttpWitness(
        NAME, f"https://{server.address}", client_context(ca_file, log_of(ca_file))
    )
    yield witness
    await witness.aclose()


async def test_a_log_gets_cosignatures_over_tls(client: HttpWitness):
    assert await client.latest(ORIGIN) is None
    lines = await client.add_checkpoint(0, [], HONEST.note(8))
    for signer in COSIGNERS:
        assert signature_time(HONEST.checkpoint(8), lines, signer.verifier) is not None
    with pytest.raises(WitnessHoldsError) as held:
        await client.add_checkpoint(3, consistency_proof(3, 20, HONEST.lookup), HONEST.note(20))
    assert held.value.size == 8
    await client.add_checkpoint(8, consistency_proof(8, 20, HONEST.lookup), HONEST.note(20))
    assert (await client.latest(ORIGIN) or "").startswith(HONEST.checkpoint(20).body)


async def test_refusals_reach_the_log_as_conflicts(client: HttpWitness):
    await client.add_checkpoint(0, [], HONEST.note(8))
    for old, note in ((8, FORKED.note(20)), (8, HONEST.note(20).replace("\n20\n", "\n21\n"))):
        with pytest.raises(CounterfoilError) as caught:
            await client.add_checkpoint(old, [], note)
        assert caught.value.code is Code.CONFLICT


async def test_a_witness_that_is_away_is_unavailable_and_plain_http_is_refused(
    served: tuple[HttpsServer, Path], client: HttpWitness
):
    server, ca_file = served
    await server.stop()
    with pytest.raises(CounterfoilError) as caught:
        await client.latest(ORIGIN)
    assert caught.value.code is Code.UNAVAILABLE
    with pytest.raises(CounterfoilError) as caught:
        HttpWitness(NAME, f"http://{server.address}", client_context(ca_file, log_of(ca_file)))
    assert caught.value.code is Code.CONFIGURATION


async def test_statuses_types_and_bodies_are_those_of_c2sp(served: tuple[HttpsServer, Path]):
    server, ca_file = served
    text, size = "text/plain; charset=utf-8", "text/x.tlog.size"
    stranger = Signer("other.example", SignatureType.ED25519, b"\x01" * 32)
    unknown = sign(Checkpoint("other.example", 1, b"\x00" * 32), [stranger], time_s=1).encode()
    forged = HONEST.note(8, [Signer(ORIGIN, SignatureType.ED25519, b"\x09" * 32)])
    proof = tuple(consistency_proof(8, 20, HONEST.lookup))
    cases: list[tuple[bytes, int, str, bytes | None]] = [
        (HONEST.request(0, 8), 200, text, None),
        (HONEST.request(8, 8), 200, text, None),
        (HONEST.request(0, 9), 409, size, b"8\n"),
        (HONEST.request(0, 8), 409, size, b"8\n"),
        (AddCheckpoint(9, (), HONEST.note(20)).encode(), 409, size, b"8\n"),
        (AddCheckpoint(8, (), FORKED.note(8)).encode(), 409, size, b"8\n"),
        (AddCheckpoint(9, (), HONEST.note(8)).encode(), 400, text, None),
        (b"old 08" + HONEST.request(8, 20)[5:], 400, text, None),
        (AddCheckpoint(8, proof * 32, HONEST.note(20)).encode(), 400, text, None),
        (b"?", 400, text, None),
        (b"", 400, text, None),
        (AddCheckpoint(0, (), unknown).encode(), 404, text, None),
        (AddCheckpoint(8, proof, forged).encode(), 403, text, None),
        (AddCheckpoint(8, proof[:-1], HONEST.note(20)).encode(), 422, text, None),
        (AddCheckpoint(8, proof[::-1], HONEST.note(20)).encode(), 422, text, None),
        (AddCheckpoint(8, (), HONEST.note(20)).encode(), 422, text, None),
        (AddCheckpoint(8, proof, HONEST.note(8)).encode(), 422, text, None),
        (FORKED.request(8, 20), 422, text, None),
        (HONEST.request(8, 20), 200, text, None),
        (HONEST.request(0, 20), 409, size, b"20\n"),
    ]
    async with httpx.AsyncClient(
        base_url=f"https://{server.address}",
        verify=client_context(ca_file, log_of(ca_file)),
        trust_env=False,
    ) as http:
        for number, (request, status, media_type, body) in enumerate(cases):
            answer = await http.post("/add-checkpoint", content=request)
            assert (answer.status_code, answer.headers["content-type"]) == (status, media_type), (
                number
            )
            if body is not None:
                assert answer.content == body
            elif status == 200:
                lines = answer.text.splitlines(keepends=True)
                assert len(lines) == len(COSIGNERS)
                for line, signer in zip(lines, COSIGNERS, strict=True):
                    assert line.startswith(f"— {signer.verifier.name} ")
                    assert line.endswith("\n")
            else:
                assert answer.text.endswith("\n")
        assert (await http.post("/add-checkpoint", content=b"x" * 600_000)).status_code == 400
        assert (await http.get("/add-checkpoint")).status_code == 405
        assert (await http.get("/checkpoint/00")).status_code == 404
        shown = await http.get("/" + latest_path(ORIGIN))
        assert shown.text.startswith(HONEST.checkpoint(20).body)
        assert (await http.get("/health")).json()["witness"] == NAME
    own = shown_by(PartyRole.WORKER, "worker", ca_file)
    async with httpx.AsyncClient(
        base_url=f"https://{server.address}", verify=client_context(ca_file, own), trust_env=False
    ) as worker:
        assert (await worker.post("/beacon/commitment")).json()["code"] == "NOT_FOUND"


async def test_a_witness_answers_many_requests_on_one_connection(
    served: tuple[HttpsServer, Path],
):
    server, ca_file = served
    reader, writer = await asyncio.open_connection(
        server.host,
        server.port,
        ssl=client_context(ca_file, log_of(ca_file)),
        server_hostname=server.host,
    )
    for request in (HONEST.request(0, 3), HONEST.request(3, 5), b"?"):
        head = f"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: {len(request)}\r\n\r\n"
        writer.write(head.encode() + request)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert answer.startswith("HTTP/1.1 400" if request == b"?" else "HTTP/1.1 200")
        (length,) = [
            int(line.split(": ")[1])
            for line in answer.split("\r\n")
            if line.lower().startswith("content-length")
        ]
        await reader.readexactly(length)
    writer.close()
    await writer.wait_closed()
