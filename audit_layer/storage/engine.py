"""Engines and transactions: how the audit layer reaches Postgres, and how failures are raised.

What the database cannot do right now (down, restarting, a timeout, a deadlock) becomes
`CounterfoilError(UNAVAILABLE)`, which is retryable; text that it cannot hold becomes MALFORMED.
Everything else (a constraint, a missing privilege) is left as SQLAlchemy raised it: the caller
knows what it means (`role_named`, for a person's command), or it is a defect.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Literal

from sqlalchemy import Connection, Engine, create_engine, func, select
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from audit_layer.storage.connecting import connect, session_parameters
from shared.runtime.errors import Code, CounterfoilError

STATEMENT_TIMEOUT_MS: Final = 30_000
LOCK_TIMEOUT_MS: Final = 5_000
_INTERRUPTED: Final = {
    "57014": "The database did not finish in time.",
    "55P03": "What another database transaction holds did not become free in time.",
    "40": "Another database transaction intervened.",
    "53": "The database server lacks space, memory or connections.",
}
"""What the database could not do, by SQLSTATE or its class."""

_NOT_THIS_ROLES: Final = {
    "42501": " next to it.",
    "42P01": " next to it; if this is that one, run `counterfoil db upgrade` first.",
}
"""By SQLSTATE: a privilege, or the tables, are missing (in this database)."""

_log = logging.getLogger(__name__)
NUL_REFUSED: Final = "cannot contain NUL"
"""Part of the driver's message about text with NUL in it, which Postgres cannot store."""

Isolation = Literal["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]


def make_engine(
    dsn: str,
    *,
    application_name: str = "counterfoil",
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
    pool_size: int = 5,
    pool_timeout_s: float = 10.0,
) -> Engine:
    """Return an engine over psycopg 3. It connects on first use and survives a server restart.

    Timeouts of 0 mean none. Call `engine.dispose()` when done; never share one across a fork.

    Raises:
        CounterfoilError: CONFIGURATION when the DSN cannot be read.
    """
    settings: dict[str, int | str] = {
        "statement_timeout": statement_timeout_ms,
        "lock_timeout": lock_timeout_ms,
        "idle_in_transaction_session_timeout": statement_timeout_ms * 2,
        "timezone": "UTC",
    }
    parameters = session_parameters(dsn, application_name, settings)
    return create_engine(
        "postgresql+psycopg://",
        creator=lambda: connect(parameters),
        pool_pre_ping=True,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=pool_timeout_s,
    )


@contextmanager
def unavailable_when_down() -> Iterator[None]:
    """Turn what the database cannot do right now into UNAVAILABLE, and text that it cannot hold into MALFORMED.

    Everything else passes through.
    """
    try:
        yield
    except PoolTimeoutError as error:
        raise CounterfoilError(
            Code.UNAVAILABLE, "No database connection became free in time.", retry_after_s=1.0
        ) from error
    except UnicodeEncodeError as error:
        raise unstorable(None) from error
    except DataError as error:
        if NUL_REFUSED not in str(error.orig):
            raise
        raise unstorable(_holding_nul(error.params)) from error
    except DBAPIError as error:
        if not (
            isinstance(error, (OperationalError, InterfaceError)) or error.connection_invalidated
        ):
            raise
        state = getattr(error.orig, "sqlstate", None) or ""
        raise CounterfoilError(
            Code.UNAVAILABLE,
            _INTERRUPTED.get(state) or _INTERRUPTED.get(state[:2]) or "The database went away.",
            retry_after_s=1.0,
        ) from error


@contextmanager
def role_named(role: str) -> Iterator[None]:
    """Report that the DSN's role may not do this: CONFIGURATION names the `role` whose DSN is needed."""
    try:
        yield
    except ProgrammingError as error:
        remedy = _NOT_THIS_ROLES.get(getattr(error.orig, "sqlstate", None) or "")
        if remedy is None:
            raise
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"this DSN's role may not do this: {str(error.orig).splitlines()[0]}",
            remedy=f"Use {role}.dsn, which `counterfoil db init` wrote{remedy}",
        ) from error


def unstorable(name: str | None) -> CounterfoilError:
    """Return the error for text that Postgres cannot hold: NUL, and lone surrogates."""
    return CounterfoilError(
        Code.MALFORMED,
        f"{name or 'a text'} holds an invalid character: NUL, or half of a surrogate pair",
        remedy="Remove it.",
    )


def _holding_nul(parameters: Any) -> str | None:
    """Return the name of the parameter that holds NUL, of one row or of many."""
    rows = parameters if isinstance(parameters, list) else [parameters]
    named = (item for row in rows if isinstance(row, Mapping) for item in row.items())
    found = (name for name, value in named if isinstance(value, str) and "\0" in value)
    return next(found, None)


@contextmanager
def transaction(engine: Engine, *, isolation: Isolation | None = None) -> Iterator[Connection]:
    """Run the block in one transaction: commit at its end, roll back when it raises.

    Raises:
        CounterfoilError: UNAVAILABLE, retryable. When it comes from the commit itself, the outcome
            is unknown: repeat only what is idempotent.
    """
    scoped = engine if isolation is None else engine.execution_options(isolation_level=isolation)
    with unavailable_when_down(), scoped.begin() as connection:
        yield connection


def check_usable(engine: Engine) -> None:
    """Refuse, when a process starts, a database that can never be used; one that is down may come up later.

    Raises:
        CounterfoilError: CONFIGURATION, as `connecting.connect`.
    """
    try:
        with transaction(engine):
            pass
    except CounterfoilError as error:
        if error.code is not Code.UNAVAILABLE:
            raise
        _log.warning("the database does not answer yet: %s", error)


@contextmanager
def session(engine: Engine, *, isolation: Isolation | None = None) -> Iterator[Session]:
    """Run the block with an ORM session in one transaction; objects stay readable after the commit.

    Raises:
        CounterfoilError: as `transaction`.
    """
    with (
        transaction(engine, isolation=isolation) as connection,
        Session(bind=connection, expire_on_commit=False) as orm,
    ):
        yield orm
        orm.flush()


@contextmanager
def alone(engine: Engine, key: int) -> Iterator[bool]:
    """Hold an advisory lock for the block; yields False when another session holds it.

    The lock belongs to one connection: the block's own transactions use others, however long it takes.

    Raises:
        CounterfoilError: UNAVAILABLE, including when the lock's connection was lost meanwhile.
    """
    with unavailable_when_down(), engine.connect() as guard:
        ours = guard.scalar(select(func.pg_try_advisory_lock(key)))
        guard.commit()  # the server ends a transaction that stays open, and the lock with it
        if not ours:
            yield False
            return
        try:
            yield True
        finally:
            guard.scalar(select(func.pg_advisory_unlock(key)))
            guard.commit()
