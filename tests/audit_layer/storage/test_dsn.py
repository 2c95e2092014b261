"""Connection strings: read, written and never repeated in a message."""

import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_layer.storage import dsn
from shared.runtime.errors import Code, CounterfoilError

word = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@settings(max_examples=60)
@given(
    user=word,
    password=word,
    database=word,
    host=st.sampled_from(["/tmp/a b/100%/socket", "db.example", "10.0.0.1", "::1"]),
)
def test_what_is_written_is_what_libpq_reads(user, password, database, host):
    written = dsn.make_dsn(user, password, database, host=host, port=6543)
    read = dsn.parse_dsn(written)
    assert (read["user"], read["password"], read["dbname"]) == (user, password, database)
    assert (read["host"], read["port"]) == (host, "6543")
    assert dsn.password_of(written) == password
    assert dsn.parse_dsn(dsn.on_database(written, "acme 100%"))["dbname"] == "acme 100%"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:p%40@h:5/d",
        "postgres://u:p%40@h:5/d",
        "postgresql+psycopg://u:p%40@h:5/d\n",
        "postgres+psycopg2://u:p%40@h:5/d",
        "PostgreSQL://u:p%40@h:5/d",
        "sqla+postgresql+psycopg://u:p%40@h:5/d",
        "user=u password='p@' host=h port=5 dbname=d",
        "postgresql:///d?user=u&password=p%40&host=h&port=5",
    ],
)
def test_every_spelling_is_understood(text):
    read = dsn.parse_dsn(text)
    names = ("user", "password", "host", "port", "dbname")
    assert [read[name] for name in names] == ["u", "p@", "h", "5", "d"]
    assert dsn.is_postgres(text)


def test_several_hosts_stay_several():
    for ports in ("5,6", "5"):
        written = dsn.on_database(f"postgresql://u:p@/d?host=h1,h2&port={ports}", "e")
        read = dsn.parse_dsn(written)
        assert (read["host"], read["port"], read["dbname"]) == ("h1,h2", ports, "e")
    read = dsn.parse_dsn("postgresql://u:p@h1:5,h2:6/d?target_session_attrs=read-write")
    assert (read["host"], read["port"]) == ("h1,h2", "5,6")


def test_tls_settings_move_with_the_database_name():
    other = dsn.on_database("postgresql://u:p@h/d?sslmode=verify-full&sslrootcert=/ca.pem", "e")
    read = dsn.parse_dsn(other)
    assert (read["dbname"], read["sslmode"], read["sslrootcert"]) == ("e", "verify-full", "/ca.pem")


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:hunter2@[::1/d",
        "postgresql://u:hun@hunter2@h/d",
        "postgresql://u:hun/hunter2@h/d",
        "postgresql://u:hunter2%zz@h/d",
        "postgresql://u:hunter2%00@h/d",
        "postgresql://u:hunter2\0@h/d",
        "postgresql://u:hunter2\udcff@h/d",
        "postgresql://u:hunter2@h:port/d",
        "postgresql://u:hunter2@h:70000/d",
        "postgresql://u:hunter2@h1:1,h2:2,h3/d?port=1,2",
        "postgresql://u:hunter2@h/d?no_such=1",
        "mysql://u:hunter2@h/d",
        "hunter2",
    ],
)
def test_a_dsn_that_cannot_be_read_is_not_repeated(text):
    with pytest.raises(CounterfoilError) as caught:
        dsn.parse_dsn(text)
    assert caught.value.code is Code.CONFIGURATION
    shown = "".join(traceback.format_exception(caught.value)).replace(repr(text)[1:-1], "")
    assert "hunter2" not in shown
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "%40" in (caught.value.remedy or "")


def test_a_secret_file_is_closed_from_the_first_moment(tmp_path):
    path = tmp_path / "x.dsn"
    dsn.write_dsn_file(path, "postgresql://u:p@h/d")
    dsn.write_dsn_file(path, "postgresql://u:q@h/d")
    assert path.stat().st_mode & 0o777 == 0o600
    assert dsn.password_of(dsn.read_dsn_file(path)) == "q"


@pytest.mark.parametrize("content", ["", " \n", "not a dsn", "x" * 5000, b"\xff\xfe"])
def test_a_file_that_holds_no_dsn_is_refused(tmp_path, content):
    path = tmp_path / "x.dsn"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(0o600)
    with pytest.raises(CounterfoilError) as caught:
        dsn.read_dsn_file(path)
    assert caught.value.code is Code.CONFIGURATION


def test_a_file_that_others_can_read_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / "x.dsn"
    path.write_text("postgresql://u:p@h/d")
    path.chmod(0o644)
    with pytest.raises(CounterfoilError, match="chmod 600"):
        dsn.read_dsn_file(path)


def test_the_file_given_wins_over_the_environment_and_nothing_is_an_error(tmp_path, monkeypatch):
    for name in (dsn.ENV_FILE, dsn.ENV_URL):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(CounterfoilError, match="No database is configured"):
        dsn.find_dsn()
    monkeypatch.setenv(dsn.ENV_URL, "postgresql://url@h/d")
    assert "url@" in dsn.find_dsn()
    for name in ("named", "given"):
        dsn.write_dsn_file(tmp_path / name, f"postgresql://{name}@h/d")
    monkeypatch.setenv(dsn.ENV_FILE, str(tmp_path / "named"))
    assert "named@" in dsn.find_dsn()
    assert "given@" in dsn.find_dsn(tmp_path / "given")
