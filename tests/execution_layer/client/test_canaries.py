"""A canary is told from a tenant's other requests by nobody: not by what it says of itself, nor by statistics."""

import math
import random
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from execution_layer.client.audit_records import SentRequest
from execution_layer.client.canaries import FEWEST, Canary, habits_of, plan
from execution_layer.client.prompts import read_words
from shared.envelope.body import Audit, AuditPolicy
from shared.envelope.header import Envelope
from shared.envelope.sealing import Candidate, open_with_secret, seal_request
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import read_as, sign
from shared.statements.orders import Order, input_bound
from shared.statements.receipts import Receipt
from shared.statements.request import Message, RequestBody, SamplingSettings
from tests.vectors.samples import ORDER, hpke_key, octets, signing_key

SYSTEMS = ("You answer in one sentence.", "You are the help desk of a shop. " * 8)
SETTINGS = (
    SamplingSettings(max_tokens=64, temperature_ppm=0),
    SamplingSettings(max_tokens=256, temperature_ppm=700_000, top_p_ppm=900_000),
    SamplingSettings(max_tokens=512, stop=("\n\n",)),
)
TAGS = (None, {"team": "a"}, {"team": "b", "project": "x"})
FIXED_SEED = bytes(31) + b"\x07"
START = 1_000_000_000_000
COUNT = 150


def words(chance, number):
    """Return a question as this tenant's users ask them; no two are the same."""
    size = round(math.exp(chance.gauss(4.5, 0.9)))
    return f"{number} " + "".join(chance.choice("abcdefg hijkl") for _ in range(max(4, size)))


def asked(chance, number):
    """Return the body of a genuine request."""
    kind = chance.choices(range(4), (5, 3, 2, 1))[0]
    settings, text = SETTINGS[min(kind, 2)], words(chance, number)
    seed = (None, FIXED_SEED, chance.randbytes(32), None)[kind]
    if kind == 3:
        return RequestBody(settings=settings, prompt=text, seed=seed)
    messages = (Message("system", SYSTEMS[kind % 2]), Message("user", text))
    return RequestBody(settings=settings, messages=messages, seed=seed)


def sent(body, created, *, tags=None, timeout_ms=284_997, canary=False, attempt=0):
    """Return an attempt as the archive keeps it."""
    sealed = seal_request(
        body,
        tenant="acme",
        candidates=[Candidate(octets("bundle"), hpke_key("node").public_bytes)],
        custodians=[hpke_key("custodian").public_bytes],
        threshold=1,
        model_root=octets("model"),
        max_output_tokens=body.settings.max_tokens,
        policy=AuditPolicy(Audit.SAMPLED),
        expiry_ms=created + 600_000,
    )
    order = replace(
        ORDER, max_ms=timeout_ms, ctx=sealed.ctx, kc=sealed.kc, created=created, expiry=created + 1
    )
    raw = sign(order, key=signing_key("tenant"), issuer="acme")
    return SentRequest(
        created, attempt, sealed.ts, sealed.envelope_bytes, raw, tags, None, "answered", canary
    )


@cache
def history():
    """Return what the tenant has sent: requests of several kinds, in sessions."""
    chance, at, found = random.Random(1), START, []
    for number in range(COUNT):
        at += round(1000 * math.exp(chance.gauss(1.5, 1.0)))
        at += 7_200_000 if chance.random() < 0.05 else 0
        body = asked(chance, number)
        found.append(
            sent(body, at, tags=TAGS[number % 3], timeout_ms=chance.choice((284_997, 56_999)))
        )
    return found


def prompts(count=3 * COUNT):
    chance = random.Random(2)
    return [words(chance, 10_000 + number) for number in range(count)]


@cache
def canaries():
    return plan(habits_of(history()), prompts(), COUNT, random.Random(3))


# -- what a node sees -------------------------------------------------------------------------------------------


def kind_of(body, tags, timeout_s, candidates):
    """Everything about a request that has few values."""
    roles = tuple(message.role for message in body.messages)
    system = body.messages[0].content if len(roles) > 1 else None
    seed = body.seed if body.seed in (None, FIXED_SEED) else "one of its own"
    noted = None if tags is None else tuple(sorted(tags.items()))
    return (body.settings, roles, system, seed, noted, round(timeout_s, 1), candidates, body.slots)


def view_of_canary(canary: Canary, _gap=None):
    kind = kind_of(canary.body, canary.tags, canary.timeout_s, canary.candidates)
    return kind, math.log(input_bound(canary.body)), math.log(canary.gap_s)


def views_of_history():
    found, before = [], None
    for item in history():
        opened, order = (
            open_with_secret(item.envelope, item.secret),
            read_as(Order, item.order_statement),
        )
        gap = 5.0 if before is None else (item.created - before) / 1000
        before = item.created
        if (
            gap <= 600
        ):  # the first of a session is told by nothing: a canary's gap is one within a session
            kind = kind_of(
                opened.body, item.tags, order.max_ms / 950, len(opened.header.candidates)
            )
            found.append((kind, math.log(input_bound(opened.body)), math.log(gap)))
    return found


def naive():
    """Canaries as somebody would send them who did not think of it: one kind, short, at once."""
    body = RequestBody(
        settings=SamplingSettings(max_tokens=16, temperature_ppm=0), prompt="2 + 2 ="
    )
    return [(kind_of(body, None, 300.0, 1), math.log(input_bound(body)), math.log(0.05))] * COUNT


def auc(one, other):
    """Return how often a canary gets the higher score, from a judge that was told the labels of half of all requests."""

    def bins(view):
        return view[0], round(view[1] * 2), round(view[2])

    train, test = [], []
    for label, views in enumerate((one, other)):
        for place, view in enumerate(views):
            (train if place % 2 else test).append((label, bins(view)))
    scores = [0.0] * len(test)
    for feature in range(3):
        counts = [
            Counter(view[feature] for label, view in train if label == kind) for kind in (0, 1)
        ]
        totals = [counts[kind].total() + 20 for kind in (0, 1)]
        for at, (_, view) in enumerate(test):
            yes, no = ((counts[kind][view[feature]] + 1) / totals[kind] for kind in (1, 0))
            scores[at] += math.log(yes / no)
    good = [score for score, (label, _) in zip(scores, test, strict=True) if label]
    bad = [score for score, (label, _) in zip(scores, test, strict=True) if not label]
    return sum((g > b) + (g == b) / 2 for g in good for b in bad) / (len(good) * len(bad))


def differ(one, other):
    """Return the p-value of a permutation test on the largest distance of two empirical distributions."""
    both, labels = np.array([*one, *other]), np.array([True] * len(one) + [False] * len(other))
    order = np.argsort(both, kind="stable")
    ends = np.append(np.diff(both[order]) > 0, True)

    def distance(marks):
        first, second = np.cumsum(marks) / marks.sum(), np.cumsum(~marks) / (~marks).sum()
        return np.abs(first - second)[ends].max()

    seen, chance = distance(labels[order]), np.random.default_rng(4)
    drawn = [distance(chance.permutation(labels)) for _ in range(400)]
    return float(np.mean([value >= seen for value in drawn]))


def test_settings_sizes_and_gaps_of_canaries_are_distributed_as_the_tenants_own():
    genuine, sent_now = views_of_history(), [view_of_canary(canary) for canary in canaries()]
    for feature in (1, 2):
        assert differ([v[feature] for v in genuine], [v[feature] for v in sent_now]) > 0.05
        assert differ([v[feature] for v in genuine], [v[feature] for v in naive()]) < 0.01
    kinds = sorted({repr(v[0]) for v in genuine})
    numbered = [[kinds.index(repr(v[0])) for v in views] for views in (genuine, sent_now)]
    assert differ(*numbered) > 0.05


def test_a_node_that_was_told_which_of_half_were_canaries_does_not_tell_the_other_half():
    genuine, sent_now = views_of_history(), [view_of_canary(canary) for canary in canaries()]
    assert auc(genuine, sent_now) < 0.6  # 0.5 is a guess
    assert auc(genuine, naive()) > 0.95


def test_nothing_about_a_canary_was_never_seen_before_and_nothing_is_repeated_exactly():
    """A node knows all of its own traffic: values that are new to it show, and so do copies."""
    genuine, sent_now = views_of_history(), [view_of_canary(canary) for canary in canaries()]
    assert {repr(v[0]) for v in sent_now} <= {repr(v[0]) for v in genuine}
    assert not {v[2] for v in sent_now} & {v[2] for v in genuine}
    said = [
        canary.body.messages[-1].content if canary.body.messages else canary.body.prompt
        for canary in canaries()
    ]
    assert len(set(said)) == COUNT
    assert not set(said) & habits_of(history()).words
    own = [c.body.seed for c in canaries() if c.body.seed not in (None, FIXED_SEED)]
    known = {open_with_secret(item.envelope, item.secret).body.seed for item in history()}
    assert len(set(own)) == len(own) > 0
    assert not set(own) & known


def test_each_canary_has_the_padded_size_of_a_request_that_was_sent():
    def padded(body):
        return Envelope.from_bytes(sent(body, START).envelope).header.padded

    classes = {Envelope.from_bytes(item.envelope).header.padded for item in history()}
    assert {padded(canary.body) for canary in canaries()[:40]} <= classes


# -- refusals ---------------------------------------------------------------------------------------------------


def refused(habits, texts, count=5):
    with pytest.raises(CounterfoilError) as caught:
        plan(habits, texts, count, random.Random(5))
    assert caught.value.code is Code.INVALID_ARGUMENT
    return caught.value.detail


def test_a_prompt_that_its_server_could_know_is_refused():
    habits, fresh = habits_of(history()), prompts()
    known = open_with_secret(history()[3].envelope, history()[3].secret).body.messages[-1].content
    assert "sent before" in refused(habits, [*fresh, known])
    assert "twice" in refused(habits, [*fresh, fresh[0]])
    old = sent(RequestBody(settings=SETTINGS[0], prompt=fresh[0]), START, canary=True)
    assert "sent before" in refused(habits_of([*history(), old]), fresh)


def test_prompts_of_other_sizes_than_the_tenants_own_are_refused_and_not_sent():
    huge = ["y" * 60_000 + str(number) for number in range(50)]
    assert "as long as" in refused(habits_of(history()), huge)


def test_too_little_of_ones_own_to_be_like_is_refused():
    few = history()[: FEWEST - 1]
    canary = replace(few[0], canary=True)
    retry = replace(few[0], attempt=1)
    for items in (few, [*few, *[canary] * 9], [*few, *[retry] * 9]):
        with pytest.raises(CounterfoilError) as caught:
            habits_of(items)
        assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_prompt_file_has_prompts_and_nothing_that_would_override_the_habits(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    assert read_words(file) == ["one", "two"]
    for line in (
        '{"prompt": "x", "max_tokens": 3}',
        '{"messages": [{"role": "user", "content": "x"}]}',
    ):
        file.write_text(line)
        with pytest.raises(CounterfoilError):
            read_words(file)


# -- through a node and a log ------------------------------------------------------------------------------------


async def test_nothing_that_leaves_the_client_says_which_request_is_a_canary(world):
    """Order, envelope and receipt have the same fields, key and terms; the numbers go on; only the archive knows."""
    async with world.node(), world.client() as client:
        for number in range(FEWEST):
            await client.generate(
                prompt=f"question number {number}", max_tokens=3, tags={"team": "a"}
            )
        fresh = [f"another one of {number}" for number in range(100, 110)]
        for canary in plan(habits_of(client.archive.sent(99)), fresh, 4, random.Random(6)):
            await client.generate(**canary.options())
        await client.upgrade_proofs(10)
        kept = client.archive.latest(99)
        marked = [item.canary for item in client.archive.sent(99)]
        assert marked == [True] * 4 + [False] * FEWEST
        assert [item.number for item in kept] == list(reversed(range(FEWEST + 4)))
        orders = [read_as(Order, item.order_statement) for item in kept]
        receipts = [read_as(Receipt, item.receipt) for item in kept]
        headers = [Envelope.from_bytes(item.envelope).header for item in kept]
        for values in (
            [
                (order.cost_centre, order.expiry - order.created, order.attempt, order.bundle)
                for order in orders
            ],
            [len(item.envelope) for item in kept],
            [set(order.to_payload()) for order in orders],
            [set(receipt.to_payload()) for receipt in receipts],
            [(header.threshold, header.candidates, header.padded) for header in headers],
            [item.order_statement[:80] for item in kept],
        ):
            assert all(value == values[0] for value in values)
        assert max(order.max_ms for order in orders) - min(order.max_ms for order in orders) < 2000
        assert world.audit.audit_requests() == []
