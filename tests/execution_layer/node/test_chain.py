"""What a head believes of its stages, and what becomes of an answer whose chain does not sign."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from execution_layer.engine.protocol import Finished, FinishReason, Resumed
from execution_layer.node import chained as chained_module
from execution_layer.node.chain import Closed, HeadChain, Part, StageAt, check_parts
from execution_layer.node.chained import CLOSINGS, Chained
from execution_layer.node.drafts import Outcome
from execution_layer.pipeline.answers import Answers
from execution_layer.pipeline.parts import Roots
from shared.commitments.exact import Activations
from shared.proto.counterfoil.execution.v1 import stages_pb2
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_bytes
from shared.statements import orders
from shared.statements.cose import entry_of, sign
from shared.statements.keys import Layers
from shared.statements.orders import Order
from shared.statements.receipts import Chain, EnergyQuality, Finish, Receipt, Usage
from tests.vectors.chain import header
from tests.vectors.samples import BUNDLE, NOW, ORDER, RECEIPT, octets, signing_key

HEADER = header()
HEAD = entry_of(sign(ORDER, key=signing_key("tenant"), issuer="acme"))
USAGE = Usage(input=17, cached=8, output=5, energy_quality=EnergyQuality.UNMEASURED)
ROOTS = [octets(f"boundary {index}") for index in range(3)]


def part_of(place: int, **changes: Any) -> Order:
    named = (HEADER.stages or ())[place - 1]
    order = replace(
        ORDER,
        bundle=named.bundle,
        rate_card=octets(f"card {place}"),
        part=orders.Part(head=HEAD, place=place),
    )
    return replace(order, **changes)


def signed(order: Order) -> bytes:
    return sign(order, key=signing_key("tenant"), issuer="acme")


def test_each_stage_has_an_order_that_is_a_part_of_the_head_s() -> None:
    raw = [signed(part_of(place)) for place in (1, 2)]
    found = check_parts(ORDER, HEAD, HEADER, raw)
    assert [part.entry for part in found] == [entry_of(statement) for statement in raw]
    assert check_parts(ORDER, HEAD, replace(HEADER, stages=None), ()) == ()


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        [part_of(1)],
        [part_of(1), part_of(2), part_of(2)],
        [part_of(2), part_of(1)],
        [part_of(1), part_of(2, part=None)],
        [part_of(1), part_of(2, bundle=octets("stage 3"))],
        [part_of(1), part_of(2, part=orders.Part(head=octets("another"), place=2))],
        [part_of(1), part_of(2, number=ORDER.number + 1)],
        [part_of(1), part_of(2, attempt=ORDER.attempt + 1)],
        [part_of(1), part_of(2, tenant="globex")],
        [part_of(1), part_of(2, ctx=octets("another"))],
        [part_of(1), part_of(2, max_output_tokens=ORDER.max_output_tokens + 1)],
        [part_of(1), part_of(2, expiry=ORDER.expiry + 1)],
    ],
)
def test_any_other_orders_are_refused(wrong) -> None:
    with pytest.raises(CounterfoilError) as caught:
        check_parts(ORDER, HEAD, HEADER, [signed(order) for order in wrong])
    assert caught.value.code is Code.NO_ORDER


class OneStage(HeadChain):
    """A head with one stage that answers as it is told, and roots of its own as the chain's ends require."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(Answers(16, 8), [StageAt("farm/s1", "x:1")], lambda _address: None)  # type: ignore[arg-type, return-value]
        bundle = replace(
            BUNDLE,
            operator="farm",
            node="s1",
            signing_key=public_bytes(signing_key("stage")),
            model_roots=BUNDLE.model_roots[:1],
            layers=Layers(first=1, last=2),
        )
        self.bundle = sign(bundle, key=signing_key("operator"), issuer="farm")
        order = part_of(1, bundle=entry_of(self.bundle))
        self.part = Part(signed(order), entry_of(signed(order)), order)
        receipt = replace(
            RECEIPT,
            order=self.part.entry,
            bundle=order.bundle,
            usage=USAGE,
            chain=Chain(place=1, sent=ROOTS[1], received=ROOTS[0]),
        )
        self.receipt: Receipt = replace(receipt, **changes)
        self.key = "stage"
        self.called: list[str] = []
        self.ends: list[Exception] = []

    async def _call(self, stage: StageAt, method: str, request: Any) -> Any:
        self.called.append(method)
        if method == "Accept":
            return stages_pb2.AcceptResponse(bundle=self.bundle)
        assert request.order == self.part.entry
        return stages_pb2.CloseResponse(
            receipt=sign(self.receipt, key=signing_key(self.key), issuer="farm/s1")
        )

    async def closing(self, monkeypatch: Any, own: Roots) -> Closed:
        monkeypatch.setattr(self._answers, "roots", lambda _request, _positions: own)
        self._learn(self.stages[0], self.part, self.bundle)
        return await self.close("r", USAGE, [self.part])


OWN = Roots(received=ROOTS[1], sent=ROOTS[0], compute_ms=0)


async def test_a_head_lists_what_its_stages_signed_for_this_answer(monkeypatch) -> None:
    head = OneStage()
    closed = await head.closing(monkeypatch, OWN)
    [statement] = closed.receipts
    assert closed.chain == Chain(
        place=0, sent=ROOTS[0], received=ROOTS[1], stages=(entry_of(statement),)
    )


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"order": octets("another order")}, Code.MALFORMED),
        ({"chain": Chain(place=2, sent=ROOTS[1], received=ROOTS[0])}, Code.MALFORMED),
        ({"chain": None}, Code.MALFORMED),
        ({"usage": replace(USAGE, output=6)}, Code.MALFORMED),
        ({"usage": replace(USAGE, cached=7)}, Code.MALFORMED),
        ({"chain": Chain(place=1, sent=ROOTS[2], received=ROOTS[0])}, Code.CONFLICT),
        ({"chain": Chain(place=1, sent=ROOTS[1], received=ROOTS[2])}, Code.CONFLICT),
    ],
)
async def test_what_is_not_this_answer_s_is_not_believed(monkeypatch, changes, code) -> None:
    with pytest.raises(CounterfoilError) as caught:
        await OneStage(**changes).closing(monkeypatch, OWN)
    assert caught.value.code is code


async def test_a_receipt_under_another_key_is_not_believed(monkeypatch) -> None:
    head = OneStage()
    head.key = "another"
    with pytest.raises(CounterfoilError) as caught:
        await head.closing(monkeypatch, OWN)
    assert caught.value.code is Code.UNTRUSTED_KEY


def test_a_stage_shows_the_key_bundle_that_the_order_names() -> None:
    head = OneStage()
    other = sign(
        replace(BUNDLE, operator="farm", node="s1", not_before=NOW + 1),
        key=signing_key("operator"),
        issuer="farm",
    )
    with pytest.raises(CounterfoilError) as caught:
        head._learn(head.stages[0], head.part, other)
    assert caught.value.code is Code.MALFORMED


OUTCOME = Outcome(Finish.LENGTH, USAGE, octets("h"), (1, 2, 3, 4, 5), NOW, evidence=b"evidence")


class Failing(OneStage):
    """A head whose chain signs only at the n-th time of asking."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    async def close(self, request: str, usage: Usage, parts: Any) -> Closed:
        self.failures -= 1
        if self.failures >= 0:
            raise CounterfoilError(Code.CONFLICT, "a stage has died with what it had noted")
        return Closed(Chain(place=0, sent=ROOTS[0], received=ROOTS[1], stages=(HEAD,)), (b"r",))


class Again:
    """A generation that ends with these tokens."""

    cached_prompt_tokens = 0

    def __init__(self, tokens: tuple[int, ...], reason: FinishReason) -> None:
        self._end = Finished(reason, tokens, Activations((), ()), 17, 0, 0)

    async def __aiter__(self) -> AsyncIterator[Finished]:
        yield self._end

    def cancel(self, reason: FinishReason = FinishReason.CANCELLED) -> None:
        raise AssertionError


async def ended(
    monkeypatch: Any,
    failures: int,
    outcome: Outcome = OUTCOME,
    tokens: tuple[int, ...] = OUTCOME.output_ids,
) -> tuple[Outcome, list[Resumed], Failing]:
    monkeypatch.setattr(chained_module, "PAUSE_S", 0)
    head, asked = Failing(failures), list[Resumed]()

    def again(resumed: Resumed) -> Again:
        asked.append(resumed)
        return Again(tokens, FinishReason.LENGTH)

    found = await Chained(head, "r", [head.part], again).close(outcome, "text")
    return found, asked, head


async def test_an_answer_is_computed_again_until_its_chain_signs(monkeypatch) -> None:
    found, asked, head = await ended(monkeypatch, CLOSINGS - 1)
    assert (found.finish, found.stages) == (Finish.LENGTH, (b"r",))
    assert asked == [Resumed(OUTCOME.output_ids, "text", USAGE.cached)] * (CLOSINGS - 1)
    assert "Close" not in head.called


async def test_an_answer_whose_chain_never_signs_has_failed_and_its_stages_are_told(
    monkeypatch,
) -> None:
    found, asked, head = await ended(monkeypatch, CLOSINGS)
    assert (found.finish, found.chain, found.evidence) == (Finish.FAILED, None, None)
    assert len(asked) == CLOSINGS - 1
    assert head.called == ["Close"]


async def test_one_that_comes_out_otherwise_is_not_passed_off_as_the_same(monkeypatch) -> None:
    found, asked, _ = await ended(monkeypatch, 1, tokens=(1, 2, 3, 4, 6))
    assert found.finish is Finish.FAILED
    assert len(asked) == 1


async def test_stages_are_told_that_a_request_is_given_up_once_nothing_of_it_is_under_way() -> None:
    """Rows of a part that a stage has forgotten would break the chain for everybody."""
    head = OneStage()
    order = head.part.entry
    head.open("r", octets("ctx"), bytes(32), order, [head.part])
    head._answers.went("r", 4)
    giving_up = asyncio.create_task(head.give_up("r", [head.part]))
    for _ in range(5):
        await asyncio.sleep(0)
    assert head.called == []
    head._answers.went("r", -4)
    await giving_up
    assert head.called == ["Close"]


async def test_what_failed_or_said_nothing_needs_no_receipts(monkeypatch) -> None:
    for outcome in (
        replace(OUTCOME, finish=Finish.FAILED),
        replace(OUTCOME, finish=Finish.CANCELLED, output_ids=()),
    ):
        found, asked, head = await ended(monkeypatch, 0, outcome)
        assert found is outcome
        assert (asked, head.called) == ([], ["Close"])
