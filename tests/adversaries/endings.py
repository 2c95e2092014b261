"""Answers that end elsewhere than their rules say, or for another reason than they claim."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from hashlib import sha256
from typing import Final

from execution_layer.engine import engine as engine_module
from execution_layer.engine.engine import LocalEngine
from execution_layer.engine.protocol import Finished, FinishReason, GenerationRequest
from execution_layer.engine.sequence import SequenceState
from execution_layer.node.drafts import Outcome
from shared.commitments.exact import COMMITMENT_BLOCK, Activations
from shared.runtime.errors import Code
from shared.statements.receipts import Finish
from shared.statements.verdicts import Reason
from shared.text.stream import TextStream
from shared.text.tokenizer import Tokenizer
from tests.adversaries.adversary import Adversary, patched
from tests.adversaries.receipts import outcome_changed

FEW: Final = 8
"""Tokens after which `early-stop` ends."""
ENDS = frozenset({Reason.FINISH})
ENDS_OR_TEXT = ENDS | {Reason.TEXT}
"""Text is judged before the end, and a text that goes on after its stop is wrong by itself."""
REFUSED = frozenset({Code.COMMITMENT_MISMATCH})


class Endless(TextStream):
    """Never stops."""

    def __init__(self, tokenizer: Tokenizer, *rules: object) -> None:
        super().__init__(tokenizer)
        self._stop_tokens = frozenset()


def stopping_at_a_full_stop(
    tokenizer: Tokenizer, stop: Sequence[str] = (), *rules: Sequence[int]
) -> TextStream:
    """Return a stream that takes a full stop for a stop string."""
    return TextStream(tokenizer, (*stop, "."), *rules)


def ended_after(count: int, why: FinishReason) -> AbstractContextManager[None]:
    """End every sequence after a number of tokens."""
    ordinary = SequenceState.take

    def take(self: SequenceState, token: int) -> str:
        text = ordinary(self, token)
        if self.ended is None and len(self.output) == count:
            self.ended = why
        return text

    return patched((SequenceState, "take", take))


def called(what: Finish) -> AbstractContextManager[None]:
    """Call the end of every complete answer something else."""

    def renamed(outcome: Outcome) -> Outcome:
        complete = outcome.finish in {Finish.STOP, Finish.LENGTH}
        return replace(outcome, finish=what) if complete else outcome

    return outcome_changed(renamed)


class NoWork:
    """A generation that computes nothing: no output token, and invented hashes for the blocks of the prompt."""

    def __init__(self, request: GenerationRequest) -> None:
        self._prompt = request.prompt_ids

    def cancel(self, reason: FinishReason = FinishReason.CANCELLED) -> None:
        """There is nothing to end."""

    async def __aiter__(self) -> AsyncIterator[Finished]:
        """Yield the end only."""
        count = -(-(len(self._prompt) - 1) // COMMITMENT_BLOCK)
        invented = tuple(sha256(repr((self._prompt, n)).encode()).digest() for n in range(count))
        yield Finished(
            finish_reason=FinishReason.CANCELLED,
            output_ids=(),
            activations=Activations(invented, ()),
            prompt_tokens=len(self._prompt),
            cached_prompt_tokens=0,
            compute_ms=1,
        )


def no_work() -> AbstractContextManager[None]:
    """Submit nothing to the engine."""
    return patched((LocalEngine, "submit", lambda _, request: NoWork(request)))


ADVERSARIES = (
    Adversary(
        "ignores-stops",
        "goes on after every stop token and stop string",
        lambda: patched((engine_module, "TextStream", Endless)),
        ENDS_OR_TEXT,
        REFUSED,
    ),
    Adversary(
        "invented-stop",
        "stops at the first full stop, which nobody asked for",
        lambda: patched((engine_module, "TextStream", stopping_at_a_full_stop)),
        ENDS_OR_TEXT,
        REFUSED,
    ),
    Adversary(
        "early-stop",
        f"ends after {FEW} tokens and calls it a stop",
        lambda: ended_after(FEW, FinishReason.STOP),
        ENDS,
    ),
    Adversary(
        "cut-after-one",
        "ends after one token and calls it cancelled",
        lambda: ended_after(1, FinishReason.CANCELLED),
        ENDS,
        REFUSED,
    ),
    Adversary(
        "complete-as-cancelled",
        "calls complete answers cancelled",
        lambda: called(Finish.CANCELLED),
        ENDS,
        REFUSED,
    ),
    Adversary(
        "complete-as-late",
        "calls complete answers late, though no deadline was set",
        lambda: called(Finish.DEADLINE),
        ENDS,
        REFUSED,
    ),
    Adversary(
        "no-work",
        "computes nothing, invents the prompt's blocks, and bills the prompt as cancelled",
        no_work,
        frozenset({Reason.FINISH, Reason.ACTIVATIONS}),
        REFUSED,
    ),
)
