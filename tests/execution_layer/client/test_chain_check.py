"""What a chain's stages signed: one thing altered in it, even by the stage itself, and the answer is not believed."""

import contextlib
from dataclasses import replace

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from execution_layer.client.chain_check import check_asked, check_chain
from execution_layer.client.reopening import sent_of
from shared.codec.moment import now_ms
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_bytes
from shared.statements.cose import entry_of, read_as, sign
from shared.statements.receipts import Chain, Finish, Receipt
from tests.execution_layer.chains import chain_of, relinked
from tests.execution_layer.world import small_world
from tests.vectors.samples import SAMPLES

pytestmark = pytest.mark.asyncio(loop_scope="module")

OTHER = b"\x5a" * 32
CLAIM = Chain(0, OTHER, OTHER, (OTHER,))


class Signed:
    """An honest chain's answer, as the client has it."""

    def __init__(self, chain, answer, parts):
        self.chain = chain
        self.head = answer.receipt.value
        self.stages = [stage.statement for stage in answer.stages]
        self.parts = parts

    def altered(self, place, change, key=None):
        """Return (the head's receipt, the stages' signed ones) with one of them changed and signed, and listed, as it is."""
        head, signed = self.head, list(self.stages)
        if place:
            stage = self.chain.stages[place - 1]
            receipt = change(read_as(Receipt, signed[place - 1]))
            signed[place - 1] = sign(receipt, key=key or stage.key, issuer=stage.name)
            head = relinked(head, stages=tuple(entry_of(raw) for raw in signed))
        else:
            head = change(head)
        return head, signed

    def problem(self, head, signed):
        """Return the error; the check must refuse."""
        with pytest.raises(CounterfoilError) as caught:
            check_chain(head, signed, self.parts, now_ms())
        return caught.value


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def signed(tmp_path_factory):
    async with (
        small_world(tmp_path_factory.mktemp("world")) as world,
        chain_of(world) as chain,
        world.client() as client,
    ):
        answer = await client.generate(prompt="hello", max_tokens=4)
        kept = client.archive.get(answer.transcript_id)
        stages = [(stage.bundle, stage.entry) for stage in chain.stages]
        head, own = chain.head, public_bytes(world.tenant_key)
        return Signed(chain, answer, sent_of(kept, head.bundle, head.entry, own, stages).parts)


def field(**changes):
    return lambda receipt: replace(receipt, **changes)


def usage(**changes):
    return lambda receipt: replace(receipt, usage=replace(receipt.usage, **changes))


LIES = {
    "order": (field(order=OTHER), "order does not match"),
    "bundle": (field(bundle=OTHER), "bundle does not match"),
    "ctx": (field(ctx=OTHER), "ctx does not match"),
    "kc": (field(kc=OTHER), "kc does not match"),
    "envelope": (field(envelope=OTHER), "envelope does not match"),
    "tenant": (field(tenant="another"), "tenant does not match"),
    "number": (field(number=10**6), "number does not match"),
    "attempt": (field(attempt=9), "attempt does not match"),
    "rate-card": (field(rate_card=OTHER), "rate_card does not match"),
    "model": (field(model_root=OTHER), "model_root does not match"),
    "profile": (field(numeric_profile=OTHER), "numeric_profile does not match"),
    "nonce": (field(node_nonce=OTHER), "h_final does not match"),
    "h-final": (field(h_final=OTHER), "h_final does not match"),
    "input": (usage(input=6), "usage.input is 6, and the head's is 5"),
    "cached": (usage(cached=1), "usage.cached is 1, and the head's is 0"),
    "output": (usage(output=9), "usage.output is 9, and the head's is 4"),
    "finish": (field(finish=Finish.LENGTH), "finish is length, and not stop"),
    "failed": (field(finish=Finish.FAILED), "finish is failed, and not stop"),
    "settings": (field(settings=OTHER), "a stage does not know of settings"),
    "blinded": (field(input=OTHER), "a stage does not know of input"),
    "evidence": (field(evidence=OTHER), "a stage does not know of evidence"),
    "cancel": (field(finish=Finish.CANCELLED, cancel=bytes(64)), "finish is cancelled"),
    "no-chain": (field(chain=None), "a stage that has not failed says what passed through it"),
    "a-heads": (field(chain=CLAIM), "it is of place 0 of a chain"),
    "place": (lambda receipt: relinked(receipt, place=2), "it is of place 2 of a chain"),
    "compute": (usage(compute_ms=10**9), "claims cannot be true"),
    "future": (field(ended=2**45), "ended is in the future"),
    "past": (field(started=1), "started is before the order was created"),
}


async def test_an_honest_chain_is_believed(signed):
    check_chain(signed.head, signed.stages, signed.parts, now_ms())


@pytest.mark.parametrize("lie", LIES)
async def test_a_stages_receipt_with_one_thing_altered_is_not_believed(signed, lie):
    change, said = LIES[lie]
    error = signed.problem(*signed.altered(1, change))
    assert error.code is Code.COMMITMENT_MISMATCH
    assert error.detail.startswith("stage 1 (farm/s1): the receipt's ")
    assert said in error.detail


@pytest.mark.parametrize(
    ("place", "change", "said"),
    [
        (0, {"sent": OTHER}, "the head signed that it sent other states than stage 1 (farm/s1)"),
        (
            0,
            {"received": OTHER},
            "stage 2 (coop/s2) signed that it sent other states than the head",
        ),
        (1, {"sent": OTHER}, "stage 1 (farm/s1) signed that it sent other states than stage 2"),
        (
            1,
            {"received": OTHER},
            "the head signed that it sent other states than stage 1 (farm/s1)",
        ),
        (2, {"received": OTHER}, "stage 1 (farm/s1) signed that it sent other states than stage 2"),
        (2, {"sent": OTHER}, "stage 2 (coop/s2) signed that it sent other states than the head"),
        (0, {"stages": (OTHER, b"\x5b" * 32)}, "lists another receipt than that of stage 1"),
        (0, {"stages": (OTHER,)}, "chain has 1 receipts; 2 stages were ordered"),
    ],
)
async def test_boundaries_that_do_not_meet_are_told_with_both_sides(signed, place, change, said):
    error = signed.problem(*signed.altered(place, lambda receipt: relinked(receipt, **change)))
    assert error.code is Code.COMMITMENT_MISMATCH
    assert said in error.detail


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda stages: stages[::-1], "stage 1 (farm/s1): "),
        (lambda stages: stages[:1] * 2, "stage 2 (coop/s2): "),
        (lambda stages: stages[:1], "stages has 1 receipts; 2 stages were ordered"),
        (lambda stages: [*stages, stages[0]], "stages has 3 receipts; 2 stages were ordered"),
        (lambda _: None, "stages has 0 receipts; 2 stages were ordered"),
        (lambda stages: [b"junk", stages[1]], "stage 1 (farm/s1): "),
    ],
)
async def test_receipts_that_are_missing_doubled_or_out_of_place_are_not_believed(
    signed, change, said
):
    assert said in signed.problem(signed.head, change(signed.stages)).detail


async def test_another_keys_signature_is_not_the_stages(signed):
    for key in (Ed25519PrivateKey.generate(), signed.chain.head.key, signed.chain.stages[0].key):
        error = signed.problem(*signed.altered(2, field(), key))
        assert error.code is Code.UNTRUSTED_KEY
        assert "stage 2 (coop/s2)" in error.detail


async def test_a_signature_over_something_else_is_none(signed):
    raw = bytearray(signed.stages[1])
    raw[-1] ^= 1  # the signature comes last
    error = signed.problem(signed.head, [signed.stages[0], bytes(raw)])
    assert error.code is Code.BAD_SIGNATURE
    assert "stage 2 (coop/s2)" in error.detail


@pytest.mark.parametrize(
    ("changes", "output", "stages", "holds"),
    [
        ({}, 0, 2, True),
        ({}, 3, 0, True),
        ({}, 3, 2, False),
        ({"finish": Finish.FAILED}, 3, 2, True),
        ({"finish": Finish.FAILED, "chain": CLAIM}, 3, 2, False),
        ({"chain": CLAIM}, 0, 2, False),
        ({"chain": CLAIM}, 3, 0, False),
        ({"chain": CLAIM}, 3, 1, True),
        ({"chain": CLAIM}, 3, 2, False),
        ({"chain": Chain(1, OTHER, OTHER)}, 3, 1, False),
    ],
)
async def test_a_chain_is_there_exactly_where_one_was_ordered_and_has_answered(
    changes, output, stages, holds
):
    receipt = SAMPLES["receipt"][0]
    receipt = replace(receipt, usage=replace(receipt.usage, output=output), **changes)
    signed = None if receipt.chain is None else (b"receipt",)
    with contextlib.nullcontext() if holds else pytest.raises(CounterfoilError):
        check_asked(receipt, signed, stages)
