"""An envelope's contents: the sealed body, and the audit policy that only custodians see (protocol §3)."""

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Annotated

from shared.codec import cbor
from shared.codec.cbor import Value
from shared.codec.hashing import labelled_hash
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import (
    MAX_ANSWER,
    MAX_CHOICE,
    MAX_STOP_TOKENS,
    Message,
    RequestBody,
    SamplingSettings,
    Slots,
)
from shared.statements.rules import Count, Text, Whole
from shared.statements.schema import U32, Bytes32, Record

MAX_BODY = 2 * 2**20
SMALLEST_BODY = 256
_Content = Annotated[str, Text(MAX_BODY)]
_Number = Annotated[int, Whole(2**32 - 1, -(2**32))]
"""Any integer that a setting may be; the settings themselves define their ranges."""


class Audit(StrEnum):
    """Whether a request may be audited."""

    SAMPLED = "sampled"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class AuditPolicy(Record):
    """The tenant's audit policy for one request."""

    audit: Audit = Audit.SAMPLED

    def to_bytes(self) -> bytes:
        """Encode."""
        return self.to_cbor()

    @classmethod
    def from_bytes(cls, data: bytes) -> "AuditPolicy":
        """Decode; MALFORMED unless it is an audit policy."""
        return cls.from_cbor(data, max_bytes=256)

    def commitment(self, nonce: bytes) -> bytes:
        """Return the header's commitment to it; `nonce` is 32 random bytes."""
        return labelled_hash("policy", self.to_bytes(), nonce)


@dataclass(frozen=True, slots=True)
class _Turn(Record):
    role: Annotated[str, Text(16)]
    content: _Content


@dataclass(frozen=True, slots=True)
class _Settings(Record):
    max_tokens: U32
    temperature_ppm: U32
    top_k: U32
    top_p_ppm: U32
    stop: Annotated[tuple[Annotated[str, Text(256)], ...], Count(0, 8)]
    min_p_ppm: _Number | None = None
    repetition_penalty_ppm: _Number | None = None
    presence_penalty_ppm: _Number | None = None
    frequency_penalty_ppm: _Number | None = None
    stop_token_ids: Annotated[tuple[U32, ...], Count(1, MAX_STOP_TOKENS)] | None = None
    logprobs: _Number | None = None


@dataclass(frozen=True, slots=True)
class _Slots(Record):
    ms: U32
    size: U32


@dataclass(frozen=True, slots=True)
class _Body(Record):
    settings: _Settings
    messages: Annotated[tuple[_Turn, ...], Count(1, 256)] | None = None
    prompt: _Content | None = None
    seed: Bytes32 | None = None
    choice: Annotated[int, Whole(MAX_CHOICE, 1)] | None = None
    prefix: Annotated[tuple[U32, ...], Count(1, MAX_ANSWER)] | None = None
    slots: _Slots | None = None


def encode_body(body: RequestBody) -> bytes:
    """Encode; MALFORMED for text that is not valid Unicode, INVALID_ARGUMENT above 2 MiB."""
    turns = tuple(_Turn(message.role, message.content) for message in body.messages)
    record = _Body(
        settings=_settings_record(body.settings),
        messages=turns or None,
        prompt=body.prompt,
        seed=body.seed,
        choice=body.choice or None,
        prefix=body.prefix or None,
        slots=None if body.slots is None else _Slots(body.slots.ms, body.slots.size),
    )
    data = record.to_cbor()
    if len(data) > MAX_BODY:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT, f"the request is {len(data)} bytes long, more than {MAX_BODY}"
        )
    return data


def decode_body(data: bytes) -> RequestBody:
    """Decode; MALFORMED for anything that `encode_body` does not write, INVALID_ARGUMENT for settings out of range."""
    record = _Body.from_cbor(data, max_bytes=MAX_BODY)
    values = {item.name: getattr(record.settings, item.name) for item in fields(_Settings)}
    settings = SamplingSettings(**{k: v for k, v in values.items() if v is not None})
    try:
        return RequestBody(
            settings=settings,
            messages=tuple(Message(turn.role, turn.content) for turn in record.messages or ()),
            prompt=record.prompt,
            seed=record.seed,
            choice=record.choice or 0,
            prefix=record.prefix or (),
            slots=None if record.slots is None else Slots(record.slots.ms, record.slots.size),
        )
    except CounterfoilError as error:
        raise CounterfoilError(Code.MALFORMED, f"the body is not valid: {error.detail}") from error


def settings_map(settings: SamplingSettings) -> dict[str, Value]:
    """Return the CBOR map of the settings; disabled ones are absent."""
    return _settings_record(settings).to_payload()


def settings_bytes(body: RequestBody, seed: bytes) -> bytes:
    """Return what a receipt's `settings` blinds: the settings with the effective seed and, unless they are 0, the choice
    and the number of tokens that were delivered before.
    """
    optional = {"choice": body.choice, "delivered": len(body.prefix)}
    return cbor.encode(
        settings_map(body.settings)
        | {"seed": seed}
        | {name: value for name, value in optional.items() if value}
    )


def _settings_record(settings: SamplingSettings) -> _Settings:
    values = {item.name: getattr(settings, item.name) for item in fields(_Settings)}
    return _Settings(**values | {"stop_token_ids": settings.stop_token_ids or None})
