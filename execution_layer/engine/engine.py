"""The local engine: a thread that steps (schedule, run, postprocess), and generations that an event loop awaits."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Final

from execution_layer.engine.counts import EngineCounts
from execution_layer.engine.protocol import (
    EngineStats,
    Finished,
    FinishReason,
    GenerationRequest,
    TokenChunk,
)
from execution_layer.engine.runner import Chosen, LostError, Runner, Step, Steps, lay_out
from execution_layer.engine.scheduler import Limits, Scheduler
from execution_layer.engine.sequence import SequenceState
from shared.commitments.exact import ActivationHasher
from shared.model.decoder import Decoder, Ends
from shared.model.sampler import Sampled, Sampler
from shared.runtime.errors import Code, CounterfoilError
from shared.text.stream import TextStream
from shared.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)
Event = TokenChunk | Finished
LOOK_EVERY_S: Final = 1.0
"""How often it is asked whether a step under way has stalled, while nothing comes of it."""
StepsOf = Callable[[int, Callable[[], None]], Steps]
"""Makes what computes the steps, given the number of blocks and what it calls, from any thread, when a step may end."""


class LocalGeneration:
    """One sequence of a LocalEngine."""

    def __init__(self, engine: "LocalEngine", state: SequenceState) -> None:
        self._engine = engine
        self.loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._wanted: FinishReason | None = None
        self.state = state

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Yield chunks, then one Finished."""
        while True:
            event = await self._events.get()
            yield event
            if isinstance(event, Finished):
                return

    def cancel(self, reason: FinishReason = FinishReason.CANCELLED) -> None:
        """End the sequence at the next step, unless it has ended by then; of several reasons the first one stands."""
        self._wanted = self._wanted or reason
        self._engine.wake()

    @property
    def cached_prompt_tokens(self) -> int:
        """Prompt positions that were not computed for the sequence; fixed once there is a token."""
        return self.state.cached_prompt_tokens

    @property
    def wanted_end(self) -> FinishReason | None:
        """The reason for which somebody asked to end the sequence."""
        return self._wanted

    def put(self, event: Event) -> None:
        """Receive an event, on the event loop's thread."""
        self._events.put_nowait(event)


class LocalEngine:
    """Continuous batching over one decoder in this process."""

    def __init__(
        self,
        decoder: Ends,
        tokenizer: Tokenizer,
        limits: Limits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        steps: StepsOf | None = None,
    ) -> None:
        """`steps` returns what computes the steps, if it is not the decoder in this process."""
        limits = limits or Limits(context=decoder.config.max_positions)
        self.limits = replace(
            limits,
            context=min(limits.context, decoder.config.max_positions),
            block=decoder.backend.block,
        )
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._row_bytes = decoder.config.hidden_size * decoder.dtype.itemsize
        self._clock = clock
        self._scheduler = Scheduler(self.limits, clock)
        self.counts = EngineCounts()
        self._steps = self._failures = 0
        self._work = threading.Event()
        self._runner: Steps
        if steps is None:
            assert isinstance(decoder, Decoder)
            self._runner = Runner(decoder, decoder.cache(self.limits.blocks))
        else:
            self._runner = steps(self.limits.blocks, self.wake)
        self._under_way: deque[Step] = deque()
        """Steps that have begun, the oldest first."""
        self._generations: dict[int, LocalGeneration] = {}
        self._outbox: list[tuple[LocalGeneration, Event]] = []
        """What a step has for the event loops, which are woken once for it."""
        self._lock = threading.Lock()
        """Guards the scheduler and the generations; not held while the decoder runs."""
        self._stopping = False
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        """Start the stepping thread."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """End all sequences as FAILED and wait for the thread."""
        self._stopping = True
        self.wake()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        else:
            self.step()
        await asyncio.to_thread(self._runner.close)

    def wake(self) -> None:
        """Let the thread look for work."""
        self._work.set()

    def submit(self, request: GenerationRequest) -> LocalGeneration:
        """Accept a sequence; INVALID_ARGUMENT, OVERLOADED, DRAINING or CORRUPT otherwise."""
        vocabulary = self._decoder.config.vocab_size
        before = () if request.resumed is None else request.resumed.output_ids
        tokens = (*request.prompt_ids, *before)
        if not request.prompt_ids or not all(0 <= token < vocabulary for token in tokens):
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, "the prompt is empty or has tokens outside the vocabulary"
            )
        self._scheduler.check(len(request.prompt_ids), request.settings.max_tokens)
        how, own = request.settings, len(request.prompt_ids) - request.delivered
        prompt, prefix = request.prompt_ids[:own], request.prompt_ids[own:]
        state = SequenceState(
            request=request,
            stream=TextStream(self._tokenizer, how.stop, how.stop_token_ids, prefix),
            hasher=ActivationHasher(len(request.prompt_ids), self._row_bytes),
            sampler=Sampler(how, request.seed, request.choice, prompt, prefix),
            submitted=self._clock(),
        )
        if request.resumed is not None:
            state.resume(request.resumed)
        generation = LocalGeneration(self, state)
        with self._lock:
            if self._stopping:
                raise CounterfoilError(Code.DRAINING, "the engine is stopping")
            self._scheduler.enqueue(state)
            self._generations[id(state)] = generation
        self.wake()
        return generation

    @property
    def steps(self) -> Steps:
        """Return what computes the steps."""
        return self._runner

    @property
    def load(self) -> tuple[int, int, int]:
        """Return (running, waiting, free blocks)."""
        with self._lock:
            return (
                len(self._scheduler.running),
                self._scheduler.waiting,
                self._scheduler.free_blocks,
            )

    @property
    def stats(self) -> EngineStats:
        """Return its current state."""
        with self._lock:
            scheduler = self._scheduler
            return EngineStats(
                running=len(scheduler.running),
                waiting=scheduler.waiting,
                free_blocks=scheduler.free_blocks,
                cached_blocks=len(scheduler.cache),
                prefix_hits=scheduler.prefix_hits,
                prefix_misses=scheduler.prefix_misses,
                preemptions=scheduler.preemptions,
                steps=self._steps,
                failures=self._failures,
            )

    def step(self) -> bool:
        """Begin what can begin, and end the oldest step; return whether there was anything to do."""
        began = self._begin()
        self._deliver()
        if not self._under_way:
            return began
        ended = self._end(self._under_way[0])
        self._deliver()
        return began or ended

    def _begin(self) -> bool:
        """Schedule until no more steps may be under way or nothing is left to compute; return whether a step has begun."""
        began = False
        while True:
            with self._lock:
                self._end_from_outside()
                self._finish_ended()
                self._scheduler.admit()
                depth = self._runner.depth(len(self._scheduler.running), self._scheduler.chunks)
                room = len(self._under_way) < depth
                plan = self._scheduler.plan(depth) if room else []
                assert plan or self._under_way or not self._generations
                if not plan:
                    return began
                step = lay_out(plan)
                self._under_way.append(step)
            self._runner.begin(step)
            began = True

    def _end(self, step: Step) -> bool:
        """End the oldest step under way; return False while it goes on."""
        try:
            chosen: Chosen | None = self._runner.end(step)
            if chosen is None:
                return False
        except LostError:
            logger.warning("keys and values are lost; all that runs is computed again")
            with self._lock:
                self._under_way.clear()
                self._scheduler.restart()
                self.counts.lost += 1
            return True
        except Exception:
            logger.exception("a step failed; the sequences in it end as failed")
            chosen = None
        with self._lock:
            self._under_way.popleft()
            self._failures = self._failures + 1 if chosen is None else 0
            self.counts.batch.observe(len(step.parts))
            if chosen is None:
                self.counts.failed += 1
                for part in step.parts:
                    part.sequence.ended = part.sequence.ended or FinishReason.FAILED
            else:
                self._scheduler.settle(step.plan)
                for sequence, sampled in chosen:
                    self._take(sequence, sampled)
            self._steps += 1
            self._finish_ended()
        return True

    def _deliver(self) -> None:
        """Hand the outbox to the event loops, from the engine's thread."""
        outbox, self._outbox = self._outbox, []
        for loop in {generation.loop for generation, _ in outbox}:
            events = [
                (generation, event) for generation, event in outbox if generation.loop is loop
            ]
            try:
                loop.call_soon_threadsafe(_put, events)
            except RuntimeError:
                logger.debug("the event loop of a generation has closed")

    def _take(self, sequence: SequenceState, chosen: Sampled) -> None:
        if sequence.again is not None:
            sequence.latest = self._clock()
            if due := sequence.repeat(chosen.token):
                self._outbox.append((self._generations[id(sequence)], TokenChunk((), due)))
            if sequence.ended is FinishReason.FAILED:
                logger.error(
                    "a resumed sequence chose another token than before; it ends as failed"
                )
            return
        try:
            text = sequence.take(chosen.token)
        except Exception:
            logger.exception("a token could not be added; its sequence ends as failed")
            sequence.ended = FinishReason.FAILED
            return
        self.counts.token(sequence, self._clock())
        chunk = TokenChunk((chosen.token,), text, chosen.logprobs)
        self._outbox.append((self._generations[id(sequence)], chunk))

    def _end_from_outside(self) -> None:
        """End what somebody wants to end. Sequences that came to their own end are gone by now, so none is renamed.

        One that is resumed first recomputes the states of what it has shown: the receipt commits to them.
        """
        now = self._clock()
        for sequence in self._scheduler.everyone():
            assert sequence.ended is None
            wanted = self._generations[id(sequence)].wanted_end
            deadline = sequence.request.deadline
            if self._stopping:
                sequence.ended = FinishReason.FAILED
            elif sequence.again is not None and wanted is not FinishReason.FAILED:
                continue
            elif wanted is not None:
                sequence.ended = wanted
            elif deadline is not None and now >= deadline:
                sequence.ended = FinishReason.DEADLINE

    def _finish_ended(self) -> None:
        for sequence in self._scheduler.remove_ended():
            generation = self._generations.pop(id(sequence))
            if rest := sequence.rest():
                self._outbox.append((generation, TokenChunk((), rest)))
            self._outbox.append((generation, _finished(sequence)))

    def _run(self) -> None:
        try:
            while True:
                if not self.step():
                    if self._stopping:
                        return
                    self._work.wait(LOOK_EVERY_S if self._under_way else None)
                    self._work.clear()
        except Exception:
            logger.exception("the engine's bookkeeping is wrong; it ends all sequences and stops")
            self._give_up()

    def _give_up(self) -> None:
        """End everything as failed without asking the scheduler."""
        with self._lock:
            self._stopping = True
            for generation in self._generations.values():
                generation.state.ended = FinishReason.FAILED
                self._outbox.append((generation, _finished(generation.state)))
            self._generations.clear()
        self._deliver()


def _put(events: Sequence[tuple[LocalGeneration, Event]]) -> None:
    for generation, event in events:
        generation.put(event)


def _finished(sequence: SequenceState) -> Finished:
    assert sequence.ended is not None
    return Finished(
        finish_reason=sequence.ended,
        output_ids=sequence.output_ids,
        activations=sequence.hasher.finish(),
        prompt_tokens=len(sequence.request.prompt_ids),
        cached_prompt_tokens=sequence.cached_prompt_tokens,
        compute_ms=round(sequence.compute_s * 1000),
    )
