"""What a judge knows of one case, step after step, and the arithmetic that it judges with."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from audit_layer.replay.case import Case
from shared.commitments.exact import Activations
from shared.envelope.blinded import BlindedFields, blinded_fields
from shared.envelope.boundary import boundary_root
from shared.envelope.evidence import Evidence
from shared.envelope.sealing import OpenedRequest
from shared.envelope.stages import BoundarySecret
from shared.envelope.stream import FinalRecord, Frame
from shared.statements.logprobs import TokenLogprobs
from shared.statements.orders import Order
from shared.statements.receipts import Receipt
from shared.statements.request import RequestBody, SamplingSettings
from shared.verification.judgement import Fact


@dataclass(frozen=True, slots=True)
class Replayed:
    """The result of one teacher-forced pass: commitment blocks, and the token that the sampler chooses at every output position.

    `logprobs` has one entry per output position if the settings ask for it, and is empty otherwise.
    """

    activations: Activations
    chosen: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    boundaries: tuple[tuple[bytes, ...], ...] = ()
    """For each cut that was asked for, the row hashes of the states there (protocol §4.10.3)."""


class Arithmetic(Protocol):
    """The auditor's own model. Deterministic; knows nothing of nodes, receipts or verdicts."""

    @property
    def profile(self) -> bytes:
        """Hash of the numeric profile (32 bytes)."""

    @property
    def layers(self) -> int:
        """How many layers the model has."""

    def tokenise(self, body: RequestBody) -> tuple[int, ...]:
        """Return the input's tokens: the tokenizer's own encoding under the chat template, then the body's prefix."""

    def check(self, prompt: Sequence[int], output: Sequence[int]) -> None:
        """Raise what `replay` raises for tokens that no sequence of this model has, without a pass."""

    def replay(
        self,
        prompt: Sequence[int],
        output: Sequence[int],
        settings: SamplingSettings,
        seed: bytes,
        choice: int,
        delivered: int = 0,
        cuts: Sequence[int] = (),
    ) -> Replayed:
        """Replay prompt and output in one pass; the prompt's last `delivered` tokens are sampled after as output. `cuts` are
        numbers of layers after which the states are hashed.

        INVALID_ARGUMENT or MALFORMED if no sequence of this model has these tokens.
        """

    def says(
        self,
        frames: Sequence[tuple[Sequence[int], str]],
        settings: SamplingSettings,
        prefix: Sequence[int] = (),
        *,
        ended: bool,
    ) -> bool:
        """Return whether the text of frames (tokens, text) is that of their tokens after a prefix; all of it if the sequence
        `ended`.
        """

    def stops_at(
        self, output: Sequence[int], settings: SamplingSettings, prefix: Sequence[int] = ()
    ) -> int | None:
        """Return the number of tokens of `output` up to and including the first stop after a prefix; None without one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the frames hold, in order."""

    frames: tuple[Frame, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        """All tokens."""
        return tuple(token for frame in self.frames for token in frame.tokens)

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(frame.text for frame in self.frames)

    @property
    def logprobs(self) -> tuple[TokenLogprobs, ...]:
        """All log-probabilities."""
        return tuple(told for frame in self.frames for told in frame.logprobs or ())


@dataclass(slots=True, repr=False)
class Hearing:
    """One case, and what the steps so far have found. A step sets what later steps read."""

    case: Case
    receipt: Receipt
    order: Order
    arithmetic: Arithmetic
    head: Receipt
    """The receipt to which the frames belong: the head's, for a stage's receipt; else the same."""
    facts: dict[str, Fact] = field(default_factory=dict)
    opened: OpenedRequest = field(init=False)
    prompt: tuple[int, ...] = field(init=False)
    """All input tokens, those of the body's prefix included."""
    answer: Answer = field(init=False)
    tokens: tuple[int, ...] = field(init=False)
    final: FinalRecord | None = None
    """None if there is no final record."""
    evidence: Evidence | None = None
    """None if the receipt names none, or it is not there."""
    replayed: Replayed = field(init=False)
    cuts: tuple[int, ...] = ()
    """Of a chain: how many layers there are below each boundary."""

    @property
    def length(self) -> int:
        """Tokens of prompt and output."""
        return len(self.prompt) + len(self.tokens)

    @property
    def settings(self) -> SamplingSettings:
        """What the request asks for."""
        return self.opened.body.settings

    @property
    def prefix(self) -> tuple[int, ...]:
        """Output tokens of earlier attempts from which the answer goes on."""
        return self.opened.body.prefix

    @property
    def seed(self) -> bytes:
        """The effective sampling seed."""
        return self.opened.body.seed or self.opened.keys.sampling_seed

    @property
    def place(self) -> int:
        """The receipt's place in a chain; 0 for a head's, and without any."""
        return 0 if self.order.part is None else self.order.part.place

    def boundary(self, index: int) -> bytes:
        """Return the root of a boundary as it follows from our own states."""
        secret = BoundarySecret.derive(self.case.secret, index)
        return boundary_root(secret, self.replayed.boundaries[index])

    def blinded(self, blocks: Activations | None = None) -> BlindedFields:
        """Return the receipt's blinded fields as they follow from the request, the frames and commitment blocks."""
        return blinded_fields(
            self.opened.keys,
            body=self.opened.body,
            seed=self.seed,
            input_tokens=self.prompt,
            output_tokens=self.tokens,
            prompt_blocks=blocks.prompt_blocks if blocks else (),
            output_blocks=blocks.output_blocks if blocks else (),
        )
