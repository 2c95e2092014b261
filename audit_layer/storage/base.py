"""The declarative base of all audit tables, and the column types that all rooms share.

A table says who may do what with it in `info["access"]`, with the short names of the service
roles and the SQL privileges in lower case; migrations turn that into GRANTs (see
`audit_layer.storage.grants`)::

    class EntryRow(Base):
        __tablename__ = "log_entries"
        __table_args__ = (bytes_check("leaf_hash", 32), access(server=APPEND, worker=READ))

`APPEND` includes neither UPDATE nor DELETE: a table whose roles have at most READ or APPEND is
append-only for every service. A test compares the migrated database with the declarations.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from sqlalchemy import BigInteger, CheckConstraint, Identity, LargeBinary, MetaData, Numeric, Text
from sqlalchemy.orm import DeclarativeBase, mapped_column

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

READ = frozenset({"select"})
APPEND = frozenset({"select", "insert"})
WRITE = frozenset({"select", "insert", "update"})
EVERYTHING = frozenset({"select", "insert", "update", "delete"})


class Base(DeclarativeBase):
    """The single declarative base; Alembic compares the database with its metadata."""

    metadata = MetaData(naming_convention=NAMING)


Hash32 = Annotated[bytes, mapped_column(LargeBinary(32))]
"""A 32-byte hash or key. Add `bytes_check(column, 32)` to the table: `bytea` has no fixed length."""
UnixMs = Annotated[int, mapped_column(BigInteger)]
"""Milliseconds since 1970-01-01T00:00:00Z."""
Count = Annotated[int, mapped_column(BigInteger)]
"""An unsigned counter, index or size; add `not_negative(column)` where it matters."""
Statement = Annotated[bytes, mapped_column(LargeBinary)]
"""The bytes of a signed statement, as they were signed."""
Name = Annotated[str, mapped_column(Text)]
Money = Annotated[Decimal, mapped_column(Numeric(38, 12))]
"""An exact decimal amount."""
RowId = Annotated[
    int, mapped_column(BigInteger, Identity(always=True), primary_key=True, autoincrement=True)
]
"""A surrogate key that only the database assigns."""


def access(**roles: Iterable[str]) -> dict[str, Any]:
    """Return the last item of `__table_args__`: privileges by short role name (server, worker)."""
    return {"info": {"access": {role: set(privileges) for role, privileges in roles.items()}}}


def bytes_check(column: str, length: int) -> CheckConstraint:
    """Return a table constraint: `column`, when present, holds exactly `length` bytes."""
    return CheckConstraint(f"octet_length({column}) = {length}", name=f"{column}_length")


def not_negative(column: str) -> CheckConstraint:
    """Return a table constraint: `column`, when present, is zero or more."""
    return CheckConstraint(f"{column} >= 0", name=f"{column}_not_negative")


@dataclass(frozen=True, slots=True)
class DatabaseObject:
    """A function, or a trigger on `table`, with its whole CREATE statement."""

    name: str
    definition: str
    table: str | None = None

    @property
    def reference(self) -> str:
        """Its name in DROP and COMMENT. Functions take no arguments: triggers call them."""
        if self.table is None:
            return f'FUNCTION "{self.name}"()'
        return f'TRIGGER "{self.name}" ON "{self.table}"'


def declare_function(name: str, definition: str, metadata: MetaData = Base.metadata) -> None:
    """Declare a trigger function without arguments; migrations create and compare it.

    Begin its body with a fixed search path (`SET search_path = public, pg_temp`).
    """
    _declared(metadata)[name, None] = DatabaseObject(name, definition.strip())


def declare_trigger(
    name: str, table: str, definition: str, metadata: MetaData = Base.metadata
) -> None:
    """Declare a trigger on a table; migrations create and compare it."""
    _declared(metadata)[name, table] = DatabaseObject(name, definition.strip(), table)


def declared_objects(metadata: MetaData) -> list[DatabaseObject]:
    """Return what was declared, functions first."""
    return sorted(
        _declared(metadata).values(), key=lambda item: (item.table is not None, item.name)
    )


def _declared(metadata: MetaData) -> dict[tuple[str, str | None], DatabaseObject]:
    objects: dict[tuple[str, str | None], DatabaseObject] = metadata.info.setdefault("objects", {})
    return objects
