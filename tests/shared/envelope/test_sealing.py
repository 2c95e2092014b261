"""Sealed requests: who can open them, and why every failure inside looks the same."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.codec import cbor
from shared.codec.hashing import framing
from shared.envelope.body import Audit, AuditPolicy, decode_body, encode_body
from shared.envelope.header import ESCROW_BYTES, Envelope, envelope_hash
from shared.envelope.hpke import seal
from shared.envelope.opaque import unreadable
from shared.envelope.padding import pad
from shared.envelope.release import ReleaseContext, open_release, seal_release
from shared.envelope.sealing import Candidate, open_escrow, open_request, open_with_secret
from shared.envelope.secrets import TranscriptKeys
from shared.envelope.shares import combine
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import PPM, Message, RequestBody, SamplingSettings, Slots
from tests.shared.envelope.sealed import (
    BODY,
    BUNDLE,
    CUSTODIANS,
    NODE,
    OTHER_BUNDLE,
    OTHER_NODE,
    WORKER,
    sealed_request,
)
from tests.vectors.samples import NOW, octets

SEALED = sealed_request()
GOOD = Envelope.from_bytes(SEALED.envelope_bytes)


def failure(call) -> CounterfoilError:
    with pytest.raises(CounterfoilError) as caught:
        call()
    return caught.value


def open_as_node(data, key=NODE, bundle=BUNDLE, now=NOW):
    return open_request(data, bundle_entry=bundle, hpke_private=key, now_ms=now)


texts = st.text(max_size=40)
bodies = st.builds(
    RequestBody,
    settings=st.builds(
        SamplingSettings,
        max_tokens=st.integers(1, 16),
        temperature_ppm=st.integers(0, 100_000_000),
        top_k=st.integers(0, 2**20),
        top_p_ppm=st.integers(1, 1_000_000),
        stop=st.lists(st.text(min_size=1, max_size=8), max_size=8).map(tuple),
    ),
    messages=st.just(()),
    prompt=texts,
    seed=st.none() | st.binary(min_size=32, max_size=32),
) | st.builds(
    RequestBody,
    settings=st.just(SamplingSettings(max_tokens=1)),
    messages=st.lists(
        st.builds(Message, st.sampled_from(["system", "user", "assistant"]), texts),
        min_size=1,
        max_size=5,
    ).map(tuple),
)


@settings(max_examples=40, deadline=None)
@given(body=bodies)
def test_a_request_round_trips_to_node_auditor_and_custodians(body):
    sealed = sealed_request(body)
    opened = open_as_node(sealed.envelope_bytes)
    assert (opened.body, opened.ts, opened.ctx, opened.kc) == (
        body,
        sealed.ts,
        sealed.ctx,
        sealed.kc,
    )
    assert open_with_secret(sealed.envelope_bytes, sealed.ts).body == body
    shares = {}
    for key in CUSTODIANS[:2]:
        share = open_escrow(sealed.envelope_bytes, custodian_key_id=key.key_id, hpke_private=key)
        shares[share.index] = share.share
    assert combine(shares, 2) == sealed.ts
    assert decode_body(encode_body(body)) == body


def test_the_envelope_says_nothing_about_length_within_a_class_or_about_the_policy():
    sizes = {
        len(sealed_request(replace(BODY, messages=(Message("user", "x" * n),))).envelope_bytes)
        for n in (0, 1, 60)
    }
    assert len(sizes) == 1
    sizes = {len(sealed_request(policy=AuditPolicy(audit)).envelope_bytes) for audit in Audit}
    assert len(sizes) == 1, "the node could tell what will never be audited"
    assert {len(wrap) for wrap in GOOD.escrow} == {ESCROW_BYTES}


def test_the_prompt_is_nowhere_in_the_envelope():
    assert BODY.messages[0].content.encode()[:6] not in SEALED.envelope_bytes
    assert SEALED.ts not in SEALED.envelope_bytes


def test_two_seals_of_one_request_share_nothing_secret():
    again = sealed_request()
    assert again.ts != SEALED.ts
    assert again.ctx != SEALED.ctx
    assert again.kc != SEALED.kc


def test_hashes_are_those_of_the_bytes():
    assert SEALED.envelope_hash == envelope_hash(SEALED.envelope_bytes)
    assert SEALED.ctx == GOOD.header.ctx
    assert GOOD.to_bytes() == SEALED.envelope_bytes


def test_every_failure_inside_is_the_same_error_with_the_same_text():
    keys = SEALED.keys
    aad = SEALED.ctx + SEALED.kc

    def with_body(plaintext, associated=aad):
        body = AESGCM(keys.request_key).encrypt(keys.request_nonce, plaintext, associated)
        return replace(GOOD, body=body).to_bytes()

    padded = GOOD.header.padded
    other_ts = seal(
        NODE.public_bytes, framing("wrap/node", BUNDLE, SEALED.ctx, SEALED.kc), octets("ts")
    )
    short_ts = replace(GOOD, wraps=(other_ts,)).to_bytes()
    wrong_label = seal(
        NODE.public_bytes, framing("wrap/custodian", BUNDLE, SEALED.ctx, SEALED.kc), SEALED.ts
    )
    attempts = {
        "wrong key": lambda: open_as_node(SEALED.envelope_bytes, OTHER_NODE),
        "kc of another secret": lambda: open_as_node(short_ts),
        "kc changed": lambda: open_as_node(replace(GOOD, kc=octets("kc")).to_bytes()),
        "wrap under another label": lambda: open_as_node(
            replace(GOOD, wraps=(wrong_label,)).to_bytes()
        ),
        "header changed": lambda: open_as_node(
            replace(GOOD, header=replace(GOOD.header, expiry=NOW + 2000)).to_bytes()
        ),
        "share commitment": lambda: open_with_secret(
            _reheadered(shares=(octets("s"),) * 3), SEALED.ts
        ),
        "other threshold": lambda: open_with_secret(_reheadered(threshold=3), SEALED.ts),
        "other associated data": lambda: open_as_node(with_body(bytes(padded), b"")),
        "no padding": lambda: open_as_node(with_body(b"x" * padded)),
        "no CBOR": lambda: open_as_node(with_body(b"\xff" * (padded - 1) + b"\x80")),
        "lone surrogate": lambda: open_as_node(with_body(pad(_surrogate_body(), 256))),
        "wrong secret": lambda: open_with_secret(SEALED.envelope_bytes, octets("ts")),
        "short secret": lambda: open_with_secret(SEALED.envelope_bytes, b"short"),
        "wrong custodian key": lambda: open_escrow(
            SEALED.envelope_bytes, custodian_key_id=CUSTODIANS[0].key_id, hpke_private=CUSTODIANS[1]
        ),
    }
    expected = unreadable()
    for name, attempt in attempts.items():
        error = failure(attempt)
        assert (error.code, error.detail, error.remedy) == (
            Code.UNREADABLE,
            expected.detail,
            None,
        ), name
        assert error.public_detail() == Code.UNREADABLE.value.message


def _reheadered(plaintext=None, **changes) -> bytes:
    """An envelope whose header was changed and whose kc and body follow."""
    header = replace(GOOD.header, **changes)
    keys = TranscriptKeys.derive(SEALED.ts, header.ctx)
    plaintext = plaintext or pad(encode_body(BODY), 256)
    body = AESGCM(keys.request_key).encrypt(keys.request_nonce, plaintext, header.ctx + keys.kc)
    return replace(GOOD, header=header, kc=keys.kc, body=body).to_bytes()


def test_the_envelope_that_only_differs_in_its_shares_would_open_otherwise():
    assert open_with_secret(_reheadered(), SEALED.ts).body == BODY


def _surrogate_body() -> bytes:
    good = encode_body(RequestBody(settings=SamplingSettings(max_tokens=1), prompt="abc"))
    return good.replace(b"\x63abc", b"\x63\xed\xa0\x80")


def test_text_that_is_not_unicode_is_malformed_on_both_sides():
    for body in (
        RequestBody(settings=SamplingSettings(max_tokens=1), prompt="\ud800"),
        RequestBody(
            settings=SamplingSettings(max_tokens=1), messages=(Message("user", "a\udfff"),)
        ),
        RequestBody(settings=SamplingSettings(max_tokens=1, stop=("\ud83d",)), prompt="x"),
    ):
        assert failure(lambda body=body: encode_body(body)).code is Code.MALFORMED
    assert failure(lambda: decode_body(_surrogate_body())).code is Code.MALFORMED


@pytest.mark.parametrize(
    "change",
    [
        lambda body: {**body, "extra": 1},
        lambda body: {**body, "messages": []},
        lambda body: {**body, "prompt": "both"},
        lambda body: {key: value for key, value in body.items() if key != "messages"},
        lambda body: {**body, "messages": [{"role": "tool", "content": ""}]},
        lambda body: {**body, "messages": [{"role": "user"}]},
        lambda body: {**body, "seed": bytes(31)},
        lambda body: {**body, "choice": 0},
        lambda body: {**body, "choice": -1},
        lambda body: {**body, "choice": 2**32},
        lambda body: {**body, "prefix": [5]},  # without a seed
        lambda body: {**body, "seed": bytes(32), "prefix": []},
        lambda body: {**body, "seed": bytes(32), "prefix": [2**32]},
        lambda body: {**body, "seed": bytes(32), "prefix": [-1]},
        lambda body: {**body, "seed": bytes(32), "prefix": b"5"},
        lambda body: {**body, "seed": bytes(32), "prefix": [1] * (2**20 - 15)},
        lambda body: {**body, "slots": {"ms": 50}},
        lambda body: {**body, "slots": {"ms": 19, "size": 256}},
        lambda body: {**body, "slots": {"ms": 50, "size": 300}},
        lambda body: {**body, "slots": {"ms": 50, "size": 256, "x": 1}},
        lambda body: {**body, "slots": None},
        lambda body: {**body, "settings": {**body["settings"], "stop": ["x"] * 9}},
        lambda body: {**body, "settings": {**body["settings"], "stop_token_ids": []}},
        lambda body: {**body, "settings": {**body["settings"], "stop_token_ids": [2**32]}},
        lambda body: {**body, "settings": {**body["settings"], "stop_token_ids": [-1]}},
        lambda body: {**body, "settings": {**body["settings"], "stop_token_ids": [*range(65)]}},
        lambda body: {**body, "settings": {**body["settings"], "min_p_ppm": None}},
        lambda body: {**body, "settings": {**body["settings"], "logprobs": "5"}},
        lambda body: {**body, "settings": {**body["settings"], "min_p": 1}},
    ],
)
def test_a_body_that_the_protocol_does_not_permit_is_malformed_and_does_not_open(change):
    data = cbor.encode(change(cbor.decode(encode_body(BODY))))
    assert failure(lambda: decode_body(data)).code is Code.MALFORMED
    assert failure(lambda: _open_with_body(data)).code is Code.UNREADABLE


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("max_tokens", 0, "max_tokens must be"),
        ("max_tokens", 2**31, "max_tokens must be"),
        ("top_p_ppm", 0, "top_p must be"),
        ("stop", [""], "a stop string must be"),
        ("min_p_ppm", 0, "min_p must be"),
        ("min_p_ppm", PPM + 1, "min_p must be"),
        ("min_p_ppm", -1, "min_p must be"),
        ("repetition_penalty_ppm", 9_999, "repetition_penalty must be"),
        ("repetition_penalty_ppm", 100 * PPM + 1, "repetition_penalty must be"),
        ("presence_penalty_ppm", 0, "a presence_penalty of 0 must be omitted"),
        ("presence_penalty_ppm", 2 * PPM + 1, "presence_penalty must be"),
        ("frequency_penalty_ppm", 0, "a frequency_penalty of 0 must be omitted"),
        ("frequency_penalty_ppm", -2 * PPM - 1, "frequency_penalty must be"),
        ("stop_token_ids", [2, 1], "stop token ids must be ascending and unique"),
        ("stop_token_ids", [1, 1], "stop token ids must be ascending and unique"),
        ("logprobs", 21, "logprobs must be"),
        ("logprobs", -1, "logprobs must be"),
    ],
)
def test_settings_out_of_range_are_reported_to_their_author_and_nothing_opens(name, value, told):
    decoded = cbor.decode(encode_body(BODY))
    data = cbor.encode({**decoded, "settings": {**decoded["settings"], name: value}})
    for attempt in (lambda: decode_body(data), lambda: _open_with_body(data)):
        error = failure(attempt)
        assert error.code is Code.INVALID_ARGUMENT
        assert told in error.detail


def test_settings_that_are_off_leave_no_trace_and_those_that_are_on_come_through():
    decoded = cbor.decode(encode_body(BODY))
    assert set(decoded) == {"messages", "settings"}
    assert set(decoded["settings"]) == {
        "max_tokens",
        "temperature_ppm",
        "top_k",
        "top_p_ppm",
        "stop",
    }
    full = replace(
        BODY,
        choice=2**32 - 1,
        seed=bytes(32),
        prefix=(0, 2**32 - 1),
        slots=Slots(20, 2**16),
        settings=SamplingSettings(
            max_tokens=16,
            min_p_ppm=50_000,
            repetition_penalty_ppm=1_100_000,
            presence_penalty_ppm=-2 * PPM,
            frequency_penalty_ppm=2 * PPM,
            stop_token_ids=(0, 2**32 - 1),
            logprobs=0,
        ),
    )
    assert decode_body(encode_body(full)) == full
    assert open_as_node(sealed_request(full).envelope_bytes).body == full


def _open_with_body(data):
    """Open the sealed envelope with another body, as its author might seal it."""
    plaintext = pad(data, 256)
    return open_with_secret(_reheadered(plaintext, padded=len(plaintext)), SEALED.ts)


def test_what_anyone_can_see_has_errors_of_its_own():
    data = SEALED.envelope_bytes
    assert failure(lambda: open_as_node(data, now=NOW + 1000)).code is Code.EXPIRED
    assert open_as_node(data, now=NOW + 999).body == BODY
    assert failure(lambda: open_as_node(data, bundle=OTHER_BUNDLE)).code is Code.STALE_KEY
    stranger = WORKER
    error = failure(
        lambda: open_escrow(data, custodian_key_id=stranger.key_id, hpke_private=stranger)
    )
    assert error.code is Code.NOT_FOUND


@settings(max_examples=80, deadline=None)
@given(
    at=st.integers(0, len(SEALED.envelope_bytes) - 1),
    flip=st.integers(1, 255),
    cut=st.integers(0, 6000),
)
def test_no_damaged_envelope_opens(at, flip, cut):
    good = SEALED.envelope_bytes
    changed = good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :]
    codes = {Code.MALFORMED, Code.UNREADABLE, Code.STALE_KEY, Code.EXPIRED}
    assert failure(lambda: open_as_node(good[:cut])).code is Code.MALFORMED
    places = [(good.index(wrap), len(wrap)) for wrap in GOOD.escrow]
    if any(
        start <= at < start + length for start, length in places
    ):  # the node cannot see into it; the order's envelope hash covers it
        assert open_as_node(changed).envelope_hash != SEALED.envelope_hash
    else:
        assert failure(lambda: open_as_node(changed)).code in codes


def test_a_token_budget_binds_the_sealed_settings():
    body = replace(BODY, settings=SamplingSettings(max_tokens=17))
    assert failure(lambda: sealed_request(body)).code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 0},
        {"threshold": 4},
        {"custodians": []},
        {"custodians": [key.public_bytes for key in CUSTODIANS] * 6},
        {"custodians": [b"short"], "threshold": 1},
        {"candidates": []},
        {"candidates": [Candidate(BUNDLE, NODE.public_bytes)] * 2},
        {"candidates": [Candidate(BUNDLE, b"short")]},
        {"tenant": "Acme"},
        {"max_output_tokens": 2**20 + 1},
        {"request_id": bytes(15)},
        {"ts": bytes(31)},
    ],
)
def test_a_request_that_cannot_be_sealed_is_refused(change):
    code = failure(lambda: sealed_request(**change)).code
    assert code in {Code.INVALID_ARGUMENT, Code.MALFORMED}


def test_a_prompt_beyond_2_mib_is_refused_with_a_clear_error():
    body = RequestBody(settings=SamplingSettings(max_tokens=1), prompt="x" * 2**21)
    error = failure(lambda: sealed_request(body))
    assert error.code in {Code.INVALID_ARGUMENT, Code.MALFORMED}
    assert "bytes" in error.detail
    big = RequestBody(settings=SamplingSettings(max_tokens=1), prompt="x" * (2**21 - 200))
    assert open_as_node(sealed_request(big).envelope_bytes).body == big


# -- two recipients, two prompts ---------------------------------------------------------------------


def test_no_client_shows_two_nodes_two_secrets():
    """The second candidate's wrap holds another secret: its key commitment does not match."""
    sealed = sealed_request(
        candidates=[
            Candidate(BUNDLE, NODE.public_bytes),
            Candidate(OTHER_BUNDLE, OTHER_NODE.public_bytes),
        ]
    )
    assert open_as_node(sealed.envelope_bytes, OTHER_NODE, OTHER_BUNDLE).body == BODY
    good = Envelope.from_bytes(sealed.envelope_bytes)
    info = framing("wrap/node", OTHER_BUNDLE, sealed.ctx, sealed.kc)
    forged = replace(
        good, wraps=(good.wraps[0], seal(OTHER_NODE.public_bytes, info, octets("ts 2")))
    )
    assert open_as_node(forged.to_bytes()).body == BODY
    refusal = failure(lambda: open_as_node(forged.to_bytes(), OTHER_NODE, OTHER_BUNDLE))
    assert refusal.code is Code.UNREADABLE


def test_not_even_with_a_ciphertext_that_aes_gcm_accepts_under_both_keys():
    """AES-GCM does not commit to its key: one block is solved for so that both tags agree."""
    first, second = octets("ts 1"), octets("ts 2")
    sealed = sealed_request(
        ts=first,
        candidates=[
            Candidate(BUNDLE, NODE.public_bytes),
            Candidate(OTHER_BUNDLE, OTHER_NODE.public_bytes),
        ],
    )
    good = Envelope.from_bytes(sealed.envelope_bytes)
    aad = sealed.ctx + sealed.kc
    keys = [TranscriptKeys.derive(ts, sealed.ctx) for ts in (first, second)]
    body = collide([(k.request_key, k.request_nonce) for k in keys], aad, good.header.padded)
    for k in keys:  # the cipher alone is deceived
        AESGCM(k.request_key).decrypt(k.request_nonce, body, aad)
    with pytest.raises(InvalidTag):
        AESGCM(octets("third")).decrypt(keys[0].request_nonce, body, aad)
    info = framing("wrap/node", OTHER_BUNDLE, sealed.ctx, sealed.kc)
    forged = replace(
        good, body=body, wraps=(good.wraps[0], seal(OTHER_NODE.public_bytes, info, second))
    )
    refusal = failure(lambda: open_as_node(forged.to_bytes(), OTHER_NODE, OTHER_BUNDLE))
    assert refusal.code is Code.UNREADABLE


def gf_multiply(a: int, b: int) -> int:
    """Multiply in GCM's field (NIST SP 800-38D §6.3): bit 0 is the leftmost."""
    product = 0
    for i in range(127, -1, -1):
        if b >> i & 1:
            product ^= a
        a = a >> 1 ^ (0xE1 << 120 if a & 1 else 0)
    return product


def gf_power(a: int, exponent: int) -> int:
    result = 1 << 127
    while exponent:
        if exponent & 1:
            result = gf_multiply(result, a)
        a = gf_multiply(a, a)
        exponent >>= 1
    return result


def collide(keys: list[tuple[bytes, bytes]], aad: bytes, size: int) -> bytes:
    """Return a ciphertext with its tag that AES-256-GCM accepts under two (key, nonce) pairs."""

    def block(key: bytes, data: bytes) -> int:
        encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 - GCM's own use of it
        return int.from_bytes(encryptor.update(data), "big")

    assert len(aad) % 16 == size % 16 == 0
    hashes = [block(key, bytes(16)) for key, _ in keys]
    masks = [block(key, nonce + b"\x00\x00\x00\x01") for key, nonce in keys]
    lengths = (len(aad) * 8).to_bytes(8, "big") + (size * 8).to_bytes(8, "big")

    def tag(which: int, ciphertext: bytes) -> int:
        state, data = 0, aad + ciphertext + lengths
        for at in range(0, len(data), 16):
            state = gf_multiply(state ^ int.from_bytes(data[at : at + 16], "big"), hashes[which])
        return state ^ masks[which]

    draft = bytes(size)
    # The last block of the ciphertext is multiplied with H² (one block, the lengths, follows it).
    difference = tag(0, draft) ^ tag(1, draft)
    factor = gf_power(hashes[0], 2) ^ gf_power(hashes[1], 2)
    last = gf_multiply(difference, gf_power(factor, 2**128 - 2))
    ciphertext = draft[:-16] + last.to_bytes(16, "big")
    assert tag(0, ciphertext) == tag(1, ciphertext)
    return ciphertext + tag(0, ciphertext).to_bytes(16, "big")


# -- escrow and release ------------------------------------------------------------------------------


def forged_escrow(**changes) -> bytes:
    """An envelope whose first escrow wrap holds a changed plaintext."""
    from shared.codec import cbor
    from shared.envelope.hpke import open_sealed
    from shared.envelope.padding import unpad

    key = CUSTODIANS[0]
    info = framing("wrap/custodian", key.key_id, SEALED.ctx, SEALED.kc)
    plain = cbor.decode(unpad(open_sealed(key, info, GOOD.escrow[0]), 256))
    assert isinstance(plain, dict)
    forged = seal(key.public_bytes, info, pad(cbor.encode({**plain, **changes}), 256))
    return replace(GOOD, escrow=(forged, *GOOD.escrow[1:])).to_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"i": 2},
        {"i": 0},
        {"share": octets("share")},
        {"policy": AuditPolicy(Audit.NEVER).to_bytes()},
        {"policy": b"\xa0"},
        {"policy_nonce": octets("nonce")},
        {"extra": 1},
    ],
)
def test_a_custodian_refuses_a_share_or_policy_that_the_header_does_not_commit_to(change):
    key = CUSTODIANS[0]
    open_escrow(forged_escrow(), custodian_key_id=key.key_id, hpke_private=key)
    error = failure(
        lambda: open_escrow(forged_escrow(**change), custodian_key_id=key.key_id, hpke_private=key)
    )
    assert error.code is Code.UNREADABLE


def test_a_custodian_learns_the_policy_and_no_node_does():
    for audit in Audit:
        sealed = sealed_request(policy=AuditPolicy(audit))
        key = CUSTODIANS[2]
        share = open_escrow(sealed.envelope_bytes, custodian_key_id=key.key_id, hpke_private=key)
        assert (share.index, share.policy) == (3, AuditPolicy(audit))
        assert not hasattr(open_as_node(sealed.envelope_bytes), "policy")


def test_a_released_share_opens_for_its_worker_and_context_only():
    key = CUSTODIANS[1]
    share = open_escrow(SEALED.envelope_bytes, custodian_key_id=key.key_id, hpke_private=key)
    context = ReleaseContext(octets("request"), key.key_id, SEALED.ctx, SEALED.kc)
    data = seal_release(WORKER.public_bytes, context, share.index, share.share)
    header = SEALED.header
    assert open_release(WORKER, context, header, data) == (2, share.share)
    attempts: list[Callable[[], object]] = [
        lambda: open_release(NODE, context, header, data),
        lambda: open_release(WORKER, replace(context, request=octets("other")), header, data),
        lambda: open_release(
            WORKER, replace(context, custodian=CUSTODIANS[0].key_id), header, data
        ),
        lambda: open_release(WORKER, replace(context, kc=octets("kc")), header, data),
    ]
    for index, value in ((1, share.share), (2, octets("share")), (4, share.share)):
        forged = seal_release(WORKER.public_bytes, context, index, value)
        attempts.append(partial(open_release, WORKER, context, header, forged))
    for attempt in attempts:
        assert failure(attempt).code is Code.UNREADABLE


def test_no_repr_shows_a_secret():
    opened = open_as_node(SEALED.envelope_bytes)
    key = CUSTODIANS[0]
    share = open_escrow(SEALED.envelope_bytes, custodian_key_id=key.key_id, hpke_private=key)
    for value in (SEALED, opened, opened.keys, share):
        text = repr(value)
        assert "世界" not in text
        for secret in (SEALED.ts, opened.keys.prk, share.share):
            assert secret.hex() not in text
            assert repr(secret)[2:-1] not in text
