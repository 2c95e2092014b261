"""Evidence in key bundles: three-valued claims with sources, which a policy can demand and no plug-in can force."""

import threading
from dataclasses import replace

import pytest

from execution_layer.client.attesting import Attesting, installed
from execution_layer.client.explain import explain
from execution_layer.client.policy import AttestationPolicy
from execution_layer.node.attesters import development_attestation
from shared.codec.hashing import framing
from shared.codec.moment import now_ms
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_bytes
from shared.statements.cose import open_as
from shared.statements.keys import Attestation, KeyBundle
from shared.verification.attestation import BOUND, FRESH, Claim, Value, report_data, value_of
from shared.verification.development_attestation import FORMAT, HARDWARE, Evidence, appraise
from tests.vectors.files import load
from tests.vectors.samples import BUNDLE, NOW, hpke_key, signing_key

ATTESTED = replace(BUNDLE, attestation=development_attestation(BUNDLE))
OPEN = AttestationPolicy(development=True)
DEMANDING = AttestationPolicy(development=True, require=(BOUND,))


def affirming(evidence, data, as_of_ms):
    return (Claim(BOUND, Value.AFFIRMED, "t"), Claim(FRESH, Value.AFFIRMED, "t"))


def with_verifier(policy, verifier, **options):
    return Attesting(policy, {"test": lambda: verifier}, **options)


def of_format(name, evidence=b"e"):
    return replace(BUNDLE, attestation=Attestation(name, evidence))


async def values(attesting, bundle, as_of=NOW):
    claims = await attesting.check(bundle, as_of)
    return tuple(value_of(claims, name).value for name in (BOUND, FRESH, HARDWARE))


async def refused(attesting, bundle, as_of=NOW):
    with pytest.raises(CounterfoilError) as caught:
        await attesting.check(bundle, as_of)
    assert caught.value.code is Code.UNTRUSTED_KEY
    return caught.value.detail


async def test_evidence_is_about_one_key_bundle_and_counts_for_its_life():
    attesting = Attesting(OPEN)
    assert await values(attesting, ATTESTED) == ("affirmed", "affirmed", "denied")
    assert await values(attesting, ATTESTED, BUNDLE.not_after) == ("affirmed", "denied", "denied")
    assert await values(attesting, ATTESTED, BUNDLE.not_before - 1) == (
        "affirmed",
        "denied",
        "denied",
    )


@pytest.mark.parametrize(
    "change",
    [
        {"signing_key": signing_key("another").public_key().public_bytes_raw()},
        {"hpke_key": hpke_key("another").public_bytes},
        {"node": "n2"},
        {"operator": "another"},
        {"not_after": BUNDLE.not_after - 1},
    ],
)
async def test_evidence_of_another_key_node_or_life_is_not_bound(change):
    stolen = replace(ATTESTED, **change)
    assert (await values(Attesting(OPEN), stolen))[0] == "denied"
    assert "bound is denied" in await refused(Attesting(DEMANDING), stolen)


async def test_expired_evidence_meets_no_demand():
    assert "fresh is denied" in await refused(Attesting(DEMANDING), ATTESTED, BUNDLE.not_after)


async def test_evidence_with_another_signature_claims_nothing_good():
    found = Evidence.from_cbor(ATTESTED.attestation.evidence, max_bytes=1024)
    forged = replace(found, until=found.until + 1).to_cbor()
    bundle = replace(BUNDLE, attestation=Attestation(FORMAT, forged))
    assert await values(Attesting(OPEN), bundle) == ("denied", "denied", "denied")


async def test_a_production_policy_refuses_a_development_attester_whatever_it_demands():
    for policy in (AttestationPolicy(), AttestationPolicy(require=(BOUND,))):
        assert "proves nothing" in await refused(Attesting(policy), ATTESTED)
    assert "hardware is denied" in await refused(
        Attesting(AttestationPolicy(development=True, require=(HARDWARE,))), ATTESTED
    )


async def test_an_unknown_format_and_no_evidence_leave_everything_unknown():
    for bundle in (BUNDLE, of_format("of-nobody"), of_format(FORMAT)):
        assert await values(Attesting(OPEN), bundle) == ("unknown",) * 3
        assert "bound is unknown" in await refused(Attesting(DEMANDING), bundle)


@pytest.mark.parametrize(
    "claims",
    [
        lambda: [Claim(BOUND, Value.AFFIRMED, "a")] * 2,
        lambda: [Claim(BOUND, "affirmed", "a")],  # type: ignore[arg-type]  # what a plug-in may do
        lambda: [Claim("", Value.AFFIRMED, "a")],
        lambda: [Claim(BOUND, Value.AFFIRMED, "a" * 300)],
        lambda: ["bound"],
        lambda: (Claim(f"c{n}", Value.AFFIRMED, "a") for n in range(100)),
        lambda: 7,
        lambda: 1 / 0,
        lambda: (_ for _ in ()).throw(SystemError("no")),
    ],
)
async def test_a_plug_in_that_raises_or_returns_nonsense_makes_everything_unknown(claims):
    attesting = with_verifier(OPEN, lambda *_: claims())
    assert await values(attesting, of_format("test")) == ("unknown",) * 3


async def test_a_plug_in_that_hangs_is_left_and_not_called_again():
    calls, release = [], threading.Event()

    def hang(*_):
        calls.append(1)
        release.wait(30)
        return affirming(*_)

    attesting = with_verifier(OPEN, hang, patience_s=0.05)
    try:
        for _ in range(3):
            assert await values(attesting, of_format("test")) == ("unknown",) * 3
        assert len(calls) == 1
    finally:
        release.set()


async def test_a_plug_in_that_cannot_be_loaded_makes_everything_unknown():
    def broken():
        raise ImportError("no library")

    attesting = Attesting(OPEN, {"test": broken})
    assert await values(attesting, of_format("test")) == ("unknown",) * 3


async def test_a_plug_in_gets_evidence_report_data_and_time_and_its_sources_are_named():
    got = []

    def verifier(*arguments):
        got.append(arguments)
        return affirming(*arguments)

    attesting = with_verifier(AttestationPolicy(require=(BOUND, FRESH)), verifier)
    bundle = of_format("test", b"evidence")
    (bound, _) = await attesting.check(bundle, NOW)
    assert got == [(b"evidence", report_data(bundle), NOW)]
    assert bound.source == "test: t"
    assert FORMAT in installed()


def test_report_data_is_what_the_protocol_says():
    from hashlib import sha256

    parts = (
        b"gpu-farm/n1", BUNDLE.signing_key, BUNDLE.hpke_key,
        BUNDLE.not_before.to_bytes(8, "big"), BUNDLE.not_after.to_bytes(8, "big"),
    )  # fmt: skip
    assert report_data(BUNDLE) == sha256(framing("attestation", *parts)).digest()


@pytest.mark.parametrize("case", load("attestation")["cases"], ids=lambda case: case["name"])
def test_vectors_of_the_protocol(case):
    vectors = load("attestation")
    key = public_bytes(signing_key("operator"))
    bundle, _ = open_as(KeyBundle, bytes.fromhex(vectors["statement"]), key)
    assert report_data(bundle).hex() == vectors["report_data"]
    claims = appraise(bytes.fromhex(case["evidence"]), report_data(bundle), case["as_of"])
    assert {claim.name: claim.value.value for claim in claims} == case["claims"]


async def test_a_node_attests_its_key_bundles_and_the_client_shows_what_it_was_told(world):
    async with world.node(attestation="development"):
        async with world.client() as client:
            with pytest.raises(CounterfoilError, match="development attester"):
                await client.generate(prompt="hello", max_tokens=2)
        facts = {"attestation": {"development": True, "require": ["bound"]}}
        async with world.client(**facts) as client:
            assert (await client.generate(prompt="hello", max_tokens=2)).text
            nodes = await client.nodes()
            wanted = client._wanted(None, None, {"prompt": "hello"})
            told = explain(client._policy, client.custodians, {}, nodes, wanted, 0, now_ms())
    shown = {item["name"]: item["value"] for item in told["checked"]["nodes"][0]["attestation"]}
    assert shown == {"bound": "affirmed", "fresh": "affirmed", "hardware": "denied"}
