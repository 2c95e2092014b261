"""Canaries: requests that test a node, and that nobody but their tenant can tell from its other requests (protocol §6.2.9).

Everything but the words of a canary is that of a request which the tenant has sent: its settings, its system message, its
tags, its deadline, whether it had a seed, its size class, and as nearly as the prepared prompts permit its size. It has the
tenant's next number, under its usual key and policy, and comes after a gap as its requests have them. Pure.
"""

import math
import random
import statistics
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

from execution_layer.client.audit_records import SentRequest
from shared.envelope.body import SMALLEST_BODY, encode_body
from shared.envelope.padding import padded_size
from shared.envelope.sealing import open_with_secret
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import read_as
from shared.statements.orders import Order
from shared.statements.request import Message, RequestBody

ROLES: Final = ((), ("user",), ("system", "user"))
"""Shapes that a canary can have: a verbatim prompt, or one turn. A conversation cannot be made up from a single prompt."""
FEWEST: Final = 20
"""Requests of its own that a tenant must have sent before canaries can be like them."""
PASSED_OVER: Final = 0.1
"""What part of the drawn requests may be passed over, since no prompt is of their size."""
SESSION_MS: Final = 600_000
"""A longer gap is a pause between sessions, and no gap within one."""
ANSWER_SHARE: Final = 950
"""ms of an order's deadline in each second of a call's time."""


@dataclass(frozen=True, slots=True, repr=False)
class Habit:
    """A request that the tenant has sent, apart from its words."""

    body: RequestBody
    tags: Mapping[str, str] | None
    timeout_s: float
    candidates: int

    @property
    def size_class(self) -> int:
        """Bytes of the padded body."""
        return _size_class(self.body)

    @property
    def words(self) -> str:
        """The prompt, or the user's message."""
        return self.body.messages[-1].content if self.body.messages else self.body.prompt or ""

    def saying(self, words: str) -> RequestBody:
        """Return the body of this request with other words."""
        if not self.body.messages:
            return replace(self.body, prompt=words)
        return replace(self.body, messages=(*self.body.messages[:-1], Message("user", words)))


@dataclass(frozen=True, slots=True)
class Habits:
    """What a tenant's requests are like."""

    requests: tuple[Habit, ...]
    gaps_s: tuple[float, ...]
    """Seconds between one request and the next, within sessions."""
    words: frozenset[str]
    """All that it has sent, canaries included."""


@dataclass(frozen=True, slots=True, repr=False)
class Canary:
    """A request to send, `gap_s` seconds after the one before."""

    gap_s: float
    body: RequestBody
    tags: Mapping[str, str] | None
    timeout_s: float
    candidates: int

    def options(self) -> dict[str, Any]:
        """Return it as `generate` takes it."""
        slots = self.body.slots
        return {
            "messages": self.body.messages or None,
            "settings": self.body.settings,
            "prompt": self.body.prompt,
            "seed": self.body.seed,
            "tags": self.tags,
            "timeout_s": self.timeout_s,
            "candidates": self.candidates,
            "slots_ms": 0 if slots is None else slots.ms,
            "canary": True,
        }


def habits_of(sent: Iterable[SentRequest]) -> Habits:
    """Return a tenant's habits from its archive, newest first or last.

    INVALID_ARGUMENT if there are too few requests, or none that a single prompt can be made like.
    """
    words: set[str] = set()
    genuine: list[tuple[int, Habit]] = []
    for item in sent:
        opened = open_with_secret(item.envelope, item.secret)
        order = read_as(Order, item.order_statement)
        timeout_s = round((order.max_ms or 0) / ANSWER_SHARE, 1) or 0.1
        habit = Habit(opened.body, item.tags, timeout_s, len(opened.header.candidates))
        words.add(habit.words)
        if not item.canary and item.attempt == 0:
            genuine.append((item.created, habit))
    if len(genuine) < FEWEST:
        raise _cannot(
            f"{len(genuine)} requests are in the archive, and canaries need {FEWEST} to be like"
        )
    genuine.sort(key=lambda pair: pair[0])
    gaps = [after - before for (before, _), (after, _) in pairwise(genuine)]
    fit = tuple(habit for _, habit in genuine if _can_be_made_like(habit))
    if not fit:
        raise _cannot("every request in the archive is a conversation of several turns")
    within = tuple(max(gap, 1) / 1000 for gap in gaps if gap <= SESSION_MS)
    return Habits(fit, within or (SESSION_MS / 1000,), frozenset(words))


def plan(habits: Habits, prompts: Sequence[str], count: int, chance: random.Random) -> list[Canary]:
    """Return `count` canaries, in the order in which they are to be sent.

    Each is like a request that is drawn from the habits, all alike probable, and says the unused prompt whose size is nearest.
    Where no prompt is of its size, another request is drawn, for one in ten canaries at most: so no kind of request is more
    than 11/10 times as frequent among canaries as among the others. INVALID_ARGUMENT beyond that, and for a prompt that was
    sent before or is there twice.
    """
    doubled = [words for words, times in Counter(prompts).items() if times > 1]
    if doubled or habits.words & set(prompts):
        raise _cannot(
            "a prompt is there twice, or was sent before: whoever served it would know it"
        )
    seeds = Counter(habit.body.seed for habit in habits.requests)
    left = sorted(prompts, key=_bytes)
    planned = []
    for habit, words in _drawn(habits, left, count, chance):
        seed = habit.body.seed
        if seed is not None and seeds[seed] == 1:  # a seed of its own for each request
            seed = chance.randbytes(32) if any(seed[:24]) else bytes(24) + chance.randbytes(8)
        body = replace(habit.saying(words), seed=seed)
        gap_s = _gap(habits.gaps_s, chance)
        planned.append(Canary(gap_s, body, habit.tags, habit.timeout_s, habit.candidates))
    return planned


def _drawn(
    habits: Habits, left: list[str], count: int, chance: random.Random
) -> Iterator[tuple[Habit, str]]:
    """Yield requests to be like, each with the prompt that is then taken out of `left`."""
    passed = 0
    for _ in range(count):
        while True:
            habit = chance.choice(habits.requests)
            words = _take(left, habit)
            if words is not None:
                break
            passed += 1
            if passed > count * PASSED_OVER:
                raise _cannot(
                    f"no prompt is left that is as long as a request of yours with {_bytes(habit.words)} bytes (size class"
                    f" {habit.size_class}), and canaries that are like the rest only would show",
                    "Prepare more prompts of the lengths that your own have.",
                )
        yield habit, words


def _take(left: list[str], habit: Habit) -> str | None:
    """Remove and return the prompt nearest in size to a request's words, if it gives its size class.

    Size classes rise with sizes, so only the next longer and the next shorter prompt can.
    """
    size = _bytes(habit.words)
    at = bisect_left(left, size, key=_bytes)
    near = [place for place in (at, at - 1) if 0 <= place < len(left)]
    for place in sorted(near, key=lambda place: abs(_bytes(left[place]) - size)):
        if _size_class(habit.saying(left[place])) == habit.size_class:
            return left.pop(place)
    return None


def _gap(gaps: Sequence[float], chance: random.Random) -> float:
    """Draw a gap: one that was, blurred on a logarithmic scale, so that none is repeated and the spread stays."""
    logs = [math.log(gap) for gap in gaps]
    drawn, spread = chance.choice(logs), statistics.pstdev(logs)
    middle = statistics.fmean(logs)
    width = 0.9 * len(logs) ** -0.2  # of the kernel, in standard deviations
    blurred = middle + (drawn - middle + width * spread * chance.gauss(0, 1)) / math.hypot(1, width)
    return math.exp(blurred)


def _can_be_made_like(habit: Habit) -> bool:
    body = habit.body
    roles = tuple(message.role for message in body.messages)
    return roles in ROLES and not body.prefix and body.choice == 0


def _size_class(body: RequestBody) -> int:
    return padded_size(len(encode_body(body)), SMALLEST_BODY)


def _bytes(words: str) -> int:
    return len(words.encode())


def _cannot(detail: str, remedy: str | None = None) -> CounterfoilError:
    return CounterfoilError(Code.INVALID_ARGUMENT, detail, remedy=remedy)
