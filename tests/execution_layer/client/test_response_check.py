"""A receipt in which one field is altered is not believed, even when the node itself signed the alteration."""

from dataclasses import replace
from hashlib import sha256

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from execution_layer.client.claims import SKEW_MS
from execution_layer.client.response_check import (
    LONGEST_TOKEN,
    STEPS,
    StreamReader,
    check_response,
    run_steps,
)
from shared.codec.moment import now_ms
from shared.envelope.evidence import open_evidence, seal_evidence
from shared.envelope.stream import FrameSealer, stream_signature_message
from shared.runtime.clocks import shown
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import load_or_create_ed25519, public_bytes
from shared.statements.cancellations import sign_cancellation
from shared.statements.cose import entry_of, sign
from shared.statements.receipts import EnergyQuality, Finish, Usage
from tests.execution_layer.client.responses import real_answer
from tests.execution_layer.fakes import FakeEngine
from tests.execution_layer.world import small_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

OTHER = b"\x5a" * 32
TOKENS = 12


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def answer(tmp_path_factory):
    async with (
        small_world(tmp_path_factory.mktemp("world")) as world,
        world.node(FakeEngine(pause_s=0.004)) as node,
    ):
        return await real_answer(world, node, max_tokens=TOKENS)


def usage(**changes):
    values = {"input": 5, "cached": 0, "output": TOKENS, "compute_ms": 1, **changes}
    return Usage(energy_quality=EnergyQuality.UNMEASURED, **values)


def refusal(response, *, now=None, tokenise=None):
    """Return (number of the step that failed, the error)."""
    steps = run_steps(response, now or now_ms(), tokenise)
    passed = 0
    try:
        for _ in steps:
            passed += 1
    except CounterfoilError as error:
        return passed, error
    raise AssertionError("the response was believed")


def step(beginning):
    return next(place for place, title in enumerate(STEPS) if title.startswith(beginning))


async def test_the_true_receipt_is_believed(answer):
    receipt, entry = check_response(answer.response(), now_ms(), tokenise=lambda: tuple(b"hello"))
    assert receipt == answer.receipt
    assert entry == entry_of(answer.response().final.receipt)
    assert receipt.usage.output == TOKENS
    assert len(answer.frames) > 1


NAMES = {
    "order": OTHER,
    "bundle": OTHER,
    "ctx": OTHER,  # into which the client's own random request id is bound
    "kc": OTHER,
    "envelope": OTHER,
    "attempt": 7,
    "number": 10**6,
    "tenant": "another",
    "rate_card": OTHER,
    "model_root": OTHER,
    "numeric_profile": OTHER,
}
STREAM = {"node_nonce": OTHER, "h_final": OTHER}
COMMITMENTS = {
    "settings": OTHER,
    "input": OTHER,
    "output": OTHER,
    "activation_root": OTHER,
    "evidence": OTHER,
}


@pytest.mark.parametrize(
    ("title", "field", "value"),
    [
        *(("order, key bundle", field, value) for field, value in NAMES.items()),
        *(("node nonce", field, value) for field, value in STREAM.items()),
        *(("settings, input", field, value) for field, value in COMMITMENTS.items()),
        *(("settings, input", field, None) for field in COMMITMENTS),
    ],
    ids=lambda value: "absent" if value is None else value if isinstance(value, str) else "",
)
async def test_a_receipt_with_one_altered_field_is_not_believed(answer, title, field, value):
    assert getattr(answer.receipt, field) != value
    passed, error = refusal(answer.with_receipt(**{field: value}))
    assert error.code is Code.COMMITMENT_MISMATCH
    assert f"the receipt's {field} " in str(error)
    assert passed == step(title)
    assert "archive keeps it" in error.remedy


@pytest.mark.parametrize(
    "wrong",
    [
        usage(input=6),
        usage(output=TOKENS + 1),
        usage(output=TOKENS - 1),
        usage(cached=1),
        usage(compute_ms=2),
        replace(usage(), energy_quality=EnergyQuality.MEASURED, energy_mj=5),
    ],
    ids=["input", "more output", "less output", "cached", "time", "energy"],
)
async def test_token_counts_that_were_not_received_are_not_believed(answer, wrong):
    assert answer.receipt.usage == usage()
    passed, error = refusal(answer.with_receipt(usage=wrong))
    assert (error.code, passed) == (Code.COMMITMENT_MISMATCH, step("usage and finish"))


@pytest.mark.parametrize(
    "wrong",
    [usage(input=6), usage(input=4), usage(output=TOKENS + 1), usage(cached=5)],
    ids=["more input", "less input", "more output", "all cached"],
)
async def test_token_counts_are_not_believed_when_the_final_record_tells_the_same_lie(
    answer, wrong
):
    forged = answer.with_receipt(usage=wrong)
    passed, error = refusal(replace(forged, final=replace(forged.final, usage=wrong)))
    assert (error.code, passed) == (Code.COMMITMENT_MISMATCH, step("usage and finish"))


async def test_tokens_that_never_came_are_not_paid_for_whatever_the_reason_for_the_end(answer):
    lie = usage(output=TOKENS - 1)
    forged = answer.with_receipt(usage=lie, finish=Finish.STOP)
    final = replace(forged.final, usage=lie, finish=Finish.STOP)
    _, error = refusal(replace(forged, final=final))
    assert "usage.output does not match what was sent and received" in error.detail


@pytest.mark.parametrize("finish", [Finish.STOP, Finish.CANCELLED, Finish.DEADLINE])
async def test_another_reason_for_the_end_than_the_streams_is_not_believed(answer, finish):
    passed, error = refusal(answer.with_receipt(finish=finish))
    assert (error.code, passed) == (Code.COMMITMENT_MISMATCH, step("usage and finish"))


def ended(answer, finish, *, max_ms=None, took=10, **changes):
    """Return the answer with another end in receipt and final record, under an order with this deadline."""
    order = replace(answer.sent.order, max_ms=max_ms)
    started = answer.receipt.started
    forged = answer.with_receipt(finish=finish, ended=started + took, **changes)
    final = replace(forged.final, finish=finish)
    return replace(forged, final=final, sent=replace(answer.sent, order=order))


@pytest.mark.parametrize(
    ("finish", "facts", "said"),
    [
        (Finish.CANCELLED, {}, "the tenant did not sign a cancellation"),
        (Finish.DEADLINE, {}, "the order sets no deadline"),
        (Finish.DEADLINE, {"max_ms": 5_000}, "called late after 10 ms"),
    ],
    ids=["cancelled", "no deadline", "early"],
)
async def test_an_end_that_only_the_node_wanted_is_not_believed(answer, finish, facts, said):
    passed, error = refusal(ended(answer, finish, **facts))
    assert (error.code, passed) == (Code.COMMITMENT_MISMATCH, step("usage and finish"))
    assert "the receipt's finish is unfounded" in error.detail
    assert said in error.detail


async def test_the_orders_deadline_is_believed_once_it_has_come(answer):
    late = ended(answer, Finish.DEADLINE, max_ms=5_000, took=4_000)
    assert check_response(late, now_ms())


async def test_a_cancellation_is_believed_under_our_own_signature_only(answer, tmp_path):
    own = load_or_create_ed25519(tmp_path / "own.pem")
    order = answer.sent.order_entry
    ours = replace(answer.sent, tenant_key=public_bytes(own))

    def cancelled(signature):
        response = ended(answer, Finish.CANCELLED, cancel=signature)
        return replace(response, sent=replace(response.sent, tenant_key=ours.tenant_key))

    assert check_response(cancelled(sign_cancellation(order, own)), now_ms())
    for forged in (
        sign_cancellation(order, answer.node_key),
        sign_cancellation(OTHER, own),
        answer.request.order[-64:],
        bytes(64),
    ):
        passed, error = refusal(cancelled(forged))
        assert (error.code, passed) == (Code.COMMITMENT_MISMATCH, step("usage and finish"))
        assert "the receipt's cancel is not our signature" in error.detail


@pytest.mark.parametrize(
    ("impossible", "said"),
    [
        (usage(compute_ms=10_000_000), "it computed for"),
        (replace(usage(), energy_quality=EnergyQuality.MEASURED, energy_mj=10**12), "above"),
    ],
    ids=["time", "energy"],
)
async def test_claims_that_no_machine_can_fulfil_are_not_believed(answer, impossible, said):
    forged = answer.with_receipt(usage=impossible)
    passed, error = refusal(replace(forged, final=replace(forged.final, usage=impossible)))
    assert (error.code, passed) == (Code.COMMITMENT_MISMATCH, step("the times"))
    assert "the receipt's claims cannot be true" in error.detail
    assert said in error.detail


async def test_an_answer_cannot_say_that_it_failed_and_keep_its_evidence_back(answer):
    forged = answer.with_receipt(finish=Finish.FAILED, evidence=None)
    passed, error = refusal(replace(forged, final=replace(forged.final, evidence=None)))
    assert "activation_root" in error.detail
    forged = answer.with_receipt(evidence=None, activation_root=None)
    passed, error = refusal(replace(forged, final=replace(forged.final, evidence=None)))
    assert (error.code, passed) == (Code.COMMITMENT_MISMATCH, step("settings, input"))
    assert "evidence is missing" in error.detail


async def test_an_answer_of_another_length_than_it_says_is_not_believed(answer):
    settings = replace(answer.request.body.settings, max_tokens=TOKENS + 1)
    body = replace(answer.request.body, settings=settings)
    sent = replace(answer.sent, opened=replace(answer.sent.opened, body=body))
    blind = sent.opened.keys.blind
    from shared.codec import cbor
    from shared.envelope.body import settings_map

    wanted = blind("settings", cbor.encode(settings_map(settings) | {"seed": sent.seed}))
    response = replace(answer.with_receipt(settings=wanted), sent=sent)
    _, error = refusal(response)
    assert "says length before" in error.detail


async def test_tokens_and_text_of_the_final_record_are_those_of_the_frames(answer):
    response = answer.response()
    for change in ({"tokens": response.tokens[:-1]}, {"text": response.text + "!"}):
        passed, error = refusal(replace(response, final=replace(response.final, **change)))
        assert (error.code, passed) == (Code.COMMITMENT_MISMATCH, step("the tokens"))


@pytest.mark.parametrize(
    "change",
    [
        {"input_tokens": tuple(b"hellp")},
        {"output_tokens": (1,) * TOKENS},
        {"text": "something else"},
        {"prompt_blocks": (OTHER,)},
        {"output_blocks": (OTHER,)},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_evidence_of_something_else_is_not_believed_though_the_receipt_names_it(
    answer, change
):
    response = answer.response()
    keys = answer.sent.opened.keys
    true = open_evidence(response.final.evidence, keys, response.context)
    sealed = seal_evidence(replace(true, **change), keys, response.context)
    forged = answer.with_receipt(evidence=sha256(sealed).digest())
    passed, error = refusal(replace(forged, final=replace(forged.final, evidence=sealed)))
    assert (error.code, passed) == (Code.COMMITMENT_MISMATCH, step("settings, input"))


async def test_a_client_with_a_tokenizer_does_not_take_the_nodes_word_for_the_prompt(answer):
    passed, error = refusal(answer.response(), tokenise=lambda: tuple(b"hellp"))
    assert (error.code, passed) == (Code.COMMITMENT_MISMATCH, step("settings, input"))
    assert "input" in error.detail


async def test_times_before_the_order_or_in_the_future_are_not_believed(answer):
    now = now_ms()
    early = answer.sent.order.created - SKEW_MS - 1
    passed, error = refusal(answer.with_receipt(started=early), now=now)
    assert (error.code, passed) == (Code.COMMITMENT_MISMATCH, step("the times"))
    assert f"the node's clock said {shown(early)}, and this machine's" in error.detail
    _, error = refusal(answer.with_receipt(ended=now + SKEW_MS + 1), now=now)
    assert "ended is in the future" in error.detail
    assert f"this machine's says {shown(now)}, 5 min earlier" in error.detail
    skewed = answer.with_receipt(started=early + 1, ended=now + SKEW_MS)
    assert check_response(skewed, now)


async def test_a_foreign_signature_is_not_believed(answer):
    stranger = Ed25519PrivateKey.generate()
    assert refusal(answer.with_receipt(key=stranger))[1].code is Code.UNTRUSTED_KEY
    response = answer.response()
    for place in (-1, -64):
        spoiled = bytearray(response.final.receipt)
        spoiled[place] ^= 1
        forged = replace(response, final=replace(response.final, receipt=bytes(spoiled)))
        passed, error = refusal(forged)
        assert (error.code, passed) == (Code.BAD_SIGNATURE, 0)


async def test_a_receipt_under_the_name_of_another_node_is_not_believed(answer):
    passed, error = refusal(answer.with_receipt(issuer="honest/node-2"))
    assert (error.code, passed) == (Code.COMMITMENT_MISMATCH, 0)


async def test_the_receipt_of_another_request_of_ours_is_not_believed(answer, tmp_path):
    async with small_world(tmp_path) as world, world.node() as node:
        first, second = [await real_answer(world, node) for _ in range(2)]
        response = first.response()
        swapped = replace(response.final, receipt=second.response().final.receipt)
        passed, error = refusal(replace(response, final=swapped))
    assert (error.code, passed) == (Code.COMMITMENT_MISMATCH, step("order, key bundle"))
    assert "order" in error.detail


async def test_another_statement_of_the_node_is_not_a_receipt(answer):
    order = sign(answer.request.value, key=answer.node_key, issuer=answer.issuer)
    response = answer.response()
    forged = replace(response, final=replace(response.final, receipt=order))
    assert refusal(forged)[1].code is Code.MALFORMED


def read(answer, frames):
    reader = answer.reader()
    for frame in frames:
        reader.frame(frame.index, frame.ciphertext, frame.signature)
    return reader


async def test_frames_that_are_missing_repeated_or_exchanged_are_refused(answer):
    first, second, *rest = answer.frames
    for frames in ([second], [first, first], [first, *rest], [second, first]):
        with pytest.raises(CounterfoilError) as caught:
            read(answer, frames)
        assert caught.value.code is Code.MALFORMED


async def test_a_frame_in_anothers_place_does_not_open(answer):
    first, second = answer.frames[:2]
    reader = answer.reader()
    with pytest.raises(CounterfoilError) as caught:
        reader.frame(1, second.ciphertext, second.signature)
    assert caught.value.code is Code.UNREADABLE
    assert reader.text == ""
    assert reader.frame(1, first.ciphertext, first.signature).tokens


async def test_a_frame_is_handed_out_only_under_the_nodes_signature(answer):
    first, second = answer.frames[:2]
    foreign = Ed25519PrivateKey.generate().sign(b"anything")
    for signature in (b"", foreign, second.signature, answer.accepted.signature):
        reader = answer.reader()
        with pytest.raises(CounterfoilError) as caught:
            reader.frame(1, first.ciphertext, signature)
        assert caught.value.code is Code.BAD_SIGNATURE
        assert (reader.text, reader.tokens) == ("", [])


async def test_the_acceptance_is_signed_over_its_nonce(answer):
    for nonce, code in ((OTHER, Code.BAD_SIGNATURE), (b"short", Code.MALFORMED)):
        with pytest.raises(CounterfoilError) as caught:
            StreamReader(answer.sent, nonce, answer.accepted.signature)
        assert caught.value.code is code


async def test_the_final_record_cannot_come_before_the_last_frame(answer):
    reader = read(answer, answer.frames[:-1])
    with pytest.raises(CounterfoilError) as caught:
        reader.final(answer.final, answer.final_signature)
    assert caught.value.code is Code.UNREADABLE


class Endless:
    """A node that signs whatever frames it is told to send."""

    def __init__(self, answer, said=None):
        self._answer = answer
        self.reader = answer.reader(said)
        self._sealer = FrameSealer(answer.sent.opened.keys, self.reader.context)

    def send(self, tokens, text):
        """Send a frame; return what is wrong with it, None if it is accepted."""
        ciphertext, h = self._sealer.seal(tokens, text)
        index = self._sealer.frames
        message = stream_signature_message(self.reader.context, index, h)
        try:
            self.reader.frame(index, ciphertext, self._answer.node_key.sign(message))
        except CounterfoilError as error:
            return error
        return None


async def test_an_answer_ends_at_its_budget_whatever_the_node_sends(answer):
    node = Endless(answer)
    assert node.send((1,) * (TOKENS - 1), "x" * 100) is None
    error = node.send((1, 2), "y")
    assert error.code is Code.MALFORMED
    assert f"{TOKENS + 1} tokens; at most {TOKENS} were requested" in error.detail
    assert (len(node.reader.tokens), node.reader.text) == (TOKENS - 1, "x" * 100)


async def test_frames_of_nothing_do_not_go_on_forever(answer):
    error = Endless(answer).send((), "")
    assert error.code is Code.MALFORMED
    assert "frame 1 is empty" in error.detail
    node = Endless(answer)
    problems = [node.send((), "x") if at else node.send((1,), "") for at in range(TOKENS + 2)]
    assert problems[: TOKENS + 1] == [None] * (TOKENS + 1)
    assert f"more than {TOKENS + 1} frames" in problems[-1].detail


async def test_text_is_no_longer_than_its_tokens_can_say(answer):
    node = Endless(answer)
    assert node.send((1,), "x" * LONGEST_TOKEN) is None
    error = node.send((1,), "é" * LONGEST_TOKEN)
    assert error.code is Code.MALFORMED
    assert "more text than 2 tokens can have" in error.detail
    assert len(node.reader.text) == LONGEST_TOKEN


async def test_what_a_prefix_held_back_may_come_before_the_first_token(answer):
    """An answer that is cancelled at once may still owe text to tokens that were delivered before."""
    opened = answer.sent.opened
    body = replace(opened.body, seed=bytes(32), prefix=(9, 8))
    sent = replace(answer.sent, opened=replace(opened, body=body))
    node = Endless(replace(answer, sent=sent))
    assert node.send((), "x" * 2 * LONGEST_TOKEN) is None
    error = node.send((1,), "x" * (LONGEST_TOKEN + 1))
    assert "more text than 1 tokens can have" in error.detail


class Words:
    """A double of a tokenizer's reader: a token's text is `w<token> `, as in the engine's double."""

    def __init__(self):
        self.due = ""

    def take(self, tokens, text):
        self.due += "".join(f"w{token} " for token in tokens)
        fits = self.due.startswith(text)
        self.due = self.due[len(text) :] if fits else self.due
        return fits

    def whole(self):
        return not self.due


async def test_a_client_with_a_tokenizer_does_not_take_the_nodes_word_for_the_text(answer):
    assert answer.response().text_is_whole is None
    true = answer.response(Words())
    assert true.text_is_whole is True
    assert check_response(true, now_ms())
    passed, error = refusal(replace(true, text_is_whole=False))
    assert (error.code, passed) == (Code.COMMITMENT_MISMATCH, step("the tokens"))
    assert "not the complete text of its tokens" in error.detail
    node = Endless(answer, Words())
    assert node.send((1, 2), "w1 ") is None
    error = node.send((3,), "another text")
    assert error.code is Code.COMMITMENT_MISMATCH
    assert "frame 2 has a text that does not match" in error.detail
    assert node.reader.text == "w1 "
