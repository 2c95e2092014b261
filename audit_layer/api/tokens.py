"""Bearer tokens of the query API: made, recognised, renewed, revoked. Only hashes are kept, and every token expires."""

import hashlib
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import Engine, select

from audit_layer.api.models import ApiTokenRow
from audit_layer.storage.engine import session
from shared.codec.ids import check_name
from shared.codec.moment import now_ms, to_rfc3339
from shared.runtime.errors import Code, CounterfoilError

DAY_MS: Final = 86_400_000
LIFE_MS: Final = 90 * DAY_MS
LONGEST_LIFE_MS: Final = 366 * DAY_MS
OVERLAP_MS: Final = 3_600_000
"""How long a token that was renewed is still accepted beside its successor."""
WARN_MS: Final = 14 * DAY_MS
"""How long before its end an answer warns of it; for a token that lives less than four times that, a quarter of its life."""
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)


class Role(StrEnum):
    """What a token permits."""

    TENANT = "tenant"
    AUDITOR = "auditor"
    FINANCE = "finance"
    OPERATOR = "operator"

    @property
    def scoped(self) -> bool:
        """Whether such a token speaks for one tenant or one operator."""
        return self in {Role.TENANT, Role.OPERATOR}


@dataclass(frozen=True, slots=True)
class Access:
    """Who asks."""

    role: Role
    scope: str | None = None
    """Name of the tenant or operator; None for the roles that see all."""
    name: str = ""
    """The token's label: who it is, in what the books record."""
    expiring: int | None = None
    """When the token expires, if that is soon enough to warn of it."""

    @property
    def tenant(self) -> str | None:
        """The tenant to which this access is limited."""
        return self.scope if self.role is Role.TENANT else None

    @property
    def operator(self) -> str | None:
        """The operator to which this access is limited."""
        return self.scope if self.role is Role.OPERATOR else None


class Tokens:
    """The tokens of one database. All methods block."""

    def __init__(self, engine: Engine, *, clock: Callable[[], int] = now_ms) -> None:
        self._engine = engine
        self._clock = clock

    def create(
        self,
        role: Role,
        scope: str | None = None,
        *,
        name: str | None = None,
        life_ms: int = LIFE_MS,
    ) -> tuple[ApiTokenRow, str]:
        """Create a token; it is returned once and stored nowhere.
        INVALID_ARGUMENT for a wrong scope, or a life of less than a second or more than a year.
        """
        if role.scoped != (scope is not None):
            raise CounterfoilError(
                Code.INVALID_ARGUMENT,
                f"a token for {role} {'needs a' if role.scoped else 'has no'} scope",
                remedy="The scope is the name of the tenant or operator for which the token speaks.",
            )
        if scope is not None:
            check_name(scope, "a scope")
        label = name or (f"{role}-{scope}" if scope else str(role))
        row, token = _made(role, scope, label, self._clock(), life_ms)
        with session(self._engine) as db:
            db.add(row)
        return row, token

    def authenticate(self, token: str) -> Access:
        """Return what a token permits. UNAUTHENTICATED: whether it is unknown or revoked is not told, an expiry is."""
        row = self._found(token)
        if row is None:
            raise CounterfoilError(Code.UNAUTHENTICATED, "the token is not valid")
        now = self._clock()
        if row.expires <= now:
            raise CounterfoilError(
                Code.UNAUTHENTICATED,
                f"the token expired on {to_rfc3339(row.expires)}",
                remedy=f"Have the audit server's operator run: counterfoil token renew {row.id}",
                metadata={"expired": str(row.expires)},
            )
        soon = row.expires - now < min(WARN_MS, (row.expires - row.created) // 4)
        return Access(Role(row.role), row.scope, row.name, row.expires if soon else None)

    def _found(self, token: str) -> ApiTokenRow | None:
        """Return a token's row; None if it is unknown or revoked."""
        if not _TOKEN.fullmatch(token):
            return None
        unrevoked = select(ApiTokenRow).where(ApiTokenRow.revoked.is_(None))
        with session(self._engine) as db:
            return db.scalar(unrevoked.where(ApiTokenRow.hash == _hash(token)))

    def renew(self, token_id: int, *, life_ms: int = LIFE_MS) -> tuple[ApiTokenRow, str]:
        """Create a token with the name, role and scope of another, which is accepted for `OVERLAP_MS` more at most.
        One that has expired can be renewed too. NOT_FOUND if no token has this id, CONFLICT if it was revoked.
        """
        now = self._clock()
        with session(self._engine) as db:
            old = db.get(ApiTokenRow, token_id, with_for_update=True)
            if old is None:
                raise CounterfoilError(Code.NOT_FOUND, f"there is no token {token_id}")
            if old.revoked is not None:
                raise CounterfoilError(
                    Code.CONFLICT,
                    f"token {token_id} was revoked",
                    remedy="Create another one: counterfoil token create",
                )
            old.expires = min(old.expires, max(old.created + 1, now + OVERLAP_MS))
            row, token = _made(Role(old.role), old.scope, old.name, now, life_ms)
            db.add(row)
        return row, token

    def list(self) -> list[ApiTokenRow]:
        """Return all tokens, revoked ones too."""
        with session(self._engine) as db:
            return list(db.scalars(select(ApiTokenRow).order_by(ApiTokenRow.id)))

    def revoke(self, token_id: int) -> ApiTokenRow:
        """Revoke a token; idempotent. NOT_FOUND when no token has this id."""
        with session(self._engine) as db:
            row = db.get(ApiTokenRow, token_id)
            if row is None:
                raise CounterfoilError(Code.NOT_FOUND, f"there is no token {token_id}")
            row.revoked = row.revoked or self._clock()
        return row


def _made(
    role: Role, scope: str | None, name: str, now: int, life_ms: int
) -> tuple[ApiTokenRow, str]:
    """Return a new token and its row; INVALID_ARGUMENT for a life that no token may have."""
    if not 1000 <= life_ms <= LONGEST_LIFE_MS:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            "a token lives for at least a second and at most a year",
            remedy="Renew it before it expires: counterfoil token renew ID",
        )
    token = secrets.token_urlsafe(32)
    row = ApiTokenRow(
        name=name,
        role=str(role),
        scope=scope,
        hash=_hash(token),
        created=now,
        expires=now + life_ms,
    )
    return row, token


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
