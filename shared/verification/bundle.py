"""Bundles: one JSON file from which a statement and its place in a witnessed log can be checked offline.

The format and the verification steps are in `docs/bundle.md`; `shared.verification.bundle_check` performs them. Nothing
here has been verified: a bundle is untrusted input.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shared.codec.strict_json import strict_json
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.reading import read_bounded
from shared.translog.notes import decode_base64, encode_base64

FORMAT: Final = "counterfoil-bundle/v1"
MAX_BUNDLE: Final = 4 * 2**20
"""Bytes. The longest statements are 2^20 bytes long, and base64 makes them a third longer."""
MAX_KEYS: Final = 16
MAX_TIMESTAMPS: Final = 16
MAX_IDENTITIES: Final = 64
"""Statements about identity keys; with proofs of some 10 kB each they leave room for the rest."""


@dataclass(frozen=True, slots=True)
class OrderContext:
    """What a receipt or a refusal is checked against: its order, and its key bundle with the proof that it is in the log."""

    order: bytes
    key_bundle: bytes
    key_bundle_proof: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """A parsed bundle."""

    statement: bytes
    """COSE_Sign1, with any COSE Receipts in its unprotected header (RFC 9943 transparent statement)."""
    tlog_proof: str
    policy: str
    """C2SP tlog-policy: the exporter's rule for *witnessed*."""
    keys: tuple[bytes, ...] = ()
    """Ed25519 public keys, found by their key id: signers of statements and of COSE Receipts."""
    context: OrderContext | None = None
    """Present exactly when the statement is a receipt or a refusal."""
    timestamps: tuple[bytes, ...] = ()
    """RFC 3161 timestamp tokens, DER."""
    identities: tuple[tuple[bytes, str], ...] = ()
    """(statement, tlog-proof): how the log continues the keys of those who signed the others."""

    def members(self) -> dict[str, Any]:
        """Return the members of the file's JSON object."""
        values: dict[str, Any] = {
            "format": FORMAT,
            "statement": encode_base64(self.statement),
            "tlog_proof": self.tlog_proof,
            "policy": self.policy,
            "keys": [encode_base64(key) for key in self.keys],
        }
        if self.context is not None:
            values["order"] = encode_base64(self.context.order)
            values["key_bundle"] = encode_base64(self.context.key_bundle)
            values["key_bundle_proof"] = self.context.key_bundle_proof
        if self.identities:
            values["identities"] = [
                {"statement": encode_base64(raw), "tlog_proof": proof}
                for raw, proof in self.identities
            ]
        if self.timestamps:
            values["timestamps"] = [encode_base64(token) for token in self.timestamps]
        return values

    def encode(self) -> str:
        """Return the file's text."""
        return json.dumps(self.members(), indent=2, ensure_ascii=False) + "\n"


_REQUIRED: Final = frozenset({"format", "statement", "tlog_proof", "policy", "keys"})
_OF_ORDERS: Final = frozenset({"order", "key_bundle", "key_bundle_proof"})
_OPTIONAL: Final = frozenset({"identities", "timestamps"})
_OF_IDENTITY: Final = {"statement", "tlog_proof"}


def parse_bundle(data: bytes) -> Bundle:
    """Parse a file's bytes strictly: UTF-8, exactly the format's members, each once; otherwise MALFORMED."""
    if len(data) > MAX_BUNDLE:
        raise _malformed(f"is larger than {MAX_BUNDLE} bytes")
    try:
        values = strict_json(data)
    except (ValueError, RecursionError) as error:
        raise _malformed("is not JSON in UTF-8") from error
    return bundle_of(values)


def bundle_of(values: Any) -> Bundle:
    """Return the bundle that a JSON value is; MALFORMED if it is none."""
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise _malformed(f"is not in the format {FORMAT}")
    names = set(values) - _OPTIONAL
    of_order = not names.isdisjoint(_OF_ORDERS)
    wrong = names ^ (_REQUIRED | _OF_ORDERS if of_order else _REQUIRED)
    if wrong:
        listed = ", ".join(sorted(wrong))
        raise _malformed(f"has missing or unknown members: {listed[:200]!a}")
    context = None
    if of_order:
        context = OrderContext(
            _octets(values, "order"),
            _octets(values, "key_bundle"),
            _text(values, "key_bundle_proof"),
        )
    keys = _list(values, "keys", MAX_KEYS)
    if any(len(key) != 32 for key in keys):
        raise _malformed("has a key that is not 32 bytes long")
    return Bundle(
        statement=_octets(values, "statement"),
        tlog_proof=_text(values, "tlog_proof"),
        policy=_text(values, "policy"),
        keys=keys,
        context=context,
        timestamps=_list(values, "timestamps", MAX_TIMESTAMPS) if "timestamps" in values else (),
        identities=_identities(values["identities"]) if "identities" in values else (),
    )


def _identities(values: Any) -> tuple[tuple[bytes, str], ...]:
    if not isinstance(values, list) or not 0 < len(values) <= MAX_IDENTITIES:
        raise _malformed(f"has no list of at most {MAX_IDENTITIES} identities")
    if not all(isinstance(item, dict) and set(item) == _OF_IDENTITY for item in values):
        raise _malformed("has an identity that is not a statement and its tlog_proof")
    return tuple((_octets(item, "statement"), _text(item, "tlog_proof")) for item in values)


def read_bundle(path: Path) -> Bundle:
    """Read and parse a file; NOT_FOUND if it cannot be read."""
    return parse_bundle(read_bounded(path, MAX_BUNDLE, code=Code.NOT_FOUND))


def _text(values: dict[str, Any], name: str) -> str:
    value = values[name]
    if not isinstance(value, str):
        raise _malformed(f"has a {name} that is not text")
    return value


def _octets(values: dict[str, Any], name: str) -> bytes:
    return _decoded(values[name], name)


def _list(values: dict[str, Any], name: str, most: int) -> tuple[bytes, ...]:
    items = values[name]
    if not isinstance(items, list) or len(items) > most:
        raise _malformed(f"has a {name} that is not a list of at most {most}")
    return tuple(_decoded(item, name) for item in items)


def _decoded(value: object, name: str) -> bytes:
    if not isinstance(value, str):
        raise _malformed(f"has a {name} that is not text")
    try:
        return decode_base64(value)
    except CounterfoilError as error:
        raise _malformed(f"has a {name} that is {error.detail}") from error


def _malformed(problem: str) -> CounterfoilError:
    return CounterfoilError(
        Code.MALFORMED,
        f"the bundle {problem}",
        remedy="Make one with `counterfoil log bundle` or `counterfoil client archive show --export`.",
    )
