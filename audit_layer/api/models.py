"""Tables of the query API: who may call it."""

from sqlalchemy import CheckConstraint
from sqlalchemy.orm import Mapped, mapped_column

from audit_layer.storage.base import (
    WRITE,
    Base,
    Hash32,
    Name,
    RowId,
    UnixMs,
    access,
    bytes_check,
)


class ApiTokenRow(Base):
    """A bearer token, known by its hash only."""

    __tablename__ = "api_tokens"
    __table_args__ = (
        bytes_check("hash", 32),
        CheckConstraint("role IN ('tenant', 'auditor', 'finance', 'operator')", name="role"),
        CheckConstraint("(scope IS NOT NULL) = (role IN ('tenant', 'operator'))", name="scope"),
        CheckConstraint("expires > created", name="life"),
        access(server=WRITE),
    )

    id: Mapped[RowId]
    name: Mapped[Name]
    """A label for people."""
    role: Mapped[Name]
    scope: Mapped[Name | None]
    """The tenant or operator for which it speaks."""
    hash: Mapped[Hash32] = mapped_column(unique=True)
    """SHA-256 of the token."""
    created: Mapped[UnixMs]
    expires: Mapped[UnixMs]
    """From when on it is refused."""
    revoked: Mapped[UnixMs | None]
