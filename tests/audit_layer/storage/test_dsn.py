"""Connection strings: read, written and never repeated in a message."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import make_url

from audit_layer.storage import dsn
from shared.runtime.errors import Code, CounterfoilError

word = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@settings(max_examples=60)
@given(password=word, host=st.sampled_from(["/tmp/a b/socket", "db.example", "10.0.0.1"]))
def test_what_is_written_is_what_libpq_and_sqlalchemy_read(password, host):
    written = dsn.make_dsn("role", password, "counterfoil", host=host, port=6543)
    read = dsn.parse_dsn(written)
    assert (read["user"], read["password"], read["dbname"]) == ("role", password, "counterfoil")
    assert (read["host"], str(read["port"])) == (host, "6543")
    assert dsn.password_of(written) == password
    url = make_url(dsn.sqlalchemy_url(written))
    assert (url.username, url.password, url.database) == ("role", password, "counterfoil")
    assert url.query["host"] == host


def test_every_common_form_is_understood():
    for text in (
        "postgresql://u:p@h:5/d",
        "postgresql+psycopg://u:p@h:5/d\n",
        "user=u password=p host=h port=5 dbname=d",
    ):
        read = dsn.parse_dsn(text)
        assert (read["user"], read["password"], read["host"], read["dbname"]) == (
            "u",
            "p",
            "h",
            "d",
        )


def test_tls_settings_move_with_the_database_name():
    other = dsn.on_database("postgresql://u:p@h/d?sslmode=verify-full&sslrootcert=/ca.pem", "e")
    read = dsn.parse_dsn(other)
    assert (read["dbname"], read["sslmode"], read["sslrootcert"]) == ("e", "verify-full", "/ca.pem")


def test_a_dsn_that_cannot_be_read_is_not_repeated():
    with pytest.raises(CounterfoilError) as caught:
        dsn.parse_dsn("postgresql://u:hunter2@[::1/d")
    assert caught.value.code is Code.CONFIGURATION
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


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
