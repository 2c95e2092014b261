"""The custodian over HTTPS: the audit layer's own client is answered, and refusals reveal no more than they may."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from audit_layer.custodian.app import create_app
from audit_layer.custodian.core import Custodian
from audit_layer.disclosure.parties import CustodianClient
from shared.envelope.release import ReleaseContext, open_release
from shared.parties.custody import MAX_SHARE_REQUEST, CaseAnswer, ShareRequest
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.http import serve_https
from shared.runtime.party import PartyFiles, PartyRole
from shared.runtime.tls import LocalCA, client_context
from shared.statements.beacons import BeaconCommitment, BeaconReveal
from shared.statements.cose import entry_of, open_as
from shared.statements.disclosures import DisclosureRelease, EscrowReport
from shared.verification.release_case import MAX_CASE
from tests.audit_layer.custodian import custody
from tests.audit_layer.custodian.test_core import GOOD, LIES
from tests.parties import shown_by
from tests.shared.selection import world as worlds
from tests.shared.selection.world import World, not_by_rate, sealed
from tests.vectors.samples import hpke_key, octets


@dataclass
class Served:
    """A custodian that answers over TLS, in a thread-friendly form."""

    url: str
    ca_file: Path
    folder: Path
    holder: Custodian

    @property
    def worker(self) -> PartyFiles:
        """What a worker shows."""
        return shown_by(PartyRole.WORKER, "worker", self.ca_file)

    def client(self) -> CustodianClient:
        return CustodianClient(custody.NAME, self.url, self.ca_file, self.worker)

    async def post(self, content: bytes, path: str = "/release") -> httpx.Response:
        async with httpx.AsyncClient(
            base_url=self.url, verify=client_context(self.ca_file, self.worker), trust_env=False
        ) as http:
            return await http.post(path, content=content)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    authority = LocalCA.load_or_create(tmp_path / "ca")
    with custody.custodian(tmp_path) as holder:
        app = create_app(holder, custody.beacon(holder))
        server = await serve_https(
            app, authority.issue("custodian"), "127.0.0.1:0", callers_ca=authority.ca_file
        )
        yield Served(f"https://{server.address}", authority.ca_file, tmp_path, holder)
        await server.stop()


async def test_the_audit_layers_client_gets_a_share_that_its_worker_opens(served: Served):
    client = served.client()
    try:
        case, request = GOOD.case().to_cbor(), entry_of(GOOD.request)
        answered = await asyncio.to_thread(client.release, case)
        assert await asyncio.to_thread(client.release, case) == answered
        statement = answered.release
        assert statement is not None
        share = await asyncio.to_thread(client.share, request, GOOD.publish(statement))
        assert await asyncio.to_thread(client.share, request, GOOD.publish(statement)) == share
    finally:
        client.close()
    context = ReleaseContext(entry_of(GOOD.request), custody.KEY.key_id, sealed().ctx, sealed().kc)
    assert open_release(hpke_key("worker-1"), context, sealed().header, share)[0] == 1
    assert open_as(DisclosureRelease, statement, custody.PUBLIC)[0].custodian == custody.NAME


async def test_a_custodian_commits_and_reveals_as_a_party_of_the_beacon(served: Served):
    client = served.client()
    shown = (GOOD.open, GOOD.proof(GOOD.open), GOOD.seal, GOOD.proof(GOOD.seal))
    try:
        commitment = await asyncio.to_thread(client.commitment, 3)
        reveal = await asyncio.to_thread(client.reveal, 3, *shown)
        assert await asyncio.to_thread(client.reveal, 3, *shown) == reveal
        with pytest.raises(CounterfoilError) as caught:
            await asyncio.to_thread(client.reveal, 4, *shown)
    finally:
        client.close()
    assert caught.value.code is Code.BAD_PROOF
    assert commitment in GOOD.commitments
    assert open_as(BeaconCommitment, commitment, custody.PUBLIC)[0].epoch == 3
    assert open_as(BeaconReveal, reveal, custody.PUBLIC)[0].seal == entry_of(GOOD.seal)


async def test_whatever_is_wrong_with_a_wrap_looks_the_same_from_outside(
    served: Served, monkeypatch: pytest.MonkeyPatch
):
    """Otherwise a custodian would tell strangers what it can and cannot open."""
    looks = set()
    for lie in LIES.values():
        monkeypatch.setattr(worlds, "sealed", lambda lie=lie, **_: lie)
        world = World()
        found = await served.post(world.case().to_cbor())
        looks.add((found.status_code, len(found.content), _named(found)))
        answered = CaseAnswer.from_cbor(found.content, max_bytes=2**17)
        assert answered.report is not None
        report, _ = open_as(EscrowReport, answered.report, custody.PUBLIC)
        assert (report.request, report.envelope) == (entry_of(world.request), lie.envelope_hash)
    assert len(LIES) == 5
    assert len(looks) == 1
    assert custody.kept(served.folder) == 0


def _named(found: httpx.Response) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((k, v) for k, v in found.headers.items() if k != "date"))


@pytest.mark.parametrize(
    ("message", "status", "code"),
    [
        (b"junk", 400, "MALFORMED"),
        (ShareRequest(octets("request"), "proof").to_cbor(), 404, "NOT_FOUND"),
        (bytes(MAX_SHARE_REQUEST + 1), 400, "MALFORMED"),
    ],
)
async def test_who_asks_for_a_share_that_was_not_released_gets_none(
    served: Served, message: bytes, status: int, code: str
):
    found = await served.post(message, "/share")
    assert (found.status_code, found.json()["code"]) == (status, code)


async def test_refusals_are_problems_with_the_catalogues_code(served: Served):
    undrawn = World(draw=lambda draw: draw, subject=not_by_rate)
    unwitnessed = GOOD.case(draw_proof=GOOD.proof(GOOD.draw, witnesses=()))
    for message, status, code in (
        (undrawn.case().to_cbor(), 400, "BAD_PROOF"),
        (unwitnessed.to_cbor(), 409, "NOT_WITNESSED"),
        (b"junk", 400, "MALFORMED"),
        (bytes(MAX_CASE + 1), 400, "MALFORMED"),
    ):
        found = await served.post(message)
        assert (found.status_code, found.json()["code"]) == (status, code)
        assert found.headers["content-type"] == "application/problem+json"
    assert custody.kept(served.folder) == 0


async def test_a_client_learns_the_custodians_own_code_and_who_refused(served: Served):
    client = served.client()
    try:
        with pytest.raises(CounterfoilError) as caught:
            await asyncio.to_thread(
                client.release, GOOD.case(draw_proof=GOOD.proof(GOOD.seal)).to_cbor()
            )
    finally:
        client.close()
    assert caught.value.code is Code.BAD_PROOF
    assert custody.NAME in str(caught.value)


async def test_other_paths_and_methods_are_refused_and_health_names_the_custodian(served: Served):
    async with httpx.AsyncClient(
        base_url=served.url, verify=client_context(served.ca_file), trust_env=False
    ) as http:
        assert (await http.get("/health")).json() == {"status": "ok", "custodian": custody.NAME}
        assert (await http.get("/release")).status_code == 405
        assert (await http.get("/openapi.json")).status_code == 404
        assert (await http.post("/releases")).json()["code"] == "NOT_FOUND"


async def test_without_tls_nothing_is_answered(served: Served):
    plain = served.url.replace("https://", "http://")
    async with httpx.AsyncClient(trust_env=False) as http:
        with pytest.raises(httpx.HTTPError):
            await http.get(f"{plain}/health")
