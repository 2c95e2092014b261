"""One answer of an accountable chain: what its session does before it and at its end (protocol §4.10.4)."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from execution_layer.engine.protocol import Finished, Generation, Resumed
from execution_layer.node.chain import HeadChain, Part
from execution_layer.node.drafts import Outcome
from shared.runtime.errors import CounterfoilError
from shared.statements.receipts import Finish

CLOSINGS: Final = 4
"""How often a chain is asked for its receipts; before each time but the first, the answer is computed again, since a stage may
have died with what it had noted."""
PAUSE_S: Final = 0.5
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Chained:
    """The chain behind one session."""

    chain: HeadChain
    request: str
    """What the engine calls the request."""
    parts: Sequence[Part]
    again: Callable[[Resumed], Generation]
    """Computes the request again, given what came of it."""

    async def give_up(self) -> None:
        """Tell the chain that nothing more is wanted of the request."""
        await self.chain.give_up(self.request, self.parts)

    async def close(self, outcome: Outcome, text: str) -> Outcome:
        """Return how a request ended, with what its chain signs for it: as failed, if the chain does not."""
        if outcome.finish is Finish.FAILED or not outcome.output_ids:
            await self.give_up()
            return outcome
        for left in reversed(range(CLOSINGS)):
            try:
                closed = await self.chain.close(self.request, outcome.usage, self.parts)
            except CounterfoilError as error:
                _log.warning("a chain does not sign: %s", error)
                if not left or not await self._computed_again(outcome, text):
                    break
            else:
                self.chain.forget(self.request)
                return replace(outcome, chain=closed.chain, stages=closed.receipts)
        await self.give_up()
        return replace(outcome, finish=Finish.FAILED, evidence=None, cancel=None)

    async def _computed_again(self, outcome: Outcome, text: str) -> bool:
        """Compute an answer again that has ended by its own rules; whether it came out the same."""
        if outcome.finish not in {Finish.STOP, Finish.LENGTH}:
            return False
        await asyncio.sleep(PAUSE_S)
        try:
            generation = self.again(Resumed(outcome.output_ids, text, outcome.usage.cached))
        except CounterfoilError as error:
            _log.warning("an answer cannot be computed again: %s", error)
            return False
        async for event in generation:
            if isinstance(event, Finished):
                same = event.finish_reason.value == outcome.finish.value
                return same and event.output_ids == outcome.output_ids
        raise AssertionError("a generation ends with Finished")
