"""Blinded fields: reproducible with the secret, unlinkable without it."""

import hmac
from dataclasses import replace
from hashlib import sha256
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.codec.hashing import framing
from shared.envelope.blinded import (
    activation_root,
    blinded_fields,
    token_bytes,
)
from shared.envelope.secrets import TranscriptKeys
from shared.statements.request import RequestBody, SamplingSettings
from tests.vectors.samples import octets

SETTINGS = SamplingSettings(max_tokens=8)
BODY = RequestBody(SETTINGS, prompt="p", seed=octets("seed"))
BLOCKS = tuple(octets(f"block {i}") for i in range(5))


def fields(keys, **changes):
    arguments = {
        "body": BODY,
        "seed": octets("seed"),
        "input_tokens": (1, 2),
        "output_tokens": (3,),
        "prompt_blocks": BLOCKS[:2],
        "output_blocks": BLOCKS[2:],
    }
    return blinded_fields(keys, **{**arguments, **changes})


def keys_of(ts, ctx=b"ctx"):
    return TranscriptKeys.derive(ts, ctx)


@settings(max_examples=30)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_every_field_varies_with_the_transcript_secret(first, second):
    one, two = fields(keys_of(first)), fields(keys_of(second))
    for name in ("settings", "input", "output", "activation_root"):
        assert (getattr(one, name) == getattr(two, name)) is (first == second)


def test_the_same_secret_under_another_header_blinds_otherwise():
    ts = octets("ts")
    assert fields(keys_of(ts, b"one")).input != fields(keys_of(ts, b"two")).input


def test_equal_data_in_two_fields_does_not_look_equal():
    same = fields(keys_of(octets("ts")), input_tokens=(7,), output_tokens=(7,))
    assert same.input != same.output


def test_a_field_varies_with_its_own_data_only():
    keys = keys_of(octets("ts"))
    base = fields(keys)
    changes: dict[str, list[dict[str, Any]]] = {
        "settings": [
            {"body": replace(BODY, settings=replace(SETTINGS, top_k=1))},
            {"body": replace(BODY, choice=1)},
            {"body": replace(BODY, prefix=(2,))},
            {"seed": octets("other seed")},
        ],
        "input": [{"input_tokens": (1, 2, 3)}, {"input_tokens": ()}],
        "output": [{"output_tokens": (4,)}],
        "activation_root": [
            {"prompt_blocks": BLOCKS[:1]},
            {"prompt_blocks": BLOCKS[:3], "output_blocks": BLOCKS[3:]},
            {"output_blocks": BLOCKS[2:][::-1]},
        ],
    }
    for name, variants in changes.items():
        for variant in variants:
            changed = fields(keys, **variant)
            differing = {
                field
                for field in ("settings", "input", "output", "activation_root")
                if getattr(changed, field) != getattr(base, field)
            }
            assert differing == {name}


def test_a_guess_of_the_prompt_cannot_be_confirmed_from_the_receipt():
    """Neither the plain hash nor the hash under any other secret is what the receipt carries."""
    told = fields(keys_of(octets("ts"))).input
    guess = token_bytes((1, 2))
    assert told not in {sha256(guess).digest(), keys_of(bytes(32)).blind("input", guess)}


def test_the_activation_root_is_the_protocols_tree_of_blinded_leaves():
    keys = keys_of(octets("ts"))

    def leaf(side, block, value):
        key = keys._blinding_key("activation")
        place = bytes([side]) + block.to_bytes(4, "big")
        entry = hmac.digest(key, framing("activation", place, value), "sha256")
        return sha256(b"\x00" + entry).digest()

    leaves = [leaf(0, 0, BLOCKS[0]), leaf(1, 0, BLOCKS[1]), leaf(1, 1, BLOCKS[2])]
    left = sha256(b"\x01" + leaves[0] + leaves[1]).digest()
    assert (
        activation_root(keys, BLOCKS[:1], BLOCKS[1:3])
        == sha256(b"\x01" + left + leaves[2]).digest()
    )
    assert activation_root(keys, BLOCKS[:1], ()) == leaves[0]
    assert activation_root(keys, (), ()) is None


def test_all_derived_values_differ():
    keys = keys_of(octets("ts"))
    place = (octets("bundle"), octets("nonce"), 0)
    values = [
        keys.prk,
        keys.kc,
        keys.request_key,
        keys.request_nonce,
        keys.response_secret,
        keys.sampling_seed,
        keys.response_key(*place),
        keys.evidence_key(*place),
        keys.blind("input", b""),
        keys.blind("output", b""),
        keys.blind_leaf(0, 0, b""),
        keys.blind_leaf(1, 0, b""),
        keys.blind_leaf(0, 1, b""),
    ]
    assert len(set(values)) == len(values)
