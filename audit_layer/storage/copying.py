"""Binary COPY into a table, within an SQLAlchemy transaction: the fastest way to load rows into Postgres."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg import sql
from sqlalchemy import (
    BigInteger,
    Boolean,
    Connection,
    Date,
    Integer,
    LargeBinary,
    Numeric,
    SmallInteger,
    Text,
)

from audit_layer.storage.base import Base
from audit_layer.storage.engine import unstorable
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.printable import is_text

_TYPES: Final[Mapping[type, str]] = {
    BigInteger: "int8",
    Boolean: "bool",
    Date: "date",
    Integer: "int4",
    LargeBinary: "bytea",
    Numeric: "numeric",
    SmallInteger: "int2",
    Text: "text",
}


def copy_rows(connection: Connection, model: type[Base], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows that have every column of the model's table, by the columns' names.

    UNAVAILABLE when the database goes away, MALFORMED for text that it cannot hold; a
    violated constraint is raised as psycopg raises it.
    """
    names = [column.name for column in model.__table__.columns]
    copy_tuples(connection, model, names, (tuple(row[name] for name in names) for row in rows))


def copy_tuples(
    connection: Connection,
    model: type[Base],
    names: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    checked: bool = False,
) -> None:
    """Write rows in the order of `names`; errors as `copy_rows`. `checked` text came out of the database before."""
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise CounterfoilError(Code.CONFIGURATION, "the audit layer needs the psycopg driver")
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        sql.Identifier(model.__tablename__), sql.SQL(", ").join(map(sql.Identifier, names))
    )
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types([_TYPES[type(model.__table__.columns[name].type)] for name in names])
            for row in rows:
                if not checked:
                    _check_text(names, row)
                copy.write_row(row)
    except (psycopg.OperationalError, psycopg.InterfaceError) as e:  # SQLAlchemy does not see these
        raise CounterfoilError(
            Code.UNAVAILABLE, "The database went away.", retry_after_s=1.0
        ) from e


def _check_text(names: Sequence[str], row: Sequence[Any]) -> None:
    for name, value in zip(names, row, strict=True):
        if isinstance(value, str) and ("\0" in value or not is_text(value)):
            raise unstorable(name)
