"""An envelope for several candidates: sealed once, ordered from each at most once, and no forger's tool."""

from dataclasses import replace

import pytest
from click.testing import CliRunner

from execution_layer.client.response_check import Sent, StreamReader
from execution_layer.commands.client import infer
from shared.codec import cbor
from shared.envelope.body import Audit, AuditPolicy
from shared.envelope.header import Envelope
from shared.envelope.sealing import Candidate, OpenedRequest, open_request, seal_request
from shared.envelope.stream import FrameSealer, StreamContext, stream_signature_message
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_bytes
from shared.statements.request import RequestBody, SamplingSettings
from tests.execution_layer.asking import ask, make_request, padded_body, random32, seal_by_hand
from tests.execution_layer.fakes import FakeEngine
from tests.vectors.samples import BUNDLE, NOW, ORDER, hpke_key, octets, signing_key


async def test_a_retry_at_a_candidate_is_another_order_for_the_same_envelope(world):
    async with (
        world.node(FakeEngine(dies_after=1)) as first,
        world.node(name="node-2"),
        world.client(candidates=2) as client,
    ):
        await client.nodes()
        answer = await client.generate(prompt="hello", max_tokens=3)
        second, broken = client.archive.latest(2)
        assert (answer.node, answer.number, answer.attempt) == ("honest/node-2", 0, 1)
        assert second.envelope == broken.envelope
        assert second.order_entry != broken.order_entry
        header = Envelope.from_bytes(broken.envelope).header
        assert set(header.candidates) == {second.bundle, broken.bundle}
        assert broken.bundle == first.ring.current().entry


async def test_where_no_candidate_is_left_the_next_envelope_is_a_fresh_one(world):
    async with world.node(FakeEngine(dies_after=1)), world.client(max_attempts=2) as client:
        with pytest.raises(CounterfoilError):
            await client.generate(prompt="hello", max_tokens=3, candidates=2)
        one, other = client.archive.latest(2)
        assert one.envelope != other.envelope
        assert len(Envelope.from_bytes(one.envelope).header.candidates) == 1  # there is one node


async def test_one_candidate_is_the_default_and_each_attempt_has_its_own_envelope(world):
    async with (
        world.node(FakeEngine(dies_after=1)),
        world.node(name="node-2"),
        world.client() as client,
    ):
        await client.nodes()
        await client.generate(prompt="hello", max_tokens=3)
        kept = client.archive.latest(2)
        assert kept[0].envelope != kept[1].envelope
        assert all(len(Envelope.from_bytes(one.envelope).header.candidates) == 1 for one in kept)


@pytest.mark.parametrize("candidates", [0, 9, True, "2"])
async def test_candidates_are_one_to_eight(world, candidates):
    async with world.node(), world.client() as client:
        with pytest.raises(CounterfoilError) as caught:
            await client.generate(prompt="hello", candidates=candidates)
        assert caught.value.code is Code.INVALID_ARGUMENT


def test_the_command_line_offers_candidates():
    assert "--candidates" in CliRunner().invoke(infer, ["--help"]).output


# -- attacks --------------------------------------------------------------------------------------------


BODY = RequestBody(SamplingSettings(4), prompt="hello")
SEALED = seal_request(
    BODY,
    tenant="acme",
    candidates=[
        Candidate(octets("bundle a"), hpke_key("node a").public_bytes),
        Candidate(octets("bundle b"), hpke_key("node b").public_bytes),
    ],
    custodians=[hpke_key("custodian").public_bytes],
    threshold=1,
    model_root=octets("model"),
    max_output_tokens=4,
    policy=AuditPolicy(Audit.SAMPLED),
    expiry_ms=NOW + 60_000,
)
"""For two candidates; the order names the first."""


def ordered() -> Sent:
    """Return what the client knows of its order from the first candidate."""
    order = replace(
        ORDER,
        ctx=SEALED.ctx,
        kc=SEALED.kc,
        envelope=SEALED.envelope_hash,
        bundle=octets("bundle a"),
    )
    opened = OpenedRequest(
        header=SEALED.header,
        ctx=SEALED.ctx,
        kc=SEALED.kc,
        keys=SEALED.keys,
        body=BODY,
        ts=SEALED.ts,
        envelope_hash=SEALED.envelope_hash,
    )
    bundle = replace(BUNDLE, signing_key=public_bytes(signing_key("node a")))
    tenant = public_bytes(signing_key("tenant"))
    return Sent(order, octets("order"), opened, bundle, order.bundle, tenant)


def stream(*, named: str, signer: str):
    """Return (nonce, signature, frame, its signature) of a stream that a candidate made up: it knows the transcript secret."""
    forger = open_request(
        SEALED.envelope_bytes,
        bundle_entry=octets("bundle b"),
        hpke_private=hpke_key("node b"),
        now_ms=NOW,
    )
    nonce = octets("nonce")
    context = StreamContext(SEALED.ctx, SEALED.kc, octets(named), nonce, 0)
    sealer = FrameSealer(forger.keys, context)
    key = signing_key(signer)
    begun = key.sign(stream_signature_message(context, 0, sealer.h0))
    ciphertext, h = sealer.seal((7,), "forged")
    return nonce, begun, ciphertext, key.sign(stream_signature_message(context, 1, h))


@pytest.mark.parametrize(
    ("named", "signer"),
    [("bundle a", "node b"), ("bundle b", "node b"), ("bundle b", "node a")],
    ids=["another's key", "another's stream", "another's stream, signed by this one"],
)
async def test_a_candidate_cannot_forge_the_stream_of_another(named, signer):
    nonce, begun, _, _ = stream(named=named, signer=signer)
    with pytest.raises(CounterfoilError) as caught:
        StreamReader(ordered(), nonce, begun)
    assert caught.value.code is Code.BAD_SIGNATURE


async def test_a_candidate_cannot_go_on_with_the_stream_of_another():
    """It has the beginning that the other one signed, and keys under which its own frame opens."""
    nonce, begun, _, _ = stream(named="bundle a", signer="node a")
    _, _, ciphertext, forged = stream(named="bundle a", signer="node b")
    reader = StreamReader(ordered(), nonce, begun)
    with pytest.raises(CounterfoilError) as caught:
        reader.frame(1, ciphertext, forged)
    assert caught.value.code is Code.BAD_SIGNATURE


DOWNGRADES = {
    "policy": lambda header: replace(header, policy=random32()),
    "candidates": lambda header: replace(header, request=bytes(16)),
    "threshold and shares": lambda header: replace(header, shares=(random32(),)),
    "expiry": lambda header: replace(header, expiry=header.expiry + 1),
}


@pytest.mark.parametrize("way", DOWNGRADES)
async def test_a_header_that_a_candidate_alters_is_not_the_one_ordered(world, way):
    """It knows the transcript secret, so it can seal everything anew around another header; the order names this one."""
    async with world.node() as node:
        request = make_request(world, node)
        altered = seal_by_hand(
            node,
            request.sealed,
            header=DOWNGRADES[way](request.sealed.header),
            padded=padded_body(request.body),
        )
        with pytest.raises(CounterfoilError) as caught:
            await ask(world, node, request.order, altered)
        assert caught.value.code is Code.NO_ORDER


@pytest.mark.parametrize("name", ["suite", "v"])
@pytest.mark.parametrize("value", [0, 2])
async def test_another_suite_or_version_is_no_envelope(world, name, value):
    async with world.node() as node:
        request = make_request(world, node)
        fields = cbor.decode(request.envelope, max_bytes=2**22)
        header = cbor.decode(fields["header"], max_bytes=2**16)
        fields["header"] = cbor.encode({**header, name: value})
        with pytest.raises(CounterfoilError) as caught:
            await ask(world, node, request.order, cbor.encode(fields))
        assert caught.value.code is Code.MALFORMED
