"""The error catalogue: every failure that crosses a boundary has one code, and one meaning, here.

A code fixes the gRPC status, the HTTP status and the sentence that a stranger may read. The detail of a
single occurrence is sent with it, unless the code is marked opaque: then a peer learns only the
code, so that no two failures of the same kind can be told apart from outside (no decryption oracle).

This module imports nothing but the standard library; servers map codes with `shared.runtime.grpc` and
`shared.runtime.http`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a code means outside the process."""

    grpc: str
    """The gRPC status code's name."""
    http: int
    message: str
    """A sentence for people; says nothing about the occurrence."""
    opaque: bool = False
    """Whether the detail stays in our own log."""
    retryable: bool = False
    retry_s: float | None = None
    """When to try again, where the occurrence says nothing better."""


class Code(Enum):
    """Stable error codes. The name is the `reason` of gRPC ErrorInfo and the `code` of HTTP problems."""

    # Invalid input.
    MALFORMED = Meaning("INVALID_ARGUMENT", 400, "The input is malformed.")
    INVALID_ARGUMENT = Meaning(
        "INVALID_ARGUMENT", 400, "An argument is outside its permitted range."
    )
    UNSUPPORTED = Meaning(
        "UNIMPLEMENTED", 400, "The input asks for a feature that is not supported."
    )
    CONFIGURATION = Meaning("FAILED_PRECONDITION", 500, "The configuration is not usable.")
    DEADLINE_REQUIRED = Meaning("INVALID_ARGUMENT", 400, "Every call needs a deadline.")
    # Cryptographic evidence.
    UNREADABLE = Meaning(
        "INVALID_ARGUMENT", 400, "The sealed data cannot be opened by this recipient.", opaque=True
    )
    BAD_SIGNATURE = Meaning("UNAUTHENTICATED", 401, "A signature does not verify.")
    UNTRUSTED_KEY = Meaning("PERMISSION_DENIED", 403, "A key is not one that the policy trusts.")
    BAD_PROOF = Meaning("INVALID_ARGUMENT", 400, "A proof does not verify.")
    FORK = Meaning("FAILED_PRECONDITION", 409, "Two histories of one log disagree.")
    EQUIVOCATION = Meaning(
        "ALREADY_EXISTS", 409, "The issuer signed two statements under one number."
    )
    NOT_WITNESSED = Meaning("FAILED_PRECONDITION", 409, "The quorum of witnesses has not signed.")
    COMMITMENT_MISMATCH = Meaning(
        "INVALID_ARGUMENT", 400, "A commitment does not match its opening."
    )
    # Orders and keys.
    NO_ORDER = Meaning(
        "PERMISSION_DENIED", 403, "The request has no valid order of a known tenant."
    )
    REPLAYED = Meaning("ALREADY_EXISTS", 409, "The request was seen before.")
    EXPIRED = Meaning("FAILED_PRECONDITION", 409, "The request has expired.")
    STALE_KEY = Meaning(
        "FAILED_PRECONDITION", 409, "The key bundle is expired, revoked or unknown."
    )
    UNKNOWN_MODEL = Meaning("NOT_FOUND", 404, "The node does not serve that model.")
    # Capacity.
    QUOTA = Meaning("RESOURCE_EXHAUSTED", 429, "A quota is used up.", retryable=True, retry_s=60.0)
    OVERLOADED = Meaning(
        "RESOURCE_EXHAUSTED", 429, "The server has no room right now.", retryable=True, retry_s=1.0
    )
    UNAVAILABLE = Meaning(
        "UNAVAILABLE", 503, "A required component does not answer.", retryable=True
    )
    DRAINING = Meaning("UNAVAILABLE", 503, "The server accepts no new work.", retryable=True)
    DEADLINE = Meaning("DEADLINE_EXCEEDED", 504, "The deadline passed.")
    CANCELLED = Meaning("CANCELLED", 499, "The caller cancelled.")
    # Access.
    UNAUTHENTICATED = Meaning("UNAUTHENTICATED", 401, "A valid token is required.")
    FORBIDDEN = Meaning("PERMISSION_DENIED", 403, "The caller is not permitted to do this.")
    NOT_FOUND = Meaning("NOT_FOUND", 404, "There is no such thing, or it is not yours to see.")
    ERASED = Meaning("NOT_FOUND", 410, "The content was erased; the proof that it existed remains.")
    CONFLICT = Meaning("FAILED_PRECONDITION", 409, "The present state does not permit this.")
    # Ours.
    CORRUPT = Meaning("DATA_LOSS", 500, "Stored data does not match what was signed.")
    INTERNAL = Meaning(
        "INTERNAL", 500, "The server failed; the occurrence is in its log.", opaque=True
    )


class CounterfoilError(Exception):
    """The one error that crosses module boundaries.

    `detail` says what went wrong and where; `remedy` says what to do next. Neither may contain prompt text
    or key material. `metadata` holds facts for programs, `retry_after_s` a hint in seconds. `statement` holds what the raiser
    signed about it, which reaches the peer even where the code is opaque.
    """

    def __init__(
        self,
        code: Code,
        detail: str,
        *,
        remedy: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.remedy = remedy
        self.metadata: dict[str, str] = dict(metadata or {})
        self.retry_after_s = retry_after_s
        self.statement: bytes | None = None

    @property
    def retry_s(self) -> float | None:
        """In how many seconds to try again; every refusal for want of room or quota says so."""
        return self.code.value.retry_s if self.retry_after_s is None else self.retry_after_s

    def __str__(self) -> str:
        text = f"{self.code.name}: {self.detail}"
        return f"{text} ({self.remedy})" if self.remedy else text

    def public_detail(self) -> str:
        """Return what a peer may read: the code's sentence, and the detail unless the code is opaque."""
        meaning = self.code.value
        if meaning.opaque:
            return meaning.message
        return " ".join(sentences(meaning.message, self.detail, self.remedy))


def sentences(*parts: str | None) -> list[str]:
    """Return the parts that are not None, all but the last ending with a full stop, so that they can be joined.
    The last one is left as it is: a remedy may end with a command to copy.
    """
    told = [text for part in parts if part and (text := part.strip())]
    return [
        part if part.endswith((".", "!", "?", "…")) else f"{part}." for part in told[:-1]
    ] + told[-1:]
