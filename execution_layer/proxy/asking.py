"""A request's body, read: from hostile bytes to settings that can be sealed, or an error that names the parameter. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NoReturn

from execution_layer.client.options import settings_of
from execution_layer.proxy.parameters import CHAT, COMPLETIONS, check
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import MAX_LOGPROBS, MAX_MESSAGES, Message, SamplingSettings

MAX_ANSWERS: Final = 16
"""The most answers to one request."""
COMPLETION_TOKENS: Final = 16
"""The API's own default for `/v1/completions`."""
MAX_TEMPERATURE: Final = 2
_PLAIN: Final = (
    *("temperature", "top_p", "presence_penalty", "frequency_penalty"),
    *("top_k", "min_p", "repetition_penalty", "stop"),
)
"""Settings that have the API's name here too."""
_ROLES: Final = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_EMPTY: Final[tuple[Any, ...]] = (None, [], "")
_TOOLS: Final = ("tool_calls", "function_call", "audio", "refusal")
"""What a message of an assistant can hold beside its text."""


class Kind(StrEnum):
    """Which of the two requests."""

    CHAT = "chat.completion"
    COMPLETION = "text_completion"


@dataclass(frozen=True, slots=True, repr=False)
class Asked:
    """One request."""

    kind: Kind
    model: str
    messages: tuple[Message, ...]
    prompt: str | None
    settings: SamplingSettings
    seed: int | None
    n: int
    stream: bool
    include_usage: bool


def read_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a request's body; MALFORMED says why there is none."""
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise CounterfoilError(Code.MALFORMED, "the body is not UTF-8 text") from error
    except RecursionError as error:
        raise CounterfoilError(Code.MALFORMED, "the body is nested too deeply") from error
    except ValueError as error:
        raise CounterfoilError(Code.MALFORMED, "the body is not JSON") from error
    if not isinstance(found, dict):
        raise CounterfoilError(Code.MALFORMED, "the body is not a JSON object")
    return found


def read_chat(given: Mapping[str, Any], default_tokens: int) -> Asked:
    """Return what `POST /v1/chat/completions` asks for; INVALID_ARGUMENT or UNSUPPORTED names what cannot be."""
    check(CHAT, given)
    most = _first(given, "max_completion_tokens", "max_tokens")
    logprobs = _flag(given, "logprobs")
    top = given.get("top_logprobs")
    if top is not None and not logprobs:
        _wrong("top_logprobs", "it needs logprobs: true")
    wanted = _whole(given, "top_logprobs", 0, MAX_LOGPROBS, 0) if logprobs else None
    return _asked(
        given,
        Kind.CHAT,
        messages=_messages(given.get("messages")),
        prompt=None,
        sampling={"max_tokens": default_tokens if most is None else most, "logprobs": wanted},
    )


def read_completion(given: Mapping[str, Any]) -> Asked:
    """Return what `POST /v1/completions` asks for; INVALID_ARGUMENT or UNSUPPORTED names what cannot be."""
    check(COMPLETIONS, given)
    prompt = given.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        (prompt,) = prompt
    if not isinstance(prompt, str):
        _wrong("prompt", "it must be one text; token ids and several prompts are not supported")
    most = _first(given, "max_tokens")
    logprobs = given.get("logprobs")
    wanted = None if logprobs is None else _whole(given, "logprobs", 0, MAX_LOGPROBS, 0)
    return _asked(
        given,
        Kind.COMPLETION,
        messages=(),
        prompt=_text(prompt, "prompt"),
        sampling={"max_tokens": COMPLETION_TOKENS if most is None else most, "logprobs": wanted},
    )


def _asked(
    given: Mapping[str, Any],
    kind: Kind,
    *,
    messages: tuple[Message, ...],
    prompt: str | None,
    sampling: dict[str, Any],
) -> Asked:
    model = given.get("model")
    if not isinstance(model, str) or not model:
        _wrong("model", "it must be the name of a model")
    stream = _flag(given, "stream")
    return Asked(
        kind=kind,
        model=model,
        messages=messages,
        prompt=prompt,
        settings=_settings(given, sampling),
        seed=_seed(given),
        n=_whole(given, "n", 1, MAX_ANSWERS, 1),
        stream=stream,
        include_usage=_include_usage(given.get("stream_options"), stream),
    )


def _settings(given: Mapping[str, Any], sampling: dict[str, Any]) -> SamplingSettings:
    """Return the settings; the error of the first one that cannot be used names it, and that of several together none."""
    plain = {name: given[name] for name in _PLAIN if given.get(name) is not None}
    temperature = plain.get("temperature")
    if isinstance(temperature, int | float) and temperature > MAX_TEMPERATURE:
        _wrong("temperature", f"it must be between 0 and {MAX_TEMPERATURE}")
    for stop in plain["stop"] if isinstance(plain.get("stop"), list) else [plain.get("stop")]:
        if isinstance(stop, str):
            _text(stop, "stop")
    for off in ("top_k", "min_p"):
        if plain.get(off) == 0:
            del plain[off]
    alone = {"max_tokens": sampling["max_tokens"]}
    for name, value in {**alone, **plain}.items():
        try:
            settings_of({"max_tokens": 1, name: value})
        except CounterfoilError as error:
            error.metadata["param"] = name
            raise
    chosen = {name: value for name, value in sampling.items() if value is not None}
    return settings_of({**chosen, **plain})


def _messages(given: Any) -> tuple[Message, ...]:
    if not isinstance(given, list) or not given:
        _wrong("messages", "it must be a list of messages")
    if len(given) > MAX_MESSAGES:
        _wrong("messages", f"at most {MAX_MESSAGES} messages, not {len(given)}")
    return tuple(_message(item, f"messages[{at}]") for at, item in enumerate(given))


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, dict):
        _wrong(where, "it must be an object with role and content")
    role = item.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        known = ", ".join(_ROLES)
        _refuse(f"{where}.role", f"it must be one of {known}; tools and functions are not called")
    for name in ("name", *_TOOLS):
        if item.get(name) not in _EMPTY:
            _refuse(f"{where}.{name}", f"{name} is not supported; the model gets role and content")
    return Message(_ROLES[role], _content(item.get("content"), f"{where}.content"))


def _content(given: Any, where: str) -> str:
    if isinstance(given, str):
        return _text(given, where)
    if not isinstance(given, list) or not given:
        _wrong(where, "it must be text, or a list of parts of type text")
    return "".join(_part(part, f"{where}[{at}]") for at, part in enumerate(given))


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind != "text":
        _refuse(where, f"a part of type {kind[:40]!r} is not supported; only text is")
    if kind is None or not isinstance(part.get("text"), str):
        _wrong(where, "a part must have type: text and a text")
    return _text(part["text"], where)


def _text(value: str, where: str) -> str:
    """Return a text if it is Unicode: JSON can spell half a character."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        _wrong(where, "it is not valid Unicode")
    return value


def _include_usage(given: Any, stream: bool) -> bool:
    if given is None:
        return False
    if not isinstance(given, dict):
        _wrong("stream_options", "it must be an object")
    if not stream:
        _wrong("stream_options", "it is only allowed when stream is true")
    return _flag(given, "include_usage")


def _seed(given: Mapping[str, Any]) -> int | None:
    """Return a seed that is not negative: the same 64 bits."""
    if given.get("seed") is None:
        return None
    return _whole(given, "seed", -(2**63), 2**64 - 1, 0) % 2**64


def _first(given: Mapping[str, Any], *names: str) -> int | None:
    found = [(name, given[name]) for name in names if given.get(name) is not None]
    if not found:
        return None
    if len(found) > 1 and found[0][1] != found[1][1]:
        _wrong(found[1][0], f"it contradicts {found[0][0]}; give one of them")
    return _whole(given, found[0][0], 1, 2**20, 1)


def _whole(given: Mapping[str, Any], name: str, least: int, most: int, default: int) -> int:
    value = given.get(name)
    if value is None:
        return default
    if type(value) is not int or not least <= value <= most:
        _wrong(name, f"it must be a whole number from {least} to {most}")
    return value


def _flag(given: Mapping[str, Any], name: str) -> bool:
    value = given.get(name)
    if value is not None and type(value) is not bool:
        _wrong(name, "it must be true or false")
    return value is True


def _no_number(_: str) -> NoReturn:
    raise ValueError("not a number of JSON")


def _wrong(param: str, detail: str) -> NoReturn:
    raise CounterfoilError(Code.INVALID_ARGUMENT, f"{param}: {detail}", metadata={"param": param})


def _refuse(param: str, detail: str) -> NoReturn:
    raise CounterfoilError(Code.UNSUPPORTED, f"{param}: {detail}", metadata={"param": param})
