"""Ways of spoiling a statement, each with the error that it must meet."""

from collections.abc import Callable, Iterator

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.codec import cbor
from shared.codec.cbor import Tag, Value
from shared.statements.cose import sign_statement

ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493


def join(protected: bytes, unprotected: Value, body: Value, signature: Value) -> bytes:
    """Return the four members of a COSE_Sign1 as they are."""
    return cbor.encode(Tag(18, [protected, unprotected, body, signature]))


def split(raw: bytes) -> tuple[bytes, bytes, bytes]:
    """Return (protected, body, signature) of a good statement."""
    tagged = cbor.decode(raw)
    assert isinstance(tagged, Tag)
    assert isinstance(tagged.value, list)
    protected, _, body, signature = tagged.value
    assert isinstance(protected, bytes)
    assert isinstance(body, bytes)
    assert isinstance(signature, bytes)
    return protected, body, signature


def resigned(key: Ed25519PrivateKey, protected: bytes, body: bytes) -> bytes:
    """Return a statement over whatever header and payload bytes, with a valid signature."""
    signature = key.sign(cbor.encode(["Signature1", protected, b"", body]))
    return join(protected, {}, body, signature)


def spoiled_bytes(raw: bytes) -> Iterator[tuple[str, bytes, str]]:
    """Yield what can go wrong outside the payload: (name, bytes, error code)."""
    protected, body, signature = split(raw)
    changed = signature[:-1] + bytes([signature[-1] ^ 1])
    malleable = (int.from_bytes(signature[32:], "little") + ED25519_ORDER).to_bytes(32, "little")
    yield "empty", b"", "MALFORMED"
    yield "truncated", raw[:-1], "MALFORMED"
    yield "trailing byte", raw + b"\x00", "MALFORMED"
    yield "untagged", raw[1:], "MALFORMED"
    yield "tag of COSE_Mac0", b"\xd1" + raw[1:], "MALFORMED"
    yield "tag of three bytes", b"\xd9\x00\x12" + raw[1:], "MALFORMED"
    yield "indefinite array", raw[:1] + b"\x9f" + raw[2:] + b"\xff", "MALFORMED"
    yield "three members", cbor.encode(Tag(18, [protected, {}, body])), "MALFORMED"
    yield "unknown unprotected member", join(protected, {99: 1}, body, signature), "MALFORMED"
    yield "receipts attached", join(protected, {394: [b"r"]}, body, signature), "MALFORMED"
    yield (
        "payload not a byte string",
        join(protected, {}, cbor.decode(body), signature),
        "MALFORMED",
    )
    yield "detached payload", join(protected, {}, None, signature), "MALFORMED"
    yield "short signature", join(protected, {}, body, signature[:-1]), "MALFORMED"
    yield "changed signature", join(protected, {}, body, changed), "BAD_SIGNATURE"
    yield (
        "signature with S + L",
        join(protected, {}, body, signature[:32] + malleable),
        "BAD_SIGNATURE",
    )


def spoiled_headers(raw: bytes, key: Ed25519PrivateKey) -> Iterator[tuple[str, bytes, str]]:
    """Yield protected headers that are signed validly and still refused."""
    protected, body, _ = split(raw)
    header = cbor.decode(protected)
    assert isinstance(header, dict)
    claims = header[15]
    assert isinstance(claims, dict)

    def edited(**members: Value) -> bytes:
        names = {"alg": 1, "content": 3, "kid": 4, "claims": 15, "crit": 2}
        changed = {**header, **{names[name]: value for name, value in members.items()}}
        return resigned(key, cbor.encode({k: v for k, v in changed.items() if v is not None}), body)

    yield "algorithm ES256", edited(alg=-7), "MALFORMED"
    yield "no key id", edited(kid=None), "MALFORMED"
    yield "short key id", edited(kid=b"\x00" * 31), "MALFORMED"
    yield "another key's id", edited(kid=bytes(32)), "UNTRUSTED_KEY"
    yield "critical member", edited(crit=[99]), "MALFORMED"
    yield "no claims", edited(claims=None), "MALFORMED"
    yield "a third claim", edited(claims={**claims, 6: 1}), "MALFORMED"
    yield "line break in the subject", edited(claims={**claims, 2: "a\nb"}), "MALFORMED"
    yield "empty issuer", edited(claims={**claims, 1: ""}), "MALFORMED"
    yield "foreign content type", edited(content="application/cbor"), "MALFORMED"
    yield (
        "another statement's type",
        edited(content="application/vnd.counterfoil.verdict+cbor"),
        "MALFORMED",
    )
    yield (
        "header with a duplicate key",
        resigned(key, b"\xa5" + protected[1:3] + protected[1:], body),
        "MALFORMED",
    )


def spoiled_payloads(
    raw: bytes, key: Ed25519PrivateKey, sign: Callable[[dict[str, Value]], bytes]
) -> Iterator[tuple[str, bytes, str]]:
    """Yield payloads that are signed validly and still refused. `raw` is a receipt."""
    protected, body, signature = split(raw)
    decoded = cbor.decode(body)
    assert isinstance(decoded, dict)
    good: dict[str, Value] = dict(decoded)
    usage = good["usage"]
    assert isinstance(usage, dict)

    def without(name: str) -> dict[str, Value]:
        return {key: value for key, value in good.items() if key != name}

    yield (
        "changed payload",
        join(protected, {}, cbor.encode({**good, "number": 42}), signature),
        "BAD_SIGNATURE",
    )
    yield "version 2", sign({**good, "v": 2}), "MALFORMED"
    yield "no version", sign(without("v")), "MALFORMED"
    yield "missing field", sign(without("h_final")), "MALFORMED"
    yield (
        "unknown field in a nested map",
        sign({**good, "usage": {**usage, "extra": 1}}),
        "MALFORMED",
    )
    yield "null for an absent field", sign({**good, "evidence": None}), "MALFORMED"
    yield "hash of 31 bytes", sign({**good, "ctx": bytes(31)}), "MALFORMED"
    yield "text for bytes", sign({**good, "ctx": "0" * 32}), "MALFORMED"
    yield "boolean for a number", sign({**good, "attempt": False}), "MALFORMED"
    yield "negative number", sign({**good, "number": -1}), "MALFORMED"
    yield "number of 64 bits", sign({**good, "number": 2**63}), "MALFORMED"
    yield "attempt of 33 bits", sign({**good, "attempt": 2**32}), "MALFORMED"
    yield "tenant in capitals", sign({**good, "tenant": "ACME"}), "MALFORMED"
    yield "unknown finish", sign({**good, "finish": "done"}), "MALFORMED"
    yield "ends before it starts", sign({**good, "ended": 0}), "MALFORMED"
    yield "first receipt with a predecessor", sign({**good, "node_sequence": 0}), "MALFORMED"
    yield "later receipt without a predecessor", sign({**good, "previous": bytes(32)}), "MALFORMED"
    yield "more cached than input", sign({**good, "usage": {**usage, "cached": 18}}), "MALFORMED"
    yield (
        "energy that is unmeasured and given",
        sign({**good, "usage": {**usage, "energy_quality": "unmeasured"}}),
        "MALFORMED",
    )
    yield "payload is an array", resigned(key, protected, cbor.encode([1])), "MALFORMED"
    yield "payload keys unsorted", resigned(key, protected, _unsorted(good)), "MALFORMED"
    yield "payload key twice", resigned(key, protected, _twice(body)), "MALFORMED"
    yield "integer longer than needed", resigned(key, protected, _long(good)), "MALFORMED"
    yield (
        "invalid UTF-8",
        resigned(key, protected, body.replace(b"\x64acme", b"\x64ac\xed\xa0")),
        "MALFORMED",
    )


def _unsorted(payload: dict[str, Value]) -> bytes:
    pairs = [cbor.encode(key) + cbor.encode(value) for key, value in payload.items()]
    pairs.sort(reverse=True)
    return cbor.encode(payload)[:2] + b"".join(pairs)


def _twice(body: bytes) -> bytes:
    assert body[0] == 0xB8, "a map of 24 to 255 members"
    return bytes([0xB8, body[1] + 1]) + body[2:] + body[2:5]


def _long(payload: dict[str, Value]) -> bytes:
    encoded = cbor.encode(payload)
    field = cbor.encode("attempt")
    return encoded.replace(field + b"\x00", field + b"\x18\x00")


def spoiled_receipt(
    raw: bytes, key: Ed25519PrivateKey, issuer: str, subject: str
) -> Iterator[tuple[str, bytes, str]]:
    """Yield every way of spoiling a receipt statement."""
    yield from spoiled_bytes(raw)
    yield from spoiled_headers(raw, key)
    yield from spoiled_payloads(
        raw,
        key,
        lambda payload: sign_statement("receipt", payload, key=key, issuer=issuer, subject=subject),
    )
    _, body, _ = split(raw)
    payload = cbor.decode(body)
    assert isinstance(payload, dict)
    about = {str(name): value for name, value in payload.items()}
    yield (
        "about another order",
        sign_statement("receipt", about, key=key, issuer=issuer, subject="weekly-maintenance"),
        "MALFORMED",
    )
