"""The published vectors of §1, §3, §4 and §6.2.2, read as another implementation would read them."""

import hmac
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from shared.codec import cbor
from shared.envelope.body import decode_body
from shared.envelope.evidence import open_evidence
from shared.envelope.hpke import HpkePrivateKey
from shared.envelope.release import ReleaseContext, open_release
from shared.envelope.sealing import open_escrow, open_request, open_with_secret
from shared.envelope.secrets import TranscriptKeys
from shared.envelope.shape import Shape
from shared.envelope.shares import combine, share_commitment
from shared.envelope.stream import FrameOpener, StreamContext, stream_signature_message
from shared.parties.custody import CaseAnswer, ShareAnswer, ShareRequest
from shared.runtime.errors import CounterfoilError
from shared.statements.cose import open_as, verify_signature
from shared.statements.disclosures import DisclosureRelease, EscrowReport
from shared.statements.request import Slots
from shared.verification.escrow_check import escrow_is_bad
from tests.vectors.files import apply, load

ENVELOPE, STREAM, SHARES, SECRETS, CUSTODY = (
    load(name) for name in ("envelope", "stream", "shares", "secrets", "custody")
)
FROZEN = bytes.fromhex(ENVELOPE["frozen"]["envelope"])


def octets(vector, name):
    return bytes.fromhex(vector[name])


def open_frozen(data):
    return open_request(
        data,
        bundle_entry=octets(ENVELOPE, "bundle"),
        hpke_private=HpkePrivateKey.from_seed(octets(ENVELOPE, "node_seed")),
        now_ms=ENVELOPE["opened_at"],
    )


def test_the_primitives_are_plain_sha256_hmac_and_hkdf():
    vector = load("primitives")
    name = b"counterfoil/v1/example"
    framed = bytes([len(name)]) + name
    for part in map(bytes.fromhex, vector["parts"]):
        framed += len(part).to_bytes(4, "big") + part
    assert framed.hex() == vector["framing"]
    assert sha256(framed).hexdigest() == vector["hash"]
    assert hmac.digest(octets(vector, "mac_key"), framed, "sha256").hex() == vector["mac"]
    prk = hmac.digest(octets(vector, "salt"), octets(vector, "input_key"), "sha256")
    assert prk.hex() == vector["prk"]
    first = hmac.digest(prk, framed + b"\x01", "sha256")
    second = hmac.digest(prk, first + framed + b"\x02", "sha256")
    assert (first + second)[:42].hex() == vector["expanded_42"]


def test_the_frozen_envelope_opens_for_node_auditor_custodians_and_worker():
    opened = open_frozen(FROZEN)
    for name in ("ctx", "kc", "envelope_hash"):
        assert getattr(opened, name).hex() == ENVELOPE[name]
    secret = octets(ENVELOPE, "transcript_secret")
    assert opened.ts == secret
    assert open_with_secret(FROZEN, secret).body == opened.body
    shares = {}
    for seed in ENVELOPE["custodian_seeds"]:
        key = HpkePrivateKey.from_seed(bytes.fromhex(seed))
        share = open_escrow(FROZEN, custodian_key_id=key.key_id, hpke_private=key)
        shares[share.index] = share.share
    assert combine(shares, opened.header.threshold) == secret
    release = ENVELOPE["release"]
    context = ReleaseContext(
        octets(release, "request"), octets(release, "custodian"), opened.ctx, opened.kc
    )
    worker = HpkePrivateKey.from_seed(octets(release, "worker_seed"))
    released = open_release(
        worker, context, opened.header, bytes.fromhex(ENVELOPE["frozen"]["release"])
    )
    assert released == (release["index"], octets(release, "share"))
    assert released[1] == shares[release["index"]]


@pytest.mark.parametrize("mixed", CUSTODY["mixed"], ids=lambda mixed: mixed["name"])
def test_a_share_of_one_request_does_not_open_as_that_of_another(mixed):
    context = ReleaseContext(
        *(octets(mixed, name) for name in ("request", "custodian", "ctx", "kc"))
    )
    worker = HpkePrivateKey.from_seed(octets(ENVELOPE["release"], "worker_seed"))
    sealed = bytes.fromhex(ENVELOPE["frozen"]["release"])
    with pytest.raises(CounterfoilError) as caught:
        open_release(worker, context, open_frozen(FROZEN).header, sealed)
    assert caught.value.code.name == mixed["error"]


def test_the_custody_messages_are_read_and_the_release_names_the_frozen_share():
    messages = {name: bytes.fromhex(raw) for name, raw in CUSTODY["messages"].items()}
    limit = 2**16
    released = CaseAnswer.from_cbor(messages["answer_with_release"], max_bytes=limit).release
    assert released == octets(CUSTODY, "release")
    key = octets(CUSTODY["keys"], "custodian-2")
    release, _ = open_as(DisclosureRelease, released, key)
    share = ShareAnswer.from_cbor(messages["share_answer"], max_bytes=limit).share
    assert sha256(share).digest() == release.share
    asked = ShareRequest.from_cbor(messages["share_request"], max_bytes=limit)
    assert asked.request == release.request
    reported = CaseAnswer.from_cbor(messages["answer_with_report"], max_bytes=limit).report
    assert reported == bytes.fromhex(CUSTODY["blame"][0]["reports"][0])


@pytest.mark.parametrize("case", CUSTODY["blame"], ids=lambda case: case["name"])
def test_the_blame_vectors_follow_the_rule(case):
    reports = []
    for raw in map(bytes.fromhex, case["reports"]):
        value, statement = open_as(EscrowReport, raw, None)
        verify_signature(statement, octets(CUSTODY["keys"], statement.issuer))
        reports.append(value)
    header = open_frozen(FROZEN).header
    about = (octets(CUSTODY, "receipt"), octets(CUSTODY, "envelope"))
    assert escrow_is_bad(header, *about, reports) is case["escrow_is_bad"]


@pytest.mark.parametrize("change", ENVELOPE["spoiled"], ids=lambda change: change["name"])
def test_a_spoiled_envelope_meets_its_error(change):
    with pytest.raises(CounterfoilError) as caught:
        open_frozen(apply(FROZEN, change))
    assert caught.value.code.name == change["error"]


@pytest.mark.parametrize(
    "vector", SHARES["splits"], ids=lambda v: f"{v['threshold']} of {v['count']}"
)
def test_the_share_vectors_recombine(vector):
    shares = dict(enumerate(map(bytes.fromhex, vector["shares"]), start=1))
    k, n = vector["threshold"], vector["count"]
    last = dict(list(shares.items())[-k:])
    assert combine(last, k) == octets(SHARES, "secret")
    for i, share in shares.items():
        assert share_commitment(i, k, n, share).hex() == vector["commitments"][i - 1]


def test_the_stream_vectors_open_and_their_signatures_verify():
    keys = TranscriptKeys.derive(octets(STREAM, "transcript_secret"), octets(STREAM, "ctx"))
    context = StreamContext(
        octets(STREAM, "ctx"),
        keys.kc,
        octets(STREAM, "bundle"),
        octets(STREAM, "node_nonce"),
        STREAM["attempt"],
    )
    public = Ed25519PublicKey.from_public_bytes(octets(STREAM, "signing_key"))
    assert context.h_0.hex() == STREAM["h_0"]
    public.verify(octets(STREAM, "signature_0"), octets(STREAM, "signature_message_0"))
    opener = FrameOpener(keys, context)
    for i, frame in enumerate(STREAM["frames"], start=1):
        opened = opener.open(octets(frame, "ciphertext"))
        assert (list(opened.tokens), opened.text, opener.h.hex()) == (
            frame["tokens"],
            frame["text"],
            frame["h"],
        )
        public.verify(octets(frame, "signature"), stream_signature_message(context, i, opener.h))
    assert opener.h_final.hex() == STREAM["h_final"]
    final = opener.open_final(octets(STREAM, "final_record"))
    assert final.evidence == octets(STREAM, "evidence")
    evidence = open_evidence(octets(STREAM, "evidence"), keys, context)
    assert evidence.output_tokens == final.tokens


def test_the_frame_with_logprobs_opens():
    vector = STREAM["with_logprobs"]
    keys = TranscriptKeys.derive(octets(STREAM, "transcript_secret"), octets(STREAM, "ctx"))
    names = ("ctx", "bundle", "node_nonce")
    ctx, bundle, nonce = (octets(STREAM, name) for name in names)
    opener = FrameOpener(keys, StreamContext(ctx, keys.kc, bundle, nonce, STREAM["attempt"]))
    frame = opener.open(octets(vector, "ciphertext"))
    assert (list(frame.tokens), frame.text) == (vector["tokens"], vector["text"])
    told = [
        {
            "logprob": item.logprob,
            "top_tokens": [*item.top_tokens],
            "top_logprobs": [*item.top_logprobs],
        }
        for item in frame.logprobs
    ]
    assert told == vector["logprobs"]
    assert frame.answers(2)
    assert not frame.answers(1)
    assert not frame.answers(None)


def test_the_answer_in_time_slots_has_one_size_of_frames_and_opens():
    vector = STREAM["in_slots"]
    keys = TranscriptKeys.derive(octets(STREAM, "transcript_secret"), octets(STREAM, "ctx"))
    names = ("ctx", "bundle", "node_nonce")
    ctx, bundle, nonce = (octets(STREAM, name) for name in names)
    context = StreamContext(ctx, keys.kc, bundle, nonce, STREAM["attempt"])
    shape = Shape(Slots(**vector["slots"]), vector["padded"])
    opener = FrameOpener(keys, context, shape)
    frames = [opener.open(bytes.fromhex(frame)) for frame in vector["frames"]]
    assert {len(bytes.fromhex(frame)) for frame in vector["frames"]} == {256 + 16}
    assert "".join(frame.text for frame in frames) == "A stub"
    assert opener.h_final.hex() == vector["h_final"]
    assert len(octets(vector, "final_record")) == 2**14 + 16
    assert opener.open_final(octets(vector, "final_record")).tokens == (5, 6, 7)


def test_the_body_with_every_setting_decodes_and_its_settings_blind_seed_choice_and_prefix():
    body = decode_body(octets(SECRETS, "full_body"))
    assert (body.settings.presence_penalty_ppm, body.settings.logprobs) == (-250_000, 3)
    keys = TranscriptKeys.derive(octets(SECRETS, "transcript_secret"), octets(SECRETS, "ctx"))
    decoded = cbor.decode(octets(SECRETS, "full_body"))
    assert body.prefix == (5, 6, 70_000)
    plain = {**decoded["settings"], "seed": decoded["seed"], "choice": 2, "delivered": 3}
    assert keys.blind("settings", cbor.encode(plain)).hex() == SECRETS["full_settings_blinded"]


def test_the_derived_secrets_are_the_published_ones():
    keys = TranscriptKeys.derive(octets(SECRETS, "transcript_secret"), octets(SECRETS, "ctx"))
    for name in ("prk", "kc", "request_key", "request_nonce", "response_secret", "sampling_seed"):
        assert getattr(keys, name).hex() == SECRETS[name]
    prk = hmac.digest(octets(SECRETS, "ctx"), octets(SECRETS, "transcript_secret"), "sha256")
    assert prk.hex() == SECRETS["prk"]
