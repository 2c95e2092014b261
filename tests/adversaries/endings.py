"""Answers that end elsewhere than their rules say, or for another reason than they claim."""

from contextlib import AbstractContextManager
from hashlib import sha256
from typing import Any

from execution_layer.engine.engine import LocalEngine
from execution_layer.engine.protocol import Finished, FinishReason, GenerationRequest
from shared.commitments.exact import COMMITMENT_BLOCK, Activations
from shared.statements.verdicts import Reason
from tests.adversaries.adversary import Adversary, patched


class NoWork:
    """A generation that computes nothing: no output token, and invented hashes for the blocks of the prompt."""

    def __init__(self, request: GenerationRequest) -> None:
        self._prompt = request.prompt_ids

    def cancel(self, reason: FinishReason = FinishReason.CANCELLED) -> None:
        """There is nothing to end."""

    async def __aiter__(self) -> Any:
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
        "no-work",
        "computes nothing, invents the prompt's blocks, and bills the prompt as cancelled",
        no_work,
        frozenset({Reason.FINISH, Reason.ACTIVATIONS}),
    ),
)
