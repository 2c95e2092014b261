"""Which sequences run in the next step: memory as it is needed, decode first, prompts in chunks, fair between tenants."""

import time
from bisect import insort
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from execution_layer.engine.blocks import BlockPool
from execution_layer.engine.fairness import Service, fair_shares
from execution_layer.engine.pace import Pace
from execution_layer.engine.prefix import CachedBlock, PrefixCache
from execution_layer.engine.sequence import SequenceState
from shared.commitments.exact import COMMITMENT_BLOCK
from shared.model.backend import blocks_for
from shared.runtime.errors import Code, CounterfoilError

Plan = list[tuple[SequenceState, int]]
"""Sequences and how many positions to compute of each."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one engine."""

    sequences: int = 16
    """Sequences that advance in one step."""
    queue: int = 256
    """Sequences that wait, of all tenants."""
    queue_per_tenant: int = 64
    prefill_rows: int = 256
    """Prompt positions computed in one step, besides the decoding sequences' one each."""
    blocks: int = 512
    """KV blocks."""
    block: int = 64
    """Positions of a KV block: the backend's own number."""
    context: int = 2048
    """The most positions of one sequence."""


def _age(sequence: SequenceState) -> int:
    assert sequence.admitted is not None
    return sequence.admitted


class Scheduler:
    """Queues per tenant, running sequences, blocks. Pure bookkeeping; one thread.

    The sequence admitted first is never preempted, and preempted ones run again before any new one: so all finish in
    any memory that holds each of them alone.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.running: list[SequenceState] = []
        """Oldest first."""
        self.cache = PrefixCache()
        self.preemptions = 0
        self.prefix_hits = 0
        """Positions that were found in the cache."""
        self.prefix_misses = 0
        """Prompt positions that were computed."""
        self._clock = clock
        assert limits.block % COMMITMENT_BLOCK == 0, "a KV block must hold whole commitment blocks"
        self._block = limits.block
        self._hashes = limits.block // COMMITMENT_BLOCK
        """Commitment blocks in one KV block."""
        self._waiting: dict[str, deque[SequenceState]] = {}
        self._preempted: list[SequenceState] = []
        self._pool = BlockPool(limits.blocks, self.cache)
        self._service = Service()
        self._pace = Pace()
        self._admissions = 0

    @property
    def waiting(self) -> int:
        """Sequences that wait to run, or to run again."""
        return len(self._preempted) + sum(len(queue) for queue in self._waiting.values())

    @property
    def free_blocks(self) -> int:
        """Blocks that nobody holds, including those of the prefix cache."""
        return self._pool.available

    @property
    def chunks(self) -> int:
        """Steps that the prompts which are not under way yet take."""
        rows = sum(item.left for item in self.running if item.left > 1)
        return -(-rows // self.limits.prefill_rows)

    def everyone(self) -> Iterator[SequenceState]:
        """Yield all sequences, running and waiting."""
        yield from self.running
        yield from self._preempted
        for queue in self._waiting.values():
            yield from queue

    def check(self, prompt: int, budget: int) -> None:
        """Raise INVALID_ARGUMENT for a sequence that can never run."""
        positions = prompt + budget - 1
        most = min(self.limits.context, self.limits.blocks * self._block)
        if positions > most:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT,
                f"{prompt} prompt tokens and a budget of {budget} exceed the context of {most} positions",
                remedy="Shorten the prompt or lower max_tokens.",
            )

    def enqueue(self, sequence: SequenceState) -> None:
        """Put a sequence in its tenant's queue; OVERLOADED when there is no room, unless it is resumed."""
        tenant = sequence.request.tenant
        if sequence.request.resumed is None:
            self._check_room(tenant)
        self._waiting.setdefault(tenant, deque()).append(sequence)
        self._service.enter(tenant)

    def admit(self) -> None:
        """Let waiting sequences run while there is room: the preempted, then those of the tenant whose turn it is.

        It is the turn of the tenant that has had least, counting what its running sequences may still need. Nobody
        overtakes it, however much memory its first sequence waits for.
        """
        while len(self.running) < self.limits.sequences:
            sequence = self._next()
            if sequence is None or not self._fits(sequence):
                return
            if sequence.admitted is None:
                self._dequeue(sequence)
                self._admissions += 1
                sequence.admitted = self._admissions
            else:
                self._preempted.remove(sequence)
            self._adopt(sequence)
            insort(self.running, sequence, key=_age)

    def plan(self, parts: int = 1) -> Plan:
        """Give blocks to all sequences that advance in this step, preempting others when no block is free.

        A decoding sequence advances by one position; prompts share the remaining rows, first among tenants, then among
        each tenant's sequences. The sequence that was admitted first always advances, unless it does so in a step that is
        under way. With `parts` steps under way at once, each has that part of the decoding sequences.
        """
        most = -(-len(self.running) // parts)
        counts = dict.fromkeys([it for it in self.running if it.left == 1][:most], 1)
        counts |= self._prefill_shares([item for item in self.running if item.left > 1])
        for sequence in tuple(self.running):
            wanted = counts.get(sequence) if sequence in self.running else None
            if wanted and not self._grow(sequence, wanted):
                del counts[sequence]
        return [(item, counts[item]) for item in self.running if counts.get(item)]

    def restart(self) -> None:
        """Compute everything again that runs: the memory of its keys and values is lost, and so is the prefix cache's."""
        for sequence in tuple(self.running):
            self._preempt(sequence)
        self._pool.forget()

    def settle(self, plan: Plan) -> None:
        """Record a plan that has been carried out: service, and full blocks for the prefix cache."""
        for sequence, count in plan:
            self._service.add(sequence.request.tenant, count)
            prompt = len(sequence.request.prompt_ids) - 1
            self.prefix_misses += max(0, min(prompt, sequence.computed) - sequence.computed + count)
            self._offer(sequence)

    def remove_ended(self) -> Iterator[SequenceState]:
        """Remove ended sequences, free their blocks, and yield them; waiting ones too."""
        for sequence in [item for item in self.everyone() if item.ended is not None]:
            if sequence in self.running:
                self.running.remove(sequence)
                self._release(sequence)
            elif sequence in self._preempted:
                self._preempted.remove(sequence)
            else:
                self._dequeue(sequence)
            self._service.leave(sequence.request.tenant)
            self._pace.note_end(self._clock())
            yield sequence

    def _check_room(self, tenant: str) -> None:
        own = len(self._waiting.get(tenant, ()))
        if self.waiting >= self.limits.queue:
            raise self._overloaded(f"{self.waiting} requests are waiting", self.waiting)
        if own >= self.limits.queue_per_tenant:
            raise self._overloaded(f"{own} requests of {tenant} are waiting", own)

    def _overloaded(self, text: str, ahead: int) -> CounterfoilError:
        wait_s = self._pace.seconds_for(ahead, self._clock())
        return CounterfoilError(Code.OVERLOADED, text, retry_after_s=wait_s)

    def _next(self) -> SequenceState | None:
        if self._preempted:
            return self._preempted[0]
        to_come: Counter[str] = Counter()
        for item in self.running:
            to_come[item.request.tenant] += item.longest - item.computed
        tenant = min(
            self._waiting, key=lambda name: self._service.of(name) + to_come[name], default=None
        )
        return None if tenant is None else self._waiting[tenant][0]

    def _dequeue(self, sequence: SequenceState) -> None:
        """Take a sequence out of its queue; its tenant goes behind all tenants of equal rank."""
        tenant = sequence.request.tenant
        queue = self._waiting.pop(tenant)
        queue.remove(sequence)
        if queue:
            self._waiting[tenant] = queue

    def _fits(self, sequence: SequenceState) -> bool:
        """Return whether there is memory for all of its known tokens, and for what running sequences still need for theirs."""
        promised = sum(
            blocks_for(item.length, self._block) - len(item.blocks) for item in self.running
        )
        hits = self._hits(sequence)
        woken = sum(self._pool.is_idle(hit.block) for hit in hits)
        return self._pool.can_allocate(
            promised + blocks_for(sequence.length, self._block) - len(hits) + woken
        )

    def _prefill_shares(self, prompts: Sequence[SequenceState]) -> dict[SequenceState, int]:
        """Divide a step's prefill rows equally between tenants, and a tenant's between its prompts.

        A prompt waits where an older one of its tenant is computing the very block that it needs next.
        """
        by_tenant: dict[str, list[SequenceState]] = {}
        computing = {key for item in self.running for key in self._keys_under_way(item)}
        for sequence in prompts:
            at_border = sequence.sent == len(sequence.blocks) * self._block
            if at_border and not sequence.under_way:
                self._adopt(sequence)
            key = self._key(sequence, sequence.sent // self._block)
            if not (at_border and key in computing):
                by_tenant.setdefault(sequence.request.tenant, []).append(sequence)
            if key is not None:
                computing.add(key)
        wanted = [sum(item.left for item in items) for items in by_tenant.values()]
        shares: dict[SequenceState, int] = {}
        rows = fair_shares(wanted, self.limits.prefill_rows)
        for items, own in zip(by_tenant.values(), rows, strict=True):
            shares.update(zip(items, fair_shares([item.left for item in items], own), strict=True))
        return shares

    def _keys_under_way(self, sequence: SequenceState) -> Iterator[bytes]:
        """Yield the prefix cache's keys of the blocks that steps under way compute."""
        if sequence.under_way:
            for index in range(sequence.computed // self._block, -(-sequence.sent // self._block)):
                if (key := self._key(sequence, index)) is not None:
                    yield key

    def _grow(self, sequence: SequenceState, count: int) -> bool:
        """Give a sequence the blocks for its next positions. It may have to give way itself, or (False) to wait for a step
        that is under way.
        """
        while len(sequence.blocks) * self._block < sequence.sent + count:
            if self._pool.can_allocate(1):
                sequence.blocks.append(self._pool.allocate())
                continue
            victim = self._victim()
            if victim is None:
                return False
            self._preempt(victim)
            if victim is sequence:
                return True
        return True

    def _victim(self) -> SequenceState | None:
        """Return the sequence that gives way: the last admitted of the tenant that holds most; never the very first, nor one
        that a step under way writes to.
        """
        held: Counter[str] = Counter()
        for item in self.running:
            held[item.request.tenant] += len(item.blocks)
        return max(
            (item for item in self.running[1:] if not item.under_way),
            key=lambda item: (held[item.request.tenant], _age(item)),
            default=None,
        )

    def _preempt(self, sequence: SequenceState) -> None:
        """Take away a sequence's blocks; it will be computed again from its tokens, and its hashes stay."""
        self.running.remove(sequence)
        self._release(sequence)
        sequence.restart()
        insort(self._preempted, sequence, key=_age)
        self.preemptions += 1

    def _release(self, sequence: SequenceState) -> None:
        """Release the blocks, the last one first: a cached block is forgotten after those that follow it."""
        for block in reversed(sequence.blocks):
            self._pool.release(block)
        sequence.blocks = []

    def _key(self, sequence: SequenceState, index: int) -> bytes | None:
        """Return the cache's key of a sequence's block; None unless known tokens fill it."""
        while len(sequence.keys) <= index:
            first = len(sequence.keys) * self._block
            if first + self._block > sequence.length:
                return None
            parent = sequence.keys[-1] if first else self.cache.root(sequence.request.tenant)
            tokens = sequence.tokens(first, first + self._block)
            sequence.keys.append(self.cache.child(parent, tokens))
        return sequence.keys[index]

    def _hits(self, sequence: SequenceState) -> list[CachedBlock]:
        """Return cached blocks that follow a sequence's own; its last known token is always computed.

        The hashes of blocks after the prompt are of no use to a sequence's own output blocks, so what is resumed takes
        none of them before it has hashed their states itself.
        """
        hits: list[CachedBlock] = []
        prompt = len(sequence.request.prompt_ids)
        end = min(sequence.length, max(sequence.hasher.position + 1, prompt)) - 1
        for index in range(len(sequence.blocks), end // self._block):
            key = self._key(sequence, index)
            hit = None if key is None else self.cache.get(key)
            if hit is None:
                break
            hits.append(hit)
        return hits

    def _adopt(self, sequence: SequenceState) -> None:
        """Give a sequence whose blocks are full the blocks that the prefix cache has for what follows."""
        for hit in self._hits(sequence):
            self._pool.hold(hit.block)
            sequence.blocks.append(hit.block)
            sequence.cached += sequence.hasher.resume(
                sequence.computed // COMMITMENT_BLOCK, hit.hashes
            )
            sequence.computed += self._block
            sequence.sent = sequence.computed
            self.prefix_hits += self._block
        sequence.offered = max(sequence.offered, sequence.computed // self._block)

    def _offer(self, sequence: SequenceState) -> None:
        """Offer the prefix cache the blocks that have become full."""
        while (sequence.offered + 1) * self._block <= sequence.computed:
            index = sequence.offered
            key = self._key(sequence, index)
            assert key is not None
            hashes = sequence.hasher.aligned(index * self._hashes, self._hashes)
            self.cache.put(key, sequence.blocks[index], hashes)
            sequence.offered += 1
