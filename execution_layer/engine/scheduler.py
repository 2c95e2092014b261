"""Who runs in the next step: admission by memory, decode first, prompts in chunks, fair between tenants."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from execution_layer.engine.sequence import SequenceState
from shared.model.kv import blocks_for
from shared.runtime.errors import Code, CounterfoilError


@dataclass(frozen=True, slots=True)
class Limits:
    """What one engine permits itself."""

    sequences: int = 16
    """Sequences that advance in one step."""
    queue: int = 256
    prefill_rows: int = 64
    """Prompt positions computed in one step, beside the decoding sequences' one each."""
    blocks: int = 512
    """KV blocks of 64 positions."""
    context: int = 2048
    """Positions of one sequence at most."""


@dataclass(slots=True)
class Scheduler:
    """Queues per tenant, running sequences, free blocks. Pure bookkeeping; one thread."""

    limits: Limits
    running: list[SequenceState] = field(default_factory=list)
    _waiting: dict[str, deque[SequenceState]] = field(default_factory=dict)
    _free: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._free = list(range(self.limits.blocks, 0, -1))

    @property
    def waiting(self) -> int:
        """Sequences in the queue."""
        return sum(len(queue) for queue in self._waiting.values())

    @property
    def free_blocks(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    def check(self, prompt: int, budget: int) -> None:
        """Raise INVALID_ARGUMENT for a sequence that can never run."""
        positions = prompt + budget - 1
        most = min(self.limits.context, self.limits.blocks * 64)
        if positions > most:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT,
                f"{prompt} prompt tokens and a budget of {budget} exceed the context of {most} positions",
                remedy="Shorten the prompt or lower max_tokens.",
            )

    def enqueue(self, sequence: SequenceState) -> None:
        """Put a sequence in its tenant's queue; OVERLOADED when there is no room."""
        if self.waiting >= self.limits.queue:
            raise CounterfoilError(
                Code.OVERLOADED, f"{self.waiting} requests are waiting", retry_after_s=1.0
            )
        self._waiting.setdefault(sequence.request.tenant, deque()).append(sequence)

    def admit(self) -> None:
        """Move waiting sequences to the running ones while there is room, tenant by tenant in turn."""
        while len(self.running) < self.limits.sequences and self._waiting:
            tenant = next(iter(self._waiting))
            queue = self._waiting[tenant]
            needed = blocks_for(queue[0].longest)
            if needed > len(self._free):
                return
            sequence = queue.popleft()
            del self._waiting[tenant]
            if queue:
                self._waiting[tenant] = queue  # to the end of the round
            sequence.blocks = [self._free.pop() for _ in range(needed)]
            self.running.append(sequence)

    def plan(self) -> list[tuple[SequenceState, int]]:
        """Return (sequence, positions to compute): one for each that decodes, prompts share the rest."""
        left = self.limits.prefill_rows
        plan: list[tuple[SequenceState, int]] = []
        for sequence in self.running:
            prompt_left = len(sequence.request.prompt_ids) - sequence.computed
            if prompt_left <= 1:
                plan.append((sequence, 1))
            elif left:
                take = min(left, prompt_left)
                plan.append((sequence, take))
                left -= take
        return plan

    def remove_ended(self) -> Iterator[SequenceState]:
        """Take ended sequences out, free their blocks, and yield them; waiting ones too."""
        for sequence in [item for item in self.running if item.ended is not None]:
            self.running.remove(sequence)
            self._free.extend(reversed(sequence.blocks))
            sequence.blocks = []
            yield sequence
        for tenant, queue in list(self._waiting.items()):
            for sequence in [item for item in queue if item.ended is not None]:
                queue.remove(sequence)
                yield sequence
            if not queue:
                del self._waiting[tenant]

    def everyone(self) -> Iterator[SequenceState]:
        """Yield all sequences, running and waiting."""
        yield from self.running
        for queue in self._waiting.values():
            yield from queue
