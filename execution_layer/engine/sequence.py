"""One sequence as the scheduler sees it."""

from collections.abc import Sequence as Ordered
from dataclasses import dataclass, field

from execution_layer.engine.protocol import FinishReason, GenerationRequest
from shared.commitments.exact import ActivationHasher
from shared.model.sampler import Sampler
from shared.text.stream import TextStream


@dataclass(slots=True)
class SequenceState:
    """Tokens, place in the cache, and what has been computed of it."""

    request: GenerationRequest
    stream: TextStream
    hasher: ActivationHasher
    sampler: Sampler
    output: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    computed: int = 0
    """Positions whose keys, values and states are done."""
    compute_s: float = 0.0
    ended: FinishReason | None = None

    @property
    def length(self) -> int:
        """Prompt and output tokens so far."""
        return len(self.request.prompt_ids) + len(self.output)

    @property
    def longest(self) -> int:
        """Positions that the sequence may come to need: its last token's state is never computed."""
        return len(self.request.prompt_ids) + self.request.settings.max_tokens - 1

    def next_tokens(self, limit: int) -> Ordered[int]:
        """Return up to `limit` tokens that are known and not computed yet."""
        prompt = self.request.prompt_ids
        if self.computed < len(prompt):
            return prompt[self.computed : self.computed + limit]
        return self.output[self.computed - len(prompt) :][:limit]

    def take(self, token: int) -> str:
        """Append a sampled token; return the text that it settles and note whether the sequence ends."""
        self.output.append(token)
        text = self.stream.push(token)
        if self.stream.stopped:
            self.ended = FinishReason.STOP
        elif len(self.output) == self.request.settings.max_tokens:
            self.ended = FinishReason.LENGTH
            text += self.stream.flush()
        return text

    def rest(self) -> str:
        """Return the text that an end from outside leaves held back; a failed sequence says no more."""
        return "" if self.ended is FinishReason.FAILED else self.stream.flush()
