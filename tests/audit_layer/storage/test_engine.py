"""Engines, transactions and how database failures leave the storage room."""

import contextlib

import pytest
from sqlalchemy import BigInteger, Connection, MetaData, Text, select, text
from sqlalchemy.exc import IntegrityError, ProgrammingError
from sqlalchemy.orm import Mapped, mapped_column

from audit_layer.storage.base import Base
from audit_layer.storage.copying import copy_rows
from audit_layer.storage.engine import make_engine, session, transaction
from shared.runtime.errors import Code, CounterfoilError
from tests.postgres import Database


def counts(database: Database) -> int:
    with transaction(database.engine()) as connection:
        return int(connection.scalar(text("SELECT count(*) FROM notes")) or 0)


@pytest.fixture
def notes(empty_database: Database) -> Database:
    with transaction(empty_database.engine()) as connection:
        connection.execute(text("CREATE TABLE notes (id int PRIMARY KEY)"))
    return empty_database


def test_transaction_commits_at_its_end_and_rolls_back_when_it_raises(notes):
    with transaction(notes.engine()) as connection:
        connection.execute(text("INSERT INTO notes VALUES (1)"))
    with contextlib.suppress(ZeroDivisionError), transaction(notes.engine()) as connection:
        connection.execute(text("INSERT INTO notes VALUES (2)"))
        _ = 1 // 0
    assert counts(notes) == 1


def test_session_flushes_and_commits_like_a_transaction(notes):
    with session(notes.engine()) as orm:
        orm.execute(text("INSERT INTO notes VALUES (7)"))
    assert counts(notes) == 1


def test_a_violated_constraint_is_left_to_the_caller(notes):
    with pytest.raises(IntegrityError), transaction(notes.engine()) as connection:
        connection.execute(text("INSERT INTO notes VALUES (1), (1)"))


def test_a_missing_privilege_is_left_to_the_caller(notes):
    with pytest.raises(ProgrammingError), transaction(notes.engine("worker")) as connection:
        connection.execute(text("SELECT * FROM notes"))


def test_isolation_is_set_for_one_transaction_only(notes):
    level = text("SHOW transaction_isolation")
    with transaction(notes.engine(), isolation="SERIALIZABLE") as connection:
        assert connection.scalar(level) == "serializable"
    with transaction(notes.engine()) as connection:
        assert connection.scalar(level) == "read committed"


def test_a_server_that_is_not_there_is_unavailable_and_retryable(tmp_path):
    engine = make_engine(f"postgresql://nobody:x@/none?host={tmp_path}")
    with pytest.raises(CounterfoilError) as caught, transaction(engine):
        pytest.fail("connected to nothing")
    assert caught.value.code is Code.UNAVAILABLE
    assert caught.value.code.value.retryable


def test_a_wrong_password_is_refused(notes):
    wrong = notes.server_dsn.replace(":", ":wrong", 2).replace(":wrong//", "://")
    engine = make_engine(wrong)
    with pytest.raises(CounterfoilError) as caught, transaction(engine):
        pytest.fail("a wrong password was accepted")
    assert caught.value.code is Code.UNAVAILABLE


def test_a_statement_that_takes_too_long_is_unavailable(notes):
    engine = make_engine(notes.owner_dsn, statement_timeout_ms=50)
    with pytest.raises(CounterfoilError) as caught, transaction(engine) as connection:
        connection.execute(text("SELECT pg_sleep(5)"))
    assert caught.value.code is Code.UNAVAILABLE
    engine.dispose()


def test_a_lock_that_is_not_given_in_time_is_unavailable(notes):
    engine = make_engine(notes.owner_dsn, lock_timeout_ms=50)
    with transaction(notes.engine()) as holder:
        holder.execute(text("LOCK TABLE notes"))
        with pytest.raises(CounterfoilError) as caught, transaction(engine) as connection:
            connection.execute(text("LOCK TABLE notes"))
    assert caught.value.code is Code.UNAVAILABLE
    engine.dispose()


def test_an_exhausted_pool_is_unavailable(notes):
    engine = make_engine(notes.owner_dsn, pool_size=1, pool_timeout_s=0.05)
    with (
        transaction(engine),
        transaction(engine),
        pytest.raises(CounterfoilError) as caught,
        transaction(engine),
    ):
        pytest.fail("the pool has no third connection")
    assert caught.value.code is Code.UNAVAILABLE
    engine.dispose()


def test_a_killed_connection_is_unavailable_once_and_the_engine_recovers(notes):
    engine = make_engine(notes.owner_dsn)
    with pytest.raises(CounterfoilError) as caught, transaction(engine) as connection:
        end_its_backend_and_go_on(notes, connection)
    assert caught.value.code is Code.UNAVAILABLE
    with transaction(engine) as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    engine.dispose()


def end_its_backend_and_go_on(database: Database, connection: Connection) -> None:
    pid = connection.scalar(text("SELECT pg_backend_pid()"))
    with transaction(database.engine()) as other:
        other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
    connection.execute(text("SELECT 1"))


class WordRow(Base):
    """A table of this module alone."""

    metadata = MetaData()
    __tablename__ = "words"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    word: Mapped[str] = mapped_column(Text)


@pytest.fixture
def words(empty_database: Database) -> Database:
    with transaction(empty_database.engine()) as connection:
        connection.execute(text("CREATE TABLE words (id bigint PRIMARY KEY, word text)"))
    return empty_database


@pytest.mark.parametrize("word", ["a\0b", "a\udc00b"])
def test_text_that_postgres_cannot_hold_is_refused_by_name_wherever_it_goes_in(words, word):
    row = {"id": 1, "word": word}
    find = select(WordRow).where(WordRow.word == word)
    for give in (
        lambda orm: orm.execute(text("INSERT INTO words VALUES (:id, :word)"), row),
        lambda orm: orm.add(WordRow(**row)),
        lambda orm: orm.scalars(find).all(),
        lambda orm: orm.execute(
            text("INSERT INTO words VALUES (:id, :word)"), [{"id": 2, "word": "b"}, row]
        ),
        lambda orm: copy_rows(orm.connection(), WordRow, [{"id": 2, "word": "b"}, row]),
    ):
        with pytest.raises(CounterfoilError) as caught, session(words.engine()) as orm:
            give(orm)
        assert caught.value.code is Code.MALFORMED
        if "\0" in word:
            assert "word" in caught.value.detail
    with transaction(words.engine()) as connection:
        assert connection.scalar(text("SELECT count(*) FROM words")) == 0
