"""One sequence as the scheduler sees it."""

from collections.abc import Sequence as Ordered
from dataclasses import dataclass, field

from execution_layer.engine.protocol import FinishReason, GenerationRequest, Resumed
from shared.commitments.exact import ActivationHasher
from shared.model.sampler import Sampler
from shared.runtime.errors import Code, CounterfoilError
from shared.text.stream import TextStream


@dataclass(slots=True, eq=False)
class SequenceState:
    """Tokens, place in the cache, and what has been computed of it."""

    request: GenerationRequest
    stream: TextStream
    hasher: ActivationHasher
    sampler: Sampler
    output: list[int] = field(default_factory=list)
    again: int | None = None
    """The last token of a sequence that is resumed: it is chosen once more, and must be the same. Until then the states
    that led to it are incomplete."""
    due: str = ""
    """Text that tokens shown before have settled, and that was not shown itself."""
    blocks: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    """The prefix cache's keys of the blocks that known tokens fill, made when they are needed."""
    admitted: int | None = None
    """Its place in the order of first admissions, which it keeps when preempted."""
    computed: int = 0
    """Positions whose keys, values and states are done."""
    sent: int = 0
    """Positions that are done or being computed: a step that is under way has those from `computed` on."""
    offered: int = 0
    """Blocks that the prefix cache offers, or has offered, to others."""
    cached: int = 0
    """Prompt positions that came from the prefix cache and were not computed for this sequence."""
    compute_s: float = 0.0
    ended: FinishReason | None = None
    submitted: float = 0.0
    """When it was, by the engine's clock."""
    latest: float | None = None
    """When its latest token was chosen; None before there is one."""

    @property
    def length(self) -> int:
        """Prompt and output tokens so far."""
        return len(self.request.prompt_ids) + len(self.output)

    @property
    def longest(self) -> int:
        """Positions that the sequence may eventually need: its last token's state is never computed."""
        return len(self.request.prompt_ids) + self.request.settings.max_tokens - 1

    @property
    def left(self) -> int:
        """Known tokens that nobody computes yet; 1 for a sequence that decodes and waits for a step."""
        return self.length - self.sent

    @property
    def under_way(self) -> bool:
        """Whether a step that has begun and not ended computes positions of it."""
        return self.sent > self.computed

    def tokens(self, first: int, last: int) -> Ordered[int]:
        """Return the known tokens at positions first … last-1."""
        prompt = self.request.prompt_ids
        size = len(prompt)
        return (*prompt[first:last], *self.output[max(0, first - size) : max(0, last - size)])

    def next_tokens(self, limit: int) -> Ordered[int]:
        """Return up to `limit` tokens that are known and that nobody computes yet."""
        return self.tokens(self.sent, self.sent + limit)

    def hashed_of(self, count: int) -> int:
        """Return how many of the next `count` positions are hashed already: those of a sequence that was preempted."""
        return min(count, max(0, self.hasher.position - self.computed))

    @property
    def output_ids(self) -> tuple[int, ...]:
        """Every output token, including one that is still to be chosen again."""
        return (*self.output, *(() if self.again is None else (self.again,)))

    @property
    def cached_prompt_tokens(self) -> int:
        """Prompt positions that were not computed for the sequence, when its first token was chosen."""
        resumed = self.request.resumed
        return resumed.cached if resumed is not None and resumed.output_ids else self.cached

    def resume(self, resumed: Resumed) -> None:
        """Begin with what was shown before; CORRUPT if no sequence of these settings shows that text with these tokens."""
        tokens, budget = resumed.output_ids, self.request.settings.max_tokens
        text = ""
        for token in tokens[:budget]:
            if self.stream.stopped:
                break
            text += self.stream.push(token)
            self.output.append(token)
        if len(tokens) == budget:
            text += self.stream.flush()
        if tuple(self.output) != tokens or not text.startswith(resumed.text):
            raise CounterfoilError(
                Code.CORRUPT,
                "the tokens of an interrupted sequence do not have the text that was shown",
            )
        self.due = text.removeprefix(resumed.text)
        if tokens:
            self.again = self.output.pop()

    def repeat(self, token: int) -> str:
        """Take the last token that was shown, chosen once more, and return the text that is due; one that differs ends the
        sequence as failed.
        """
        shown, self.again = self.again, None
        assert shown is not None
        self.output.append(shown)
        if token != shown:
            self.ended = FinishReason.FAILED
            return ""
        self._note_end()
        return self.due

    def begin(self, count: int) -> None:
        """Note that a step computes the next positions."""
        self.sent += count

    def advance(self, count: int) -> None:
        """Note that the oldest positions under way are done."""
        self.computed += count
        assert self.computed <= self.sent

    def restart(self) -> None:
        """Forget the place in memory, which is another's from now on: all known tokens are computed again. Hashes stay."""
        self.blocks = []
        self.computed = self.sent = self.offered = 0

    def take(self, token: int) -> str:
        """Append a sampled token; return the text that it settles and note whether the sequence ends."""
        self.output.append(token)
        text = self.stream.push(token)
        self._note_end()
        return text + self.stream.flush() if self.ended is FinishReason.LENGTH else text

    def rest(self) -> str:
        """Return the text still held back at an end from outside; a failed sequence says no more."""
        return "" if self.ended is FinishReason.FAILED else self.stream.flush()

    def _note_end(self) -> None:
        if self.stream.stopped:
            self.ended = FinishReason.STOP
        elif len(self.output) == self.request.settings.max_tokens:
            self.ended = FinishReason.LENGTH
