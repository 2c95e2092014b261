"""Payloads of an order as earlier and later versions would have them (protocol §2.2)."""

from collections.abc import Iterator

from shared.codec.cbor import Value

Payload = dict[str, Value]
Grown = tuple[str, Payload, str | None, str | None]
"""Name, payload, and the error of a verifier and of an intake, None where it is accepted."""


def grown(good: Payload) -> Iterator[Grown]:
    """Yield payloads made from one that is valid in every respect."""
    bad = "MALFORMED"
    yield "as this version signs it", good, None, None
    yield "from before max_input_tokens", _without(good, "max_input_tokens"), None, bad
    yield "without a field of the first version", _without(good, "rate_card"), bad, bad
    yield "with a later field", {**good, "region": "eu"}, None, bad
    yield "with a later field that is a map", {**good, "region": {"a": [1, b""]}}, None, bad
    yield "with 16 later fields", {**good, **_many(16)}, None, bad
    yield "with 17 later fields", {**good, **_many(17)}, bad, bad
    yield "with a name in capitals", {**good, "Region": "eu"}, bad, bad
    yield "with a name of 64 letters", {**good, "r" * 64: "eu"}, bad, bad
    critical: Payload = {**good, "region": "eu", "zone": 1}
    yield "critical, unknown", {**critical, "crit": ["region"]}, "UNSUPPORTED", "UNSUPPORTED"
    yield (
        "two critical, unknown",
        {**critical, "crit": ["region", "zone"]},
        "UNSUPPORTED",
        "UNSUPPORTED",
    )
    yield "critical, absent", {**good, "crit": ["region"]}, bad, bad
    yield "critical, out of order", {**critical, "crit": ["zone", "region"]}, bad, bad
    yield "critical, twice", {**critical, "crit": ["region", "region"]}, bad, bad
    yield "critical, nothing", {**good, "crit": []}, bad, bad
    yield "critical, no list", {**critical, "crit": "region"}, bad, bad
    yield "critical, no names", {**critical, "crit": [1]}, bad, bad
    yield "critical, itself", {**good, "crit": ["crit"]}, bad, bad
    yield "critical, a field that is not", {**good, "crit": ["tenant"]}, bad, bad
    yield "version 2", {**good, "v": 2}, bad, bad


def _without(good: Payload, name: str) -> Payload:
    return {key: value for key, value in good.items() if key != name}


def _many(count: int) -> Payload:
    return {f"later_{number}": number for number in range(count)}
