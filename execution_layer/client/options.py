"""A call's options as people and applications write them: natural types in, one request body out.
Unknown or mistyped options are refused by name: an option that silently has no effect is worse than an error.
"""

from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from difflib import get_close_matches
from typing import Any, Final, Literal, TypeAlias, TypedDict, get_args, get_type_hints

from execution_layer.client.wanted import OnChoice, OnRetry, OnText, OnTextOf
from shared.codec.ids import parse_hex32
from shared.envelope.header import MAX_CANDIDATES
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import PPM, Message, RequestBody, SamplingSettings, Slots
from shared.statements.tags import COST_CENTRE, canonical_tags

Turn: TypeAlias = Message | Mapping[str, str]
Fraction: TypeAlias = float | str | Decimal
Failover = Literal["again", "continue"]


class Sampling(TypedDict, total=False):
    """How the answer is sampled; options omitted, or None, are off or have the default of `SamplingSettings`."""

    max_tokens: int | None
    """Token budget [256]."""
    temperature: Fraction | None
    """0 is greedy [1]."""
    top_p: Fraction | None
    top_k: int | None
    min_p: Fraction | None
    repetition_penalty: Fraction | None
    presence_penalty: Fraction | None
    frequency_penalty: Fraction | None
    stop: str | Sequence[str] | None
    """A text that ends the answer, or several."""
    stop_token_ids: Sequence[int] | None
    logprobs: int | None
    """How many of the most likely tokens are returned with each output token's log-probability."""


class Options(Sampling, total=False):
    """Options of `generate`; those omitted, or None, have the policy's value or none."""

    prompt: str | None
    """A verbatim prompt, instead of messages."""
    seed: bytes | int | str | None
    """32 bytes, a non-negative number, or 64 hexadecimal digits; by default derived from each attempt's transcript secret."""
    cost_centre: str | None
    """Short for the tag `cost_centre`."""
    tags: Mapping[str, str] | None
    """Notes for the tenant's own books, such as team and project: 1 to 16 names with values of up to 128 characters, blinded
    under the tenant's tag key in the order."""
    model: str | None
    """Model root in hex."""
    node: str | None
    """The only node to use (`node` or `operator/node`)."""
    timeout_s: float | None
    """Seconds for all attempts together; each order's deadline is 95 % of those that are left when it is signed."""
    on_text: OnText | None
    """Called with text as it arrives, before the receipt can be checked; a retry starts over unless it continues."""
    on_text_of: OnTextOf | None
    """Called with (choice, text) as the text of several answers arrives (`n`); otherwise as `on_text`."""
    on_retry: OnRetry | None
    """Called with (node, error) when a retry begins."""
    on_pause: OnRetry | None
    """Called with (node, error) when a stream has broken and is being resumed on its node; the text then goes on where it
    was."""
    on_choice: OnChoice | None
    """Called with the candidates and the request before each attempt, when everything was checked and nothing was sealed or
    sent; what it raises ends the call (`execution_layer.client.explain` says what was checked)."""
    failover: Failover | None
    """What a retry is: `again` begins the answer anew, `continue` goes on from the tokens that were delivered and verified.
    The next node then gets them as input, and they are billed as such."""
    candidates: int | None
    """For how many nodes the request is sealed at once, 1 to 8. Each of them can read it; one is ordered from, and a retry at
    another needs no other envelope."""
    slots_ms: int | None
    """Milliseconds from one frame to the next, all of one size, whatever the answer is (docs/traffic-analysis.md); 0: off."""
    canary: bool | None
    """Whether the request is sent to test its node. Only the archive notes it (`counterfoil client canaries`)."""


DEFAULT_MAX_TOKENS: Final = 256
SLOT_BYTES: Final = 256
"""The frames of an answer in time slots: some 20 tokens each."""
LOGPROBS_SLOT_BYTES: Final = 2048
FRACTIONS: Final = (
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
SAMPLING: Final = frozenset(get_type_hints(Sampling))
KNOWN: Final = frozenset(get_type_hints(Options))
WHOLE: Final = ("max_tokens", "top_k", "logprobs")
TEXTS: Final = ("prompt", "cost_centre", "model", "node")


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
    """Return settings from what people write; fractions become millionths, and values that change nothing are omitted."""
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
            Code.INVALID_ARGUMENT, "a seed must be a number below 2^256, or 64 hexadecimal digits"
        ) from error


def request_body(
    messages: Sequence[Turn] | None, settings: SamplingSettings | None, options: Mapping[str, Any]
) -> RequestBody:
    """Return a call's request body; INVALID_ARGUMENT names what is unknown, mistyped or given twice."""
    given = {name: value for name, value in _known(options).items() if value is not None}
    sampling = {name: value for name, value in given.items() if name in SAMPLING}
    if settings is not None and type(settings) is not SamplingSettings:
        raise _wrong(
            "settings must be a SamplingSettings; or pass individual settings, such as max_tokens=64"
        )
    if settings is not None and sampling:
        raise _wrong(f"{', '.join(sorted(sampling))} cannot be combined with settings")
    for name in TEXTS:
        if name in given and not isinstance(given[name], str):
            raise _wrong(f"{name} must be text, not {type(given[name]).__name__}")
    return RequestBody(
        settings=settings_of(sampling) if settings is None else settings,
        messages=messages_of(messages),
        prompt=given.get("prompt"),
        seed=_seed(given.get("seed")),
    )


def tags_of(options: Mapping[str, Any]) -> dict[str, str] | None:
    """Return a call's tags in canonical form, `cost_centre` among them; None if it has none. INVALID_ARGUMENT names what is
    outside the limits, or given twice.
    """
    tags, centre = options.get("tags"), options.get("cost_centre")
    if tags is not None and not isinstance(tags, Mapping):
        raise _wrong(f"tags must be a mapping of texts, not {type(tags).__name__}")
    if tags and COST_CENTRE in tags and centre is not None:
        raise _wrong(f"{COST_CENTRE} is given twice: alone and among the tags")
    given = {**(tags or {}), **({} if centre is None else {COST_CENTRE: centre})}
    return canonical_tags(given) if given else None


def tag_pairs(items: Sequence[str]) -> dict[str, str]:
    """Return {name: value} of NAME=VALUE flags; INVALID_ARGUMENT for another form, and for a name that is given twice."""
    found: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals:
            raise _wrong(f"the tag {item[:60]!r} is not NAME=VALUE")
        if name in found:
            raise _wrong(f"the tag {name[:60]!r} is given twice")
        found[name] = value
    return found


def timeout_of(options: Mapping[str, Any], default: float) -> float:
    """Return the seconds for all attempts together; INVALID_ARGUMENT if it is not a valid time."""
    given = options.get("timeout_s")
    if given is None:
        return default
    if (
        isinstance(given, bool)
        or not isinstance(given, int | float)
        or not 0 <= given < float("inf")
    ):
        raise _wrong(f"timeout_s must be a number of seconds, not {str(given)[:40]!r}")
    return float(given)


def slots_of(
    options: Mapping[str, Any], default: int | None, settings: SamplingSettings
) -> Slots | None:
    """Return a call's time slots, `default` (in ms) if it does not say; None for none. INVALID_ARGUMENT if they cannot be."""
    given = options.get("slots_ms")
    ms = default if given is None else _whole(given, "slots_ms")
    if not ms:
        return None
    return Slots(ms, SLOT_BYTES if settings.logprobs is None else LOGPROBS_SLOT_BYTES)


def candidates_of(options: Mapping[str, Any], default: int) -> int:
    """Return for how many nodes a request is sealed; INVALID_ARGUMENT if that is not 1 to 8."""
    given = options.get("candidates")
    if given is None:
        return default
    if type(given) is not int or not 1 <= given <= MAX_CANDIDATES:
        raise _wrong(f"candidates must be between 1 and {MAX_CANDIDATES}, not {str(given)[:40]}")
    return given


def continues_of(options: Mapping[str, Any], default: Failover) -> bool:
    """Return whether a call's retries go on from what was delivered; `default` if it does not say."""
    given = options.get("failover")
    if given not in (None, *get_args(Failover)):
        raise _wrong(f"failover must be again or continue, not {str(given)[:40]!r}")
    return (given or default) == "continue"


def _known(options: Mapping[str, Any]) -> Mapping[str, Any]:
    unknown = sorted(set(options) - KNOWN)
    if unknown:
        near = get_close_matches(unknown[0], sorted(KNOWN), n=1)
        hint = (
            f"; did you mean {near[0]}?" if near else f"; known options: {', '.join(sorted(KNOWN))}"
        )
        raise _wrong(f"there is no option {unknown[0]}{hint}")
    return options


def settings_of(given: Mapping[str, Any]) -> SamplingSettings:
    """Return settings from individual options of `Sampling`."""
    values = dict(given)
    for name in WHOLE:
        if name in values:
            values[name] = _whole(values[name], name)
    for name in FRACTIONS:
        if name in values and (
            isinstance(values[name], bool)
            or not isinstance(values[name], int | float | str | Decimal)
        ):
            raise _wrong(f"{name} must be a number, not {type(values[name]).__name__}")
    if "stop" in values:
        values["stop"] = _stops(values["stop"])
    if "stop_token_ids" in values:
        ids = _sequence(values["stop_token_ids"], "stop_token_ids")
        values["stop_token_ids"] = tuple(_whole(item, "a stop token id") for item in ids)
    return sampling_settings(**values)


def _stops(value: Any) -> tuple[str, ...]:
    stops = (value,) if isinstance(value, str) else _sequence(value, "stop")
    if not all(isinstance(item, str) for item in stops):
        raise _wrong("stop must be a text, or several")
    return tuple(stops)


def messages_of(messages: object) -> tuple[Message, ...]:
    """Return a conversation's turns, each given as a `Message` or as a mapping of role and content."""
    if messages is None:
        return ()
    if isinstance(messages, str):
        raise _wrong("messages must be a list of messages; pass plain text as prompt=")
    return tuple(_message(item) for item in _sequence(messages, "messages"))


def _message(item: Any) -> Message:
    if isinstance(item, Message):
        return item
    if not isinstance(item, Mapping) or set(item) != {"role", "content"}:
        keys = (
            f" with {', '.join(map(str, sorted(item, key=str)))}"
            if isinstance(item, Mapping)
            else ""
        )
        raise _wrong(
            f"a message must have role and content, and nothing else; not {type(item).__name__}{keys[:80]}"
        )
    if not all(isinstance(value, str) for value in item.values()):
        raise _wrong("a message's role and content must be text")
    return Message(item["role"], item["content"])


def _seed(value: Any) -> bytes | None:
    if isinstance(value, bool) or not isinstance(value, bytes | int | str | None):
        raise _wrong(
            f"a seed must be 32 bytes, a number or hexadecimal digits, not {type(value).__name__}"
        )
    return value if isinstance(value, bytes) else seed_bytes(value)


def _sequence(value: Any, name: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise _wrong(f"{name} must be a list, not {type(value).__name__}")
    return value


def _whole(value: Any, name: str) -> int:
    if type(value) is not int:
        raise _wrong(f"{name} is not a whole number")
    return value


def _wrong(detail: str) -> CounterfoilError:
    return CounterfoilError(Code.INVALID_ARGUMENT, detail)


def _unless(off: int, value: object, name: str) -> int | None:
    """Return millionths, or None for the value that disables a setting."""
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
