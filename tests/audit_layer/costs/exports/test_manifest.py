"""A manifest vouches for exactly one file under exactly one key."""

import json
import subprocess
from dataclasses import fields

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_layer.costs.exports.focus_columns import FOCUS_1_2
from audit_layer.costs.exports.focus_rows import row_of
from audit_layer.costs.exports.formats import Format
from audit_layer.costs.exports.manifest import TYPE, Manifest, beside, read_manifest, signed, verify
from audit_layer.costs.exports.writing import write_table
from shared.runtime.errors import Code, CounterfoilError
from tests.audit_layer.costs.exports.made import ABOUT, charge

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)


@pytest.fixture
def export(tmp_path):
    path = tmp_path / "a.csv"
    write_table(path, Format.FOCUS_1_2_CSV, FOCUS_1_2, map(row_of, [charge()]), ABOUT, KEY)
    return path


def code_of(call, *arguments, **named):
    with pytest.raises(CounterfoilError) as caught:
        call(*arguments, **named)
    return caught.value.code


@pytest.mark.parametrize("change", [b"", b"x", b"\n"])
def test_a_changed_file_fails(export, change):
    data = export.read_bytes()
    export.write_bytes(data + change if change else data[:-1])
    assert code_of(verify, export, KEY.public_key()) is Code.COMMITMENT_MISMATCH


def test_a_digit_changed_in_place_fails(export):
    data = export.read_bytes()
    export.write_bytes(data.replace(b"0.00072", b"0.00071", 1))
    assert code_of(verify, export, KEY.public_key()) is Code.COMMITMENT_MISMATCH


@pytest.mark.parametrize("field", [field.name for field in fields(Manifest)])
def test_a_manifest_changed_in_any_field_fails(export, field):
    document = json.loads(beside(export).read_text())
    value = document["manifest"][field]
    changed = {
        "sha256": "0" * 64, "size": 5, "rows": 2, "totals": {"EUR": {"Usage": "0.00073"}},
    }.get(field, f"{value}x")  # fmt: skip
    document["manifest"][field] = changed
    beside(export).write_text(json.dumps(document))
    assert code_of(verify, export, KEY.public_key()) is Code.BAD_SIGNATURE


def test_another_key_is_not_trusted_and_its_name_cannot_be_borrowed(export):
    assert code_of(verify, export, OTHER.public_key()) is Code.UNTRUSTED_KEY
    document = json.loads(beside(export).read_text())
    document["key"] = OTHER.public_key().public_bytes_raw().hex()
    data = json.dumps(document).encode()
    assert code_of(read_manifest, data, OTHER.public_key()) is Code.BAD_SIGNATURE


def test_another_type_of_document_is_no_manifest(export):
    document = json.loads(beside(export).read_text())
    document["manifest"]["type"] = "counterfoil/v1/something"
    assert code_of(read_manifest, json.dumps(document).encode(), KEY.public_key()) is Code.MALFORMED


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"manifest": {}, "key": "", "signature": ""}',
        b"[" * 10**5,
    ],
)
def test_what_is_no_manifest_is_malformed(data):
    assert code_of(read_manifest, data, KEY.public_key()) is Code.MALFORMED


@settings(deadline=None)
@given(st.data())
def test_no_changed_byte_gives_another_manifest(data):
    whole = signed(
        Manifest("a", "0" * 64, 1, 2, {"EUR": {"Usage": "1.0"}}, "D", "1", "gl-csv", "s", "e", "c"),
        KEY,
    )
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:place] + bytes([data.draw(st.integers(0, 255))]) + whole[place + 1 :]
    try:
        found = read_manifest(changed, KEY.public_key())
    except CounterfoilError:
        return
    assert found == read_manifest(whole, KEY.public_key())


def test_a_missing_manifest_or_file_is_named(export, tmp_path):
    assert code_of(verify, tmp_path / "none.csv", KEY.public_key()) is Code.CONFIGURATION
    manifest = beside(export)
    moved = export.rename(tmp_path / "b.csv")
    assert verify(moved, KEY.public_key(), manifest=manifest).file == "a.csv"


def test_openssl_verifies_the_signature_over_the_canonical_text(export, tmp_path):
    """Another implementation needs JSON with sorted keys and without spaces, and Ed25519."""
    document = json.loads(beside(export).read_text())
    assert document["manifest"]["type"] == TYPE
    text = json.dumps(
        document["manifest"], sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    (tmp_path / "text").write_text(text)
    (tmp_path / "sig").write_bytes(bytes.fromhex(document["signature"]))
    (tmp_path / "key").write_bytes(
        KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    command = [
        "openssl",
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        "key",
        "-rawin",
        "-in",
        "text",
        "-sigfile",
        "sig",
    ]
    assert subprocess.run(command, check=False, cwd=tmp_path, capture_output=True).returncode == 0
