"""What the client seals: the conversation and how its answer is to be sampled.

Fractions travel as integers in millionths (`*_ppm`), because statements carry no floating-point numbers.
"""

from dataclasses import dataclass

from shared.runtime.errors import Code, CounterfoilError

PPM = 1_000_000
MAX_STOP_STRINGS = 8
MAX_STOP_BYTES = 256
MAX_MESSAGES = 256
ROLES = frozenset({"system", "user", "assistant"})


def _require(condition: bool, detail: str) -> None:
    if not condition:
        raise CounterfoilError(Code.INVALID_ARGUMENT, detail)


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How each output token is chosen. Greedy when `temperature_ppm` is 0.

    `top_k` = 0 and `top_p_ppm` = 1_000_000 switch the filter off. The seed is not here: it is a secret
    of its own (`RequestBody.seed`, or derived from the transcript secret).
    """

    max_tokens: int
    temperature_ppm: int = PPM
    top_k: int = 0
    top_p_ppm: int = PPM
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(1 <= self.max_tokens <= 2**20, "max_tokens must be between 1 and 1048576")
        _require(0 <= self.temperature_ppm <= 100 * PPM, "temperature must be between 0 and 100")
        _require(0 <= self.top_k <= 2**20, "top_k must be between 0 and 1048576")
        _require(1 <= self.top_p_ppm <= PPM, "top_p must be above 0 and at most 1")
        _require(len(self.stop) <= MAX_STOP_STRINGS, f"at most {MAX_STOP_STRINGS} stop strings")
        for text in self.stop:
            size = len(text.encode("utf-8", "surrogatepass"))
            _require(1 <= size <= MAX_STOP_BYTES, f"a stop string has 1 to {MAX_STOP_BYTES} bytes")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str

    def __post_init__(self) -> None:
        _require(self.role in ROLES, f"role must be one of {sorted(ROLES)}, not {self.role!r}")


@dataclass(frozen=True, slots=True)
class RequestBody:
    """The plaintext of a sealed body: exactly one of `messages` and `prompt`."""

    settings: SamplingSettings
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    seed: bytes | None = None
    """32 bytes, or absent: then the sampling seed is derived from the transcript secret."""

    def __post_init__(self) -> None:
        _require(
            bool(self.messages) != (self.prompt is not None),
            "a request has either messages or a prompt",
        )
        _require(len(self.messages) <= MAX_MESSAGES, f"at most {MAX_MESSAGES} messages")
        _require(self.seed is None or len(self.seed) == 32, "a seed has 32 bytes")
