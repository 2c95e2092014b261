"""The search for plaintext finds it wherever it is planted: only so does it mean something when it finds none."""

import base64
import json
import os
import resource
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile

import psycopg
import pytest

from shared.codec import cbor
from tests.plaintext.places import files, found, held_open, rows
from tests.plaintext.spelling import numbered, spelled

CORE = "4b1f90c7d2a86e35"
MARK = f'Zügelmarke "{CORE}" über'
TOKENS = [17, 300, 70_000, 5, 1021, 24, 255, 256]
WHOLE = spelled(MARK)
NEEDLES = WHOLE | {f"core, {name}": form for name, form in spelled(CORE).items()}
"""No letter of the core is escaped anywhere, so it is found under two encodings, too."""
AROUND = "before " * 5 + MARK + " after" * 5

WRITTEN = {
    "utf-8": AROUND.encode(),
    "utf-16-le": AROUND.encode("utf-16-le"),
    "utf-16-be": AROUND.encode("utf-16-be"),
    "hex": AROUND.encode().hex().encode(),
    "HEX": AROUND.encode().hex().upper().encode(),
    "json": json.dumps({"said": AROUND}).encode(),
    "json in utf-8": json.dumps({"said": AROUND}, ensure_ascii=False).encode(),
    "json in json": json.dumps({"line": json.dumps({"said": AROUND})}).encode(),
    "percent": b"GET /?q=" + b"Z%C3%BCgelmarke%20%224b1f90c7d2a86e35%22%20%C3%BCber",
    "repr": repr(AROUND.encode()).encode(),
    **{
        f"{name} at {at}": encode(b"." * at + MARK.encode() + b"...")
        for at in range(3)
        for name, encode in (
            ("base64", base64.b64encode),
            ("base64url", base64.urlsafe_b64encode),
        )
    },
}
LISTED = {
    "CBOR": cbor.encode({"output": [1, *TOKENS, 2]}),
    "JSON": json.dumps([1, *TOKENS, 2]).encode(),
    "JSON without spaces": json.dumps([1, *TOKENS, 2], separators=(",", ":")).encode(),
    "lines": "\n".join(map(str, TOKENS)).encode(),
    "integers <I": struct.pack("<8I", *TOKENS),
    "integers <Q": struct.pack("<8Q", *TOKENS),
    "integers >I": struct.pack(">8I", *TOKENS),
    "integers >Q": struct.pack(">8Q", *TOKENS),
}
CRASHES = "import os, sys; text = sys.stdin.read(); print(flush=True); os.abort()"


def test_no_encoding_that_is_looked_for_is_left_untried():
    assert set(WRITTEN) >= set(WHOLE)
    assert set(LISTED) >= set(numbered(TOKENS))


@pytest.mark.parametrize("encoding", WRITTEN)
def test_a_text_is_found_in_every_encoding(tmp_path, encoding):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"\0\xff" * 100 + WRITTEN[encoding])
    assert found(files(tmp_path), WHOLE)


@pytest.mark.parametrize("encoding", LISTED)
def test_tokens_are_found_in_every_encoding(tmp_path, encoding):
    (tmp_path / "file").write_bytes(LISTED[encoding])
    assert found(files(tmp_path), numbered(TOKENS))


def test_nothing_is_found_where_nothing_is(tmp_path):
    (tmp_path / "file").write_bytes(b"Z\xc3\xbcgelmarke, but not that one; [17, 300, 5]")
    assert found(files(tmp_path), NEEDLES | numbered(TOKENS)) == []


def test_a_files_name_is_searched(tmp_path):
    (tmp_path / MARK).mkdir()
    assert found(files(tmp_path), NEEDLES)


def test_what_only_the_write_ahead_log_of_sqlite_holds_is_found(tmp_path):
    database = sqlite3.connect(tmp_path / "kept.sqlite")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE t (said TEXT)")
    database.execute("INSERT INTO t VALUES (?)", (AROUND,))
    database.commit()
    where = found(files(tmp_path), NEEDLES)
    database.close()
    assert any("-wal" in place for place in where)


def test_a_file_without_a_name_is_found_by_the_process_that_holds_it(tmp_path):
    (tmp_path / "searched").mkdir()
    with tempfile.TemporaryFile(dir=tmp_path / "searched") as file:
        file.write(AROUND.encode())
        file.flush()
        assert found(held_open(os.getpid(), tmp_path / "searched"), NEEDLES)


def test_a_row_that_the_server_compresses_and_a_message_to_the_broker_are_found(database, postgres):
    long = AROUND + " and so on" * 20_000
    body = base64.b64encode(json.dumps({"args": [AROUND]}).encode()).decode()
    with psycopg.connect(database.broker_dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT %s AS said", (long,))
        connection.execute("CREATE TABLE raw AS SELECT %s::bytea AS r", (long.encode(),))
        connection.execute("CREATE TABLE told AS SELECT %s::jsonb AS t", (json.dumps([long]),))
        connection.execute("CREATE TABLE kombu_message AS SELECT %s AS payload", (body,))
        broker = connection.info.dbname
    where = found(rows(postgres.embedded.admin_dsn, [broker]), NEEDLES)
    for table in ("kept", "raw", "told", "kombu_message"):
        assert any(f"public.{table}:" in place for place in where), where


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_CORE)[1] == 0, reason="this machine writes no core dumps"
)
def test_a_core_dump_is_found(tmp_path):
    def dumps() -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))

    ended = subprocess.run(
        [sys.executable, "-c", CRASHES],
        input=AROUND.encode(),
        cwd=tmp_path,
        check=False,
        preexec_fn=dumps,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert ended.returncode == -signal.SIGABRT
    assert found(files(tmp_path), NEEDLES)
