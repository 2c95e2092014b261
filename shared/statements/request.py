"""What the client seals: the conversation and how its answer is to be sampled.
Fractions are encoded as integers in millionths (`*_ppm`), because statements contain no floating-point numbers.
"""

from dataclasses import dataclass

from shared.runtime.errors import Code, CounterfoilError

PPM = 1_000_000
MAX_STOP_STRINGS = 8
MAX_STOP_BYTES = 256
MAX_MESSAGES = 256
MAX_STOP_TOKENS = 64
MAX_LOGPROBS = 20
MAX_CHOICE = 2**32 - 1
MAX_ANSWER = 2**20
"""Most tokens of one answer, those that earlier attempts delivered included."""
SLOT_SIZES = frozenset(256 << k for k in range(9))
LOGPROBS_SLOT = 1024
"""A token with all its log-probabilities fits into a frame of this size."""
ROLES = frozenset({"system", "user", "assistant"})


def _require(condition: bool, detail: str) -> None:
    if not condition:
        raise CounterfoilError(Code.INVALID_ARGUMENT, detail)


def _within(value: int | None, least: int, most: int) -> bool:
    return value is None or least <= value <= most


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How each output token is chosen. Greedy when `temperature_ppm` is 0.

    `top_k` = 0 and `top_p_ppm` = 1_000_000 disable the filter; None disables a setting that may be None.
    The seed is not here: it is a secret of its own (`RequestBody.seed`, or derived from the transcript
    secret). Their bit-exact meaning: protocol §7.3.
    """

    max_tokens: int
    temperature_ppm: int = PPM
    top_k: int = 0
    top_p_ppm: int = PPM
    stop: tuple[str, ...] = ()
    min_p_ppm: int | None = None
    """The lowest probability that a token may have, as a fraction of the most likely token's."""
    repetition_penalty_ppm: int | None = None
    """For tokens of the prompt and output: divides positive logits, multiplies the others."""
    presence_penalty_ppm: int | None = None
    """Subtracted from the logits of tokens that occur in the output."""
    frequency_penalty_ppm: int | None = None
    """Subtracted from the logits of tokens in the output, once per occurrence."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the answer in addition to the model's own; ascending."""
    logprobs: int | None = None
    """How many of the most likely tokens are returned with each output token's log-probability."""

    def __post_init__(self) -> None:
        _require(1 <= self.max_tokens <= MAX_ANSWER, "max_tokens must be between 1 and 1048576")
        _require(0 <= self.temperature_ppm <= 100 * PPM, "temperature must be between 0 and 100")
        _require(0 <= self.top_k <= 2**20, "top_k must be between 0 and 1048576")
        _require(1 <= self.top_p_ppm <= PPM, "top_p must be above 0 and at most 1")
        _require(len(self.stop) <= MAX_STOP_STRINGS, f"at most {MAX_STOP_STRINGS} stop strings")
        for text in self.stop:
            size = len(text.encode("utf-8", "surrogatepass"))
            _require(
                1 <= size <= MAX_STOP_BYTES,
                f"a stop string must be 1 to {MAX_STOP_BYTES} bytes long",
            )
        self._check_optional()

    def _check_optional(self) -> None:
        _require(_within(self.min_p_ppm, 1, PPM), "min_p must be above 0 and at most 1")
        _require(
            _within(self.repetition_penalty_ppm, PPM // 100, 100 * PPM),
            "repetition_penalty must be between 0.01 and 100",
        )
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, f"{name}_ppm")
            _require(_within(value, -2 * PPM, 2 * PPM), f"{name} must be between -2 and 2")
            _require(value != 0, f"a {name} of 0 must be omitted")
        ids = self.stop_token_ids
        _require(len(ids) <= MAX_STOP_TOKENS, f"at most {MAX_STOP_TOKENS} stop token ids")
        _require(
            all(0 <= token < 2**32 for token in ids),
            "a stop token id must be between 0 and 2^32 - 1",
        )
        _require(list(ids) == sorted(set(ids)), "stop token ids must be ascending and unique")
        _require(
            _within(self.logprobs, 0, MAX_LOGPROBS),
            f"logprobs must be between 0 and {MAX_LOGPROBS}",
        )


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str

    def __post_init__(self) -> None:
        _require(self.role in ROLES, f"role must be one of {sorted(ROLES)}, not {self.role!r}")


@dataclass(frozen=True, slots=True)
class Slots:
    """The shape of a response whose sizes and times say nothing of its content (protocol §4.2.1)."""

    ms: int
    """From one frame to the next, in milliseconds."""
    size: int
    """Bytes of every frame's plaintext."""

    def __post_init__(self) -> None:
        _require(20 <= self.ms <= 10_000, "a time slot must last 20 to 10000 ms")
        _require(self.size in SLOT_SIZES, "a time slot's size must be 256·2^k bytes, up to 65536")

    def check(self, settings: SamplingSettings, max_ms: int | None) -> None:
        """Raise INVALID_ARGUMENT for a request that takes larger slots, or an order that permits too many of them."""
        _require(
            settings.logprobs is None or self.size >= LOGPROBS_SLOT,
            f"log-probabilities need time slots of at least {LOGPROBS_SLOT} bytes",
        )
        most = min(2**15, 2**24 // self.size) * self.ms
        if max_ms is None or max_ms > most:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT,
                f"an answer in time slots of {self.ms} ms and {self.size} bytes needs an order with a deadline"
                f" (max_ms) of at most {most} ms",
                remedy="Use longer slots or a shorter timeout.",
            )


@dataclass(frozen=True, slots=True)
class RequestBody:
    """The plaintext of a sealed body: exactly one of `messages` and `prompt`."""

    settings: SamplingSettings
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    seed: bytes | None = None
    """32 bytes, or absent: then the sampling seed is derived from the transcript secret."""
    choice: int = 0
    """Which of several answers to the same request this one is."""
    prefix: tuple[int, ...] = ()
    """Output tokens that earlier attempts delivered: the answer goes on from there (protocol §3.3.1)."""
    slots: Slots | None = None
    """How the answer hides its sizes and times; None if it does not."""

    def __post_init__(self) -> None:
        _require(
            bool(self.messages) != (self.prompt is not None),
            "a request must have either messages or a prompt",
        )
        _require(len(self.messages) <= MAX_MESSAGES, f"at most {MAX_MESSAGES} messages")
        _require(self.seed is None or len(self.seed) == 32, "a seed must be 32 bytes long")
        _require(0 <= self.choice <= MAX_CHOICE, "a choice must be between 0 and 2^32 - 1")
        _require(not self.prefix or self.seed is not None, "a prefix needs a seed")
        _require(
            len(self.prefix) + self.settings.max_tokens <= MAX_ANSWER,
            f"prefix and max_tokens together are at most {MAX_ANSWER} tokens",
        )
        _require(
            all(0 <= token < 2**32 for token in self.prefix),
            "a token of the prefix must be between 0 and 2^32 - 1",
        )

    @property
    def size(self) -> int:
        """UTF-8 length of the prompt, or of all messages' contents, in bytes."""
        texts = [self.prompt or "", *(message.content for message in self.messages)]
        return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
