"""Requests as people and files write them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from execution_layer.client.options import (
    SAMPLING,
    messages_of,
    seed_bytes,
    settings_of,
    tags_of,
)
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import Message, SamplingSettings

MAX_LINES: Final = 100_000
KNOWN: Final = SAMPLING | {"messages", "prompt", "seed", "cost_centre", "tags"}


@dataclass(frozen=True, slots=True)
class PromptLine:
    """One request in a prompt file."""

    messages: tuple[Message, ...]
    prompt: str | None
    settings: SamplingSettings
    seed: bytes | None
    tags: Mapping[str, str] | None


def read_prompts(path: Path) -> list[PromptLine]:
    """Read a JSON Lines file; INVALID_ARGUMENT names the invalid line."""
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
        raise CounterfoilError(Code.INVALID_ARGUMENT, f"{path} must have 1 to {MAX_LINES} prompts")
    return [_parse(line, f"{path}:{at}") for at, line in lines]


def read_words(path: Path) -> list[str]:
    """Read a JSON Lines file of prompts alone, {"prompt": TEXT}; INVALID_ARGUMENT names a line with anything else."""
    plain = settings_of({})
    found = []
    for at, line in enumerate(read_prompts(path), start=1):
        if line.prompt is None or (line.settings, line.seed, line.tags) != (plain, None, None):
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, f'{path}: prompt {at} must have "prompt" and nothing else'
            )
        found.append(line.prompt)
    return found


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
        raise TypeError("a line must be an object")
    if unknown := sorted(set(value) - KNOWN):
        raise CounterfoilError(Code.INVALID_ARGUMENT, f"unknown keys {', '.join(unknown)}")
    return value


def _line(values: dict[str, Any]) -> PromptLine:
    sampling = {name: value for name, value in values.items() if name in SAMPLING}
    return PromptLine(
        messages=messages_of(values.get("messages")),
        prompt=_text(values, "prompt") if "prompt" in values else None,
        settings=settings_of(sampling),
        seed=seed_bytes(values.get("seed")),
        tags=_tags(values),
    )


def _tags(values: dict[str, Any]) -> dict[str, str] | None:
    for name in ("cost_centre", "tags"):
        if name in values and values[name] is None:
            raise TypeError(f"{name} is null")
    return tags_of(values)


def _text(values: Any, name: str) -> str:
    value = values[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is not text")
    return value
