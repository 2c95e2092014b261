"""Bearer tokens of the query API: made, recognised, revoked. Only hashes are kept."""

import hashlib
import re
import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import Engine, select

from audit_layer.api.models import ApiTokenRow
from audit_layer.storage.engine import session
from shared.codec.ids import check_name
from shared.codec.moment import now_ms
from shared.runtime.errors import Code, CounterfoilError

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

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(
        self, role: Role, scope: str | None = None, *, name: str | None = None
    ) -> tuple[ApiTokenRow, str]:
        """Create a token; it is returned once and stored nowhere. INVALID_ARGUMENT for a wrong scope."""
        if role.scoped != (scope is not None):
            raise CounterfoilError(
                Code.INVALID_ARGUMENT,
                f"a token for {role} {'needs a' if role.scoped else 'has no'} scope",
                remedy="The scope is the name of the tenant or operator for which the token speaks.",
            )
        if scope is not None:
            check_name(scope, "a scope")
        label = name or (f"{role}-{scope}" if scope else str(role))
        token = secrets.token_urlsafe(32)
        row = ApiTokenRow(
            name=label, role=str(role), scope=scope, hash=_hash(token), created=now_ms()
        )
        with session(self._engine) as db:
            db.add(row)
        return row, token

    def authenticate(self, token: str) -> Access:
        """Return what a token permits; UNAUTHENTICATED whether it is unknown or revoked."""
        if _TOKEN.fullmatch(token):
            with session(self._engine) as db:
                row = db.scalar(
                    select(ApiTokenRow).where(
                        ApiTokenRow.hash == _hash(token), ApiTokenRow.revoked.is_(None)
                    )
                )
            if row is not None:
                return Access(Role(row.role), row.scope, row.name)
        raise CounterfoilError(Code.UNAUTHENTICATED, "the token is not valid")

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
            row.revoked = row.revoked or now_ms()
        return row


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
