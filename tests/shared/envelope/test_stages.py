"""A chain's boundaries: who gets which secret, and what opens on a hop (protocol §4.10)."""

import os
from dataclasses import replace

import pytest

from shared.envelope.header import STAGE_WRAP_BYTES, Envelope, HeaderStage
from shared.envelope.hpke import generate_hpke_key
from shared.envelope.sealing import open_with_secret
from shared.envelope.stages import (
    BoundarySecret,
    ChainStage,
    HopOpener,
    HopSealer,
    header_stages,
    open_stage,
    seal_stages,
)
from shared.runtime.errors import Code, CounterfoilError
from tests.shared.envelope.sealed import sealed_request
from tests.vectors.chain import WIDTH, header, states
from tests.vectors.files import load
from tests.vectors.samples import octets

KEYS = [generate_hpke_key() for _ in range(2)]
STAGES = [
    ChainStage(octets(f"stage {place}"), key.public_bytes) for place, key in enumerate(KEYS, 1)
]
SEALED = sealed_request(stages=STAGES)
ENVELOPE = Envelope.from_bytes(SEALED.envelope_bytes)
WRAPS = ENVELOPE.stage_wraps or ()
VECTORS = load("chain")


def hop(boundary: int = 1, nonce: bytes = bytes(32)) -> tuple[HopSealer, HopOpener]:
    secret = BoundarySecret.derive(SEALED.ts, boundary)
    return HopSealer(secret, SEALED.ctx, nonce), HopOpener(secret, SEALED.ctx, nonce)


def test_each_stage_gets_the_secrets_on_its_two_sides_and_no_others() -> None:
    for place, (key, wrap) in enumerate(zip(KEYS, WRAPS, strict=True), 1):
        assert len(wrap) == STAGE_WRAP_BYTES
        before, behind = open_stage(ENVELOPE.header, SEALED.kc, place, wrap, key)
        assert before == BoundarySecret.derive(SEALED.ts, place - 1)
        assert behind == BoundarySecret.derive(SEALED.ts, place)


def test_a_stage_s_wrap_opens_for_nobody_else_and_at_no_other_place() -> None:
    for place, wrap, key, code in (
        (1, WRAPS[0], KEYS[1], Code.UNREADABLE),
        (2, WRAPS[0], KEYS[0], Code.UNREADABLE),
        (1, WRAPS[1], KEYS[0], Code.UNREADABLE),
        (0, WRAPS[0], KEYS[0], Code.STALE_KEY),
        (3, WRAPS[1], KEYS[1], Code.STALE_KEY),
    ):
        with pytest.raises(CounterfoilError) as caught:
            open_stage(ENVELOPE.header, SEALED.kc, place, wrap, key)
        assert caught.value.code is code


def test_a_wrap_of_other_secrets_than_the_header_commits_to_is_refused() -> None:
    """A tenant could otherwise have an honest stage convicted for commitments under keys that nobody else derives."""
    other = header_stages(os.urandom(32), [stage.entry for stage in STAGES])
    changed = replace(ENVELOPE.header, stages=other)
    wraps = seal_stages(SEALED.ts, STAGES, changed.ctx, SEALED.kc)
    with pytest.raises(CounterfoilError) as caught:
        open_stage(changed, SEALED.kc, 1, wraps[0], KEYS[0])
    assert caught.value.code is Code.UNREADABLE


def test_whoever_opens_the_request_checks_what_the_stages_were_given() -> None:
    assert open_with_secret(SEALED.envelope_bytes, SEALED.ts).header.stages == header_stages(
        SEALED.ts, [stage.entry for stage in STAGES]
    )


def test_a_chain_has_one_head_and_no_key_bundle_twice() -> None:
    good = header()
    head, stage = good.candidates[0], HeaderStage(octets("stage"), octets("keys"))
    for wrong in (
        {"candidates": (head, octets("another"))},
        {"stages": (stage, stage)},
        {"stages": (HeaderStage(head, octets("keys")),)},
        {"stages": (stage,) * 65},
    ):
        with pytest.raises(CounterfoilError, match="header"):
            replace(good, **wrong)  # type: ignore[arg-type]  # one field at a time


def test_an_envelope_has_a_wrap_for_each_stage() -> None:
    with pytest.raises(CounterfoilError, match="one wrap per stage"):
        replace(ENVELOPE, stage_wraps=WRAPS[:1])
    with pytest.raises(CounterfoilError, match="one wrap per stage"):
        replace(ENVELOPE, stage_wraps=None)


def test_records_open_in_order_and_not_otherwise() -> None:
    sealer, opener = hop()
    first, second = sealer.seal(0, 2, b"two states"), sealer.seal(2, 1, b"one state")
    assert opener.open(0, 2, first) == b"two states"
    assert opener.open(2, 1, second) == b"one state"
    for record, position, count in (
        (second, 2, 1),  # out of order
        (first, 1, 2),  # another position
        (first, 0, 1),  # another number of positions
        (first[:-1], 0, 2),
        (bytes([first[0] ^ 1]) + first[1:], 0, 2),
        (b"", 0, 2),
    ):
        with pytest.raises(CounterfoilError) as caught:
            hop()[1].open(position, count, record)
        assert caught.value.code is Code.UNREADABLE
    again = hop()[1]
    again.open(0, 2, first)
    with pytest.raises(CounterfoilError):
        again.open(0, 2, first)


def test_records_of_another_boundary_or_connection_do_not_open() -> None:
    record = hop()[0].seal(0, 1, b"state")
    for opener in (hop(boundary=2)[1], hop(nonce=bytes([1]) * 32)[1]):
        with pytest.raises(CounterfoilError):
            opener.open(0, 1, record)
    with pytest.raises(CounterfoilError) as caught:
        hop(nonce=bytes(31))
    assert caught.value.code is Code.MALFORMED


def test_the_vectors_hold() -> None:
    asked = header()
    assert asked.to_cbor().hex() == VECTORS["header"]
    ts = bytes.fromhex(VECTORS["transcript_secret"])
    nonce = bytes.fromhex(VECTORS["hop"]["nonce"])
    opener = HopOpener(BoundarySecret.derive(ts, 1), asked.ctx, nonce)
    for record in VECTORS["hop"]["records"]:
        opened = opener.open(record["position"], record["count"], bytes.fromhex(record["sealed"]))
        assert opened.hex() == record["states"]
        assert len(opened) == 4 * WIDTH * record["count"]
    assert states(3)[: 4 * WIDTH * 2].hex() == VECTORS["hop"]["records"][0]["states"]
