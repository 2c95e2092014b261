"""The proxy's API keys: whose request it is, and what its orders note of that. A key is shown once; its hash alone is kept."""

import hmac
import json
import secrets
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

from shared.codec.ids import check_label
from shared.codec.moment import now_ms
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.journal import Journal
from shared.statements.tags import canonical_tags

KEY_TAG: Final = "proxy_key"
"""The tag by which an order's key is known afterwards."""
PREFIX: Final = "cf-"
MAX_KEY: Final = 200
_SCHEMA: Final = (
    "CREATE TABLE keys (id TEXT PRIMARY KEY, name TEXT NOT NULL, hash BLOB NOT NULL UNIQUE, tags TEXT NOT NULL,"
    " created INTEGER NOT NULL, revoked INTEGER) STRICT;"
)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key, without its secret."""

    id: str
    name: str
    tags: Mapping[str, str]
    """What its orders note, `proxy_key` included."""
    created: int
    """In ms since 1970."""
    revoked: int | None


class ApiKeys:
    """A file of keys that only its owner can read. A key that is revoked is refused from the next request on."""

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path, schema=_SCHEMA, version=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._journal.close()

    def add(self, name: str, tags: Mapping[str, str]) -> tuple[ApiKey, str]:
        """Make a key whose orders have these tags; return it with its secret, which nothing can show again."""
        check_label(name, "the name of a key")
        if KEY_TAG in tags:
            raise CounterfoilError(Code.INVALID_ARGUMENT, f"the tag {KEY_TAG} is the proxy's own")
        secret, made = PREFIX + secrets.token_urlsafe(32), secrets.token_hex(6)
        key = ApiKey(made, name, canonical_tags({**tags, KEY_TAG: made}), now_ms(), None)
        row = (key.id, name, _hash(secret), json.dumps(dict(key.tags)), key.created)
        self._journal.write_now(
            lambda db: db.execute("INSERT INTO keys VALUES (?, ?, ?, ?, ?, NULL)", row)
        )
        return key, secret

    def all(self) -> list[ApiKey]:
        """Return every key, revoked ones too, oldest first."""
        query = "SELECT * FROM keys ORDER BY created, id"
        return self._journal.read(lambda db: [_key(row) for row in db.execute(query)])

    def revoke(self, key: str) -> ApiKey:
        """Revoke a key by its id; NOT_FOUND if there is none. One that is revoked stays so, with its first date."""

        def write(db: sqlite3.Connection) -> ApiKey:
            db.execute(
                "UPDATE keys SET revoked = ? WHERE id = ? AND revoked IS NULL", (now_ms(), key)
            )
            row = db.execute("SELECT * FROM keys WHERE id = ?", (key,)).fetchone()
            if row is None:
                raise CounterfoilError(
                    Code.NOT_FOUND, f"there is no key {key[:40]!r}", remedy="See `proxy key list`."
                )
            return _key(row)

        return self._journal.write_now(write)

    def of(self, authorization: str | None) -> ApiKey:
        """Return the key that a request presents (`Bearer …`); UNAUTHENTICATED unless it is one of ours and not revoked."""
        scheme, _, secret = (authorization or "").partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not 1 <= len(secret) <= MAX_KEY:
            raise _unknown("the request shows no API key")
        shown = _hash(secret)
        row = self._journal.read(
            lambda db: db.execute("SELECT * FROM keys WHERE hash = ?", (shown,)).fetchone()
        )
        if row is None or not hmac.compare_digest(row["hash"], shown) or row["revoked"] is not None:
            raise _unknown("the API key is not known here, or was revoked")
        return _key(row)


def _hash(secret: str) -> bytes:
    """A secret has 256 random bits, so its plain hash gives nothing to guess from, nor does the time of looking it up."""
    return sha256(secret.encode("utf-8", "surrogateescape")).digest()


def _key(row: sqlite3.Row) -> ApiKey:
    tags = json.loads(row["tags"])
    return ApiKey(row["id"], row["name"], tags, row["created"], row["revoked"])


def _unknown(detail: str) -> CounterfoilError:
    return CounterfoilError(
        Code.UNAUTHENTICATED, detail, remedy="Make a key with `counterfoil proxy key add`."
    )
