"""The vectors of protocol §2.3: a log of statements about one identity's keys, what each changes, and whose keys then count."""

from shared.runtime.keys import key_id, public_bytes
from shared.statements.cose import sign
from shared.statements.identities import Holder, IdentityKeyEnd, sign_identity_key
from shared.verification.identities import Logged, key_history
from tests.vectors.files import Json
from tests.vectors.samples import NOW, signing_key

NAMES = ("first", "second", "third", "thief")


def _add(by: str, new: str) -> bytes:
    return sign_identity_key(
        Holder.TENANT, "acme", new=signing_key(new), by=signing_key(by), now_ms=NOW
    )


def _end(by: str, key: str) -> bytes:
    value = IdentityKeyEnd(Holder.TENANT, "acme", public_bytes(signing_key(key)), NOW, "rotated")
    return sign(value, key=signing_key(by), issuer="acme")


LOG = (
    ("the pinned key adds one", _add("first", "second")),
    ("who has no key of the identity adds nothing", _add("thief", "third")),
    ("a key that there was already", _add("second", "first")),
    ("the new key ends the old one", _end("second", "first")),
    ("a key that has ended adds nothing", _add("first", "thief")),
    ("the last key is not ended", _end("second", "second")),
    ("the chain goes on", _add("second", "third")),
    ("a key that has ended does not come back", _add("third", "first")),
)


def vectors() -> Json:
    """Return the content of identities.json."""
    places = [(7 * place, what, raw) for place, (what, raw) in enumerate(LOG, start=1)]
    pinned = public_bytes(signing_key("first"))
    found = key_history(
        Holder.TENANT, "acme", [pinned], (Logged(index, raw) for index, _, raw in places)
    )
    ignored = {item.index for item in found.ignored}
    return {
        "role": "tenant",
        "name": "acme",
        "pinned": [pinned.hex()],
        "log": [
            {"index": index, "name": what, "statement": raw.hex(), "counts": index not in ignored}
            for index, what, raw in places
        ],
        "keys": [
            {
                "key": life.key.hex(),
                "key_id": key_id(life.key).hex(),
                "added": life.added,
                "ended": life.ended,
            }
            for life in found.lives
        ],
    }
