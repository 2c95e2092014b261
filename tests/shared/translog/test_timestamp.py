"""RFC 3161 timestamps over checkpoints: what verifies, and everything that must not."""

import random
import time
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from shared.runtime.errors import Code, CounterfoilError
from shared.translog.checkpoint import Checkpoint
from shared.translog.timestamp import (
    MAX_ANCHORS_BYTES,
    MAX_REPLY_BYTES,
    parse_anchors,
    query_for,
    verify_timestamp,
)
from tests.shared.translog.authority import OpensslAuthority, make_authority

CHECKPOINT = Checkpoint("log.example/test", 7, b"\x07" * 32)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> OpensslAuthority:
    return make_authority(tmp_path_factory.mktemp("tsa") / "one")


def refused(code: Code, reply: bytes, authority: OpensslAuthority, **more: int) -> str:
    with pytest.raises(CounterfoilError) as caught:
        verify_timestamp(reply, CHECKPOINT, [authority.anchor], **more)
    assert caught.value.code is code, caught.value
    return caught.value.detail


def test_a_reply_tells_when_the_authority_saw_the_three_lines(authority: OpensslAuthority):
    query = query_for(CHECKPOINT)
    before = int(time.time()) * 1000
    reply = authority.reply(query.der)
    seen = verify_timestamp(reply, CHECKPOINT, [authority.anchor], nonce=query.nonce)
    assert before <= seen <= time.time() * 1000
    assert verify_timestamp(reply, CHECKPOINT, [authority.anchor]) == seen
    assert sha256(CHECKPOINT.body.encode()).digest() in reply
    lines = "log.example/test\n7\nBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n"
    assert authority.verify(reply, lines)
    assert not authority.verify(reply, lines.removesuffix("\n"))


def test_every_query_has_a_nonce_of_its_own():
    assert len({query_for(CHECKPOINT).nonce for _ in range(20)}) == 20


def test_an_intermediate_certificate_may_come_with_the_reply(tmp_path: Path):
    chained = make_authority(tmp_path / "chained", between=True)
    reply = chained.reply(query_for(CHECKPOINT).der)
    assert verify_timestamp(reply, CHECKPOINT, [chained.anchor]) > 0


def test_a_reply_about_another_checkpoint_is_refused(authority: OpensslAuthority):
    query = query_for(CHECKPOINT)
    digest = sha256(CHECKPOINT.body.encode()).digest()
    other = query.der.replace(digest, sha256(b"another").digest())
    detail = refused(Code.BAD_PROOF, authority.reply(other), authority, nonce=query.nonce)
    assert "not about this checkpoint" in detail
    for wrong in (
        Checkpoint(CHECKPOINT.origin, 8, CHECKPOINT.root),
        Checkpoint("log.example/other", 7, CHECKPOINT.root),
        Checkpoint(CHECKPOINT.origin, 7, b"\x08" * 32),
    ):
        reply = authority.reply(query_for(wrong).der)
        assert verify_timestamp(reply, wrong, [authority.anchor])
        refused(Code.BAD_PROOF, reply, authority)


def test_a_reply_to_another_query_is_refused(authority: OpensslAuthority):
    reply = authority.reply(query_for(CHECKPOINT).der)
    detail = refused(Code.BAD_PROOF, reply, authority, nonce=query_for(CHECKPOINT).nonce)
    assert "another query" in detail


def test_a_reply_under_another_anchor_is_refused(authority: OpensslAuthority, tmp_path: Path):
    stranger = make_authority(tmp_path / "stranger")
    reply = stranger.reply(query_for(CHECKPOINT).der)
    refused(Code.BAD_SIGNATURE, reply, authority)
    both = [authority.anchor, stranger.anchor]
    assert verify_timestamp(reply, CHECKPOINT, both) > 0
    with pytest.raises(CounterfoilError) as caught:
        verify_timestamp(reply, CHECKPOINT, [])
    assert caught.value.code is Code.UNTRUSTED_KEY


def test_a_certificate_that_had_expired_at_the_stated_time_is_refused(tmp_path: Path):
    expired = make_authority(tmp_path / "expired", days=-10)
    reply = expired.reply(query_for(CHECKPOINT).der)
    refused(Code.BAD_SIGNATURE, reply, expired)


def test_a_rejection_is_not_a_timestamp(tmp_path: Path):
    picky = make_authority(tmp_path / "picky", digests="sha512")
    detail = refused(Code.MALFORMED, picky.reply(query_for(CHECKPOINT).der), picky)
    assert "not granted" in detail


def test_what_is_not_a_reply_is_refused_and_bounded(authority: OpensslAuthority):
    reply = authority.reply(query_for(CHECKPOINT).der)
    for wrong in (
        b"",
        b"\x30",
        b"garbage",
        reply + b"\x00",
        reply[:-1],
        b"\x30\x84\xff\xff\xff\xff",
    ):
        refused(Code.MALFORMED, wrong, authority)
    detail = refused(Code.MALFORMED, reply + bytes(MAX_REPLY_BYTES), authority)
    assert str(MAX_REPLY_BYTES) in detail


def test_no_changed_byte_changes_what_a_reply_says(authority: OpensslAuthority):
    """Some bytes of a CMS signature are covered by nothing; changing them does not change what it says."""
    reply = authority.reply(query_for(CHECKPOINT).der)
    seen = verify_timestamp(reply, CHECKPOINT, [authority.anchor])
    chance = random.Random(3161)
    refusals = 0
    for _ in range(600):
        changed = bytearray(reply)
        changed[chance.randrange(len(reply))] ^= 1 << chance.randrange(8)
        try:
            assert verify_timestamp(bytes(changed), CHECKPOINT, [authority.anchor]) == seen
        except CounterfoilError:
            refusals += 1
    assert refusals > 550


def test_anchors_are_certificates_in_pem_form(authority: OpensslAuthority):
    pem = authority.anchor.public_bytes(Encoding.PEM)
    assert parse_anchors(pem + pem) == (authority.anchor, authority.anchor)
    for wrong in (b"", b"nothing", pem[:-40], pem * (MAX_ANCHORS_BYTES // len(pem) + 1)):
        with pytest.raises(CounterfoilError) as caught:
            parse_anchors(wrong)
        assert caught.value.code is Code.MALFORMED
