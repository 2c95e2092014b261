"""Engines and transactions: how the audit layer reaches Postgres, and how its failures leave.

What the database cannot do right now (down, restarting, a timeout, a deadlock) becomes
`CounterfoilError(UNAVAILABLE)`, which is retryable. Everything else (a constraint, a missing
privilege) is left as SQLAlchemy raised it: the caller knows what it means, or it is a defect.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from audit_layer.storage.dsn import parse_dsn
from shared.runtime.errors import Code, CounterfoilError

STATEMENT_TIMEOUT_MS: Final = 30_000
LOCK_TIMEOUT_MS: Final = 5_000
CONNECT_TIMEOUT_S: Final = 5

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
    parameters = parse_dsn(dsn)
    settings = {
        "statement_timeout": statement_timeout_ms,
        "lock_timeout": lock_timeout_ms,
        "idle_in_transaction_session_timeout": statement_timeout_ms * 2,
        "timezone": "UTC",
    }
    given = str(parameters.get("options") or "")
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    parameters["options"] = f"{options} {given}".strip()
    parameters["application_name"] = application_name
    parameters.setdefault("connect_timeout", CONNECT_TIMEOUT_S)
    return create_engine(
        "postgresql+psycopg://",
        connect_args=parameters,
        pool_pre_ping=True,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=pool_timeout_s,
    )


@contextmanager
def unavailable_when_down() -> Iterator[None]:
    """Turn what the database cannot do right now into UNAVAILABLE; let everything else through."""
    try:
        yield
    except PoolTimeoutError as error:
        raise CounterfoilError(
            Code.UNAVAILABLE, "No database connection became free in time.", retry_after_s=1.0
        ) from error
    except DBAPIError as error:
        if not (
            isinstance(error, (OperationalError, InterfaceError)) or error.connection_invalidated
        ):
            raise
        raise CounterfoilError(
            Code.UNAVAILABLE,
            f"The database does not answer ({type(error.orig).__name__}).",
            remedy="Check that Postgres runs and that the DSN and its password are right.",
            retry_after_s=1.0,
        ) from error


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
