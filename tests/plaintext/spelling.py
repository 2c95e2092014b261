"""How a text, or its tokens, could be written on a disk."""

import base64
import json
import struct
from collections.abc import Sequence
from urllib.parse import quote

from shared.codec import cbor


def spelled(text: str) -> dict[str, bytes]:
    """Return the byte strings that a file has which holds the text, by the name of the encoding."""
    raw = text.encode()
    forms = {
        "utf-8": raw,
        "utf-16-le": text.encode("utf-16-le"),
        "utf-16-be": text.encode("utf-16-be"),
        "hex": raw.hex().encode(),
        "HEX": raw.hex().upper().encode(),
        "json": json.dumps(text)[1:-1].encode(),
        "json in utf-8": json.dumps(text, ensure_ascii=False)[1:-1].encode(),
        "json in json": json.dumps(json.dumps(text))[3:-3].encode(),
        "percent": quote(text).encode(),
        "repr": repr(raw)[2:-1].encode(),
    }
    for at in range(3):
        forms[f"base64 at {at}"] = _base64(raw, at, base64.b64encode)
        forms[f"base64url at {at}"] = _base64(raw, at, base64.urlsafe_b64encode)
    return _distinct(forms)


def numbered(tokens: Sequence[int]) -> dict[str, bytes]:
    """Return the byte strings that a file has which holds these tokens in sequence."""
    wide = len(tokens)
    listed = json.dumps(list(tokens))[1:-1]
    forms = {
        "CBOR": b"".join(map(cbor.encode, tokens)),
        "JSON": listed.encode(),
        "JSON without spaces": listed.replace(" ", "").encode(),
        "lines": listed.replace(", ", "\n").encode(),
        **{
            f"integers {order}{size}": struct.pack(f"{order}{wide}{size}", *tokens)
            for order in "<>"
            for size in "IQ"
        },
    }
    return _distinct(forms)


def _base64(raw: bytes, at: int, encode) -> bytes:  # type: ignore[no-untyped-def]
    """Encode with `at` bytes before; leave out the digits that depend on neighbours."""
    whole: bytes = encode(b"\0" * at + raw)
    return whole[(0, 2, 3)[at] : (at + len(raw)) * 8 // 6]


def _distinct(forms: dict[str, bytes]) -> dict[str, bytes]:
    """Keep the first name of each byte string."""
    first = {form: name for name, form in reversed(forms.items())}
    return {name: form for form, name in reversed(first.items())}
