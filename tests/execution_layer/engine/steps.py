"""A scheduler's steps without arithmetic: states are hashes of what a decoder would read from the blocks."""

from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256

from execution_layer.engine.protocol import GenerationRequest
from execution_layer.engine.scheduler import Limits, Plan, Scheduler
from execution_layer.engine.sequence import SequenceState
from shared.commitments.exact import ActivationHasher, Activations
from shared.model.backend import NULL_BLOCK
from shared.model.sampler import Sampler
from shared.statements.request import SamplingSettings
from shared.text.stream import TextStream
from tests.execution_layer.engine.traffic import common, tokenizer

ROW = 8
BLOCK = Limits().block


def sequence(
    prompt: int | tuple[int, ...] = 1, budget: int = 1, tenant: str = "a"
) -> SequenceState:
    """Return a new sequence; a number makes a prompt of that many equal tokens."""
    tokens = (1,) * prompt if isinstance(prompt, int) else prompt
    how = SamplingSettings(budget)
    return SequenceState(
        request=GenerationRequest("r", tenant, tokens, how, bytes(32)),
        stream=TextStream(tokenizer()),
        hasher=ActivationHasher(len(tokens), ROW),
        sampler=Sampler(how, bytes(32)),
    )


def distinct(seed: int, size: int) -> tuple[int, ...]:
    """Return a prompt that shares no block with those of other seeds."""
    return (seed % 256, seed // 256, *(i % 251 for i in range(size - 2)))[:size]


@dataclass
class FakeMemory:
    """KV blocks whose cells are states. A state depends on every block before it, as attention does."""

    block: int = BLOCK
    cells: dict[tuple[int, int], bytes] = field(default_factory=dict)

    def compute(self, item: SequenceState, count: int) -> None:
        rows = []
        for position, token in enumerate(item.next_tokens(count), item.computed):
            index, place = divmod(position, self.block)
            seen = [self.cells[one, self.block - 1] for one in item.blocks[:index]]
            if place:
                seen.append(self.cells[item.blocks[index], place - 1])
            rows.append(state(seen, token))
            self.cells[item.blocks[index], place] = rows[-1]
        assert len(rows) == count
        item.hasher.append(b"".join(rows[item.hashed_of(count) :]))
        item.begin(count)
        item.advance(count)

    def next_token(self, item: SequenceState) -> int:
        index, place = divmod(item.computed - 1, self.block)
        return self.cells[item.blocks[index], place][0]


def state(seen: list[bytes], token: int) -> bytes:
    return sha256(b"".join(seen) + token.to_bytes(4, "big")).digest()[:ROW]


def advance(scheduler: Scheduler, memory: FakeMemory | None = None) -> Plan:
    """Do one step as the engine does; return the plan. Without a memory every sampled token is the same one."""
    scheduler.admit()
    plan = scheduler.plan()
    for item, count in plan:
        if memory:
            memory.compute(item, count)
        else:
            item.hasher.append(bytes(ROW * (count - item.hashed_of(count))))
            item.begin(count)
            item.advance(count)
    scheduler.settle(plan)
    for item, _ in plan:
        if item.left == 0:
            item.take(memory.next_token(item) if memory else 1)
    list(scheduler.remove_ended())
    return plan


def expected(
    prompt: tuple[int, ...], budget: int, block: int = BLOCK
) -> tuple[tuple[int, ...], Activations]:
    """Return the output and hashes of a sequence that has everything to itself."""
    tokens = list(prompt)
    states: list[bytes] = []
    hasher = ActivationHasher(len(prompt), ROW)
    for position in range(len(prompt) + budget - 1):
        seen = [states[place] for place in range(block - 1, position, block)]
        if position % block:
            seen.append(states[position - 1])
        states.append(state(seen, tokens[position]))
        hasher.append(states[-1])
        if position == len(tokens) - 1:
            tokens.append(states[-1][0])
    return tuple(tokens[len(prompt) :]), hasher.finish()


def check_books(scheduler: Scheduler) -> None:
    """Every block is free, idle or held, and each holder is counted."""
    pool, cache, limits = scheduler._pool, scheduler.cache, scheduler.limits
    held = Counter(block for item in scheduler.running for block in item.blocks)
    assert held == Counter(pool._holders)
    groups = [*pool._free, *pool._idle, *held]
    assert len(groups) == len(set(groups))
    assert set(groups) == set(range(1, limits.blocks + 1))
    assert NULL_BLOCK not in groups
    assert scheduler.free_blocks == limits.blocks - len(held)
    assert all(block in cache for block in pool._idle)
    assert {entry.block: key for key, entry in cache._entries.items()} == cache._keys
    assert all(count == 1 or block in cache for block, count in held.items())
    for item in scheduler.running:
        assert len(set(item.blocks)) == len(item.blocks)
        assert item.computed <= len(item.blocks) * limits.block
        assert item.computed <= min(item.longest, item.hasher.position)
    for item in scheduler.everyone():
        assert item.ended is None
        assert item in scheduler.running or (item.blocks, item.computed) == ([], 0)
    assert len(scheduler.running) <= limits.sequences
    ages = [item.admitted or 0 for item in scheduler.running]
    assert ages == sorted(ages)


def run_all(limits: Limits, items: list[SequenceState], *, at_once: bool = True) -> Scheduler:
    """Serve all to the end, checking the books after each step and the answers at the end.

    No more steps are needed than positions: in each the sequence that was admitted first advances.
    """
    scheduler, memory = Scheduler(limits), FakeMemory(limits.block)
    coming = list(items)
    steps = 0
    while coming or scheduler.waiting or scheduler.running:
        while coming and (at_once or scheduler.waiting == 0):
            item = coming.pop(0)
            scheduler.check(len(item.request.prompt_ids), item.request.settings.max_tokens)
            scheduler.enqueue(item)
        advance(scheduler, memory)
        check_books(scheduler)
        steps += 1
        assert steps <= sum(item.longest for item in items) + len(items)
    for item in items:
        prompt = item.request.prompt_ids
        output, activations = expected(prompt, item.request.settings.max_tokens, limits.block)
        assert tuple(item.output) == output
        assert item.hasher.finish() == activations
        assert 0 <= item.cached <= len(prompt) - 1
        assert item.cached <= shared_with_tenant(item, items)
    return scheduler


def shared_with_tenant(item: SequenceState, items: list[SequenceState]) -> int:
    """Return the longest beginning of a prompt that another sequence of its tenant has too."""
    others = [
        (*other.request.prompt_ids, *other.output)
        for other in items
        if other is not item and other.request.tenant == item.request.tenant
    ]
    return max((common(item.request.prompt_ids, other) for other in others), default=0)
