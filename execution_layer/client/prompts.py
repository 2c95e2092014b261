"""Requests as people and files write them."""

import json
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from shared.codec.ids import parse_hex32
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import PPM, Message, SamplingSettings

MAX_LINES: Final = 100_000
DEFAULT_MAX_TOKENS: Final = 256
KNOWN: Final = frozenset(
    {
        "messages",
        "prompt",
        "max_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "stop",
        "stop_token_ids",
        "logprobs",
        "seed",
        "cost_centre",
    }
)


FRACTIONS: Final = (
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)


@dataclass(frozen=True, slots=True)
class PromptLine:
    """One request of a file of prompts."""

    messages: tuple[Message, ...]
    prompt: str | None
    settings: SamplingSettings
    seed: bytes | None
    cost_centre: str | None


def sampling_settings(
    *,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    temperature: str | Decimal = "1",
    top_p: str | Decimal = "1",
    top_k: int = 0,
    stop: tuple[str, ...] = (),
    min_p: str | Decimal = "0",
    repetition_penalty: str | Decimal = "1",
    presence_penalty: str | Decimal = "0",
    frequency_penalty: str | Decimal = "0",
    stop_token_ids: tuple[int, ...] = (),
    logprobs: int | None = None,
) -> SamplingSettings:
    """Return settings from what people write; fractions become millionths, and what changes nothing is left out."""
    return SamplingSettings(
        max_tokens=max_tokens,
        temperature_ppm=_ppm(temperature, "temperature"),
        top_k=top_k,
        top_p_ppm=_ppm(top_p, "top_p"),
        stop=stop,
        min_p_ppm=_unless(0, min_p, "min_p"),
        repetition_penalty_ppm=_unless(PPM, repetition_penalty, "repetition_penalty"),
        presence_penalty_ppm=_unless(0, presence_penalty, "presence_penalty"),
        frequency_penalty_ppm=_unless(0, frequency_penalty, "frequency_penalty"),
        stop_token_ids=tuple(sorted(set(stop_token_ids))),
        logprobs=logprobs,
    )


def seed_bytes(seed: int | str | None) -> bytes | None:
    """Return the 32 bytes of a seed: a number below 2^256, or 64 hexadecimal digits."""
    if isinstance(seed, str):
        return parse_hex32(seed, "a seed written as text")
    try:
        return None if seed is None else seed.to_bytes(32, "big")
    except (AttributeError, OverflowError) as error:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT, "a seed is a number from 0, or 64 hexadecimal digits"
        ) from error


def read_prompts(path: Path) -> list[PromptLine]:
    """Read a JSON Lines file; INVALID_ARGUMENT names the line that is wrong."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise CounterfoilError(
            Code.NOT_FOUND, f"{path} cannot be read: {error.strerror}"
        ) from error
    except UnicodeDecodeError as error:
        raise CounterfoilError(Code.INVALID_ARGUMENT, f"{path} is not UTF-8 text") from error
    lines = [(at, line) for at, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not 1 <= len(lines) <= MAX_LINES:
        raise CounterfoilError(Code.INVALID_ARGUMENT, f"{path} has not 1 to {MAX_LINES} prompts")
    return [_parse(line, f"{path}:{at}") for at, line in lines]


def _parse(line: str, where: str) -> PromptLine:
    try:
        return _line(_object(json.loads(line, parse_float=Decimal)))
    except CounterfoilError as error:
        raise CounterfoilError(Code.INVALID_ARGUMENT, f"{where}: {error.detail}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT, f"{where}: not a request in JSON ({error})"
        ) from error


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("a line is an object")
    if unknown := sorted(set(value) - KNOWN):
        raise CounterfoilError(Code.INVALID_ARGUMENT, f"unknown keys {', '.join(unknown)}")
    return value


def _line(values: dict[str, Any]) -> PromptLine:
    return PromptLine(
        messages=tuple(
            Message(_text(item, "role"), _text(item, "content"))
            for item in values.get("messages", ())
        ),
        prompt=_text(values, "prompt") if "prompt" in values else None,
        settings=sampling_settings(
            max_tokens=_whole(values.get("max_tokens", DEFAULT_MAX_TOKENS), "max_tokens"),
            top_k=_whole(values.get("top_k", 0), "top_k"),
            stop=tuple(str(item) for item in values.get("stop", ())),
            stop_token_ids=tuple(
                _whole(item, "a stop token id") for item in values.get("stop_token_ids", ())
            ),
            logprobs=_whole(values["logprobs"], "logprobs") if "logprobs" in values else None,
            **{name: values[name] for name in FRACTIONS if name in values},
        ),
        seed=seed_bytes(values.get("seed")),
        cost_centre=_text(values, "cost_centre") if "cost_centre" in values else None,
    )


def _text(values: Any, name: str) -> str:
    value = values[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is not text")
    return value


def _whole(value: Any, name: str) -> int:
    if type(value) is not int:
        raise TypeError(f"{name} is not a whole number")
    return value


def _unless(off: int, value: object, name: str) -> int | None:
    """Return millionths, or None for the value that switches a setting off."""
    ppm = _ppm(value, name)
    return None if ppm == off else ppm


def _ppm(value: object, name: str) -> int:
    """Return millionths, rounded half to even."""
    number = _decimal(str(value))
    if number is None or not number.is_finite() or abs(number) > 1000:
        raise CounterfoilError(Code.INVALID_ARGUMENT, f"{name} {str(value)[:40]!r} is not a number")
    return int((number * PPM).to_integral_value(ROUND_HALF_EVEN))


def _decimal(text: str) -> Decimal | None:
    try:
        return Decimal(text)
    except InvalidOperation:
        return None
